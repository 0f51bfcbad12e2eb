"""Matrices drawn to scale as SVG, each rank's part in its colour, and expressions of them (`X @ W1`).

What is drawn stands alone: no id (several may be on one page), no style sheet, lines and letters in the surrounding
text's colour. A page may restyle it through the classes (`part r0`, `whole`, `edge`, `name` ...).

    matrix              a Matrix: sizes, what each rank holds of rows and columns, names of the axes along its edges
    matrix_svg          one of them
    expression_svg      a row of them with operators between, all to one scale

Held by several ranks: the part is banded in their colours. A value of which each rank has a summand (`partial`) is
drawn as sheets one behind the other; a whole one is grey.

>>> both = expression_svg([whole("X", 4, 2), "@", by_columns("W1", 2, 8, ranks=2)])
>>> both.count("<svg"), 'aria-label="X, 4 × 2, whole on every rank @ W1, 2 × 8, rank 0: columns 0:4' in both
(1, True)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby, pairwise

from axisplit.report.colours import Colour, rank_colours
from axisplit.report.text import clean
from axisplit.solve.splits import even_ranges

Ranges = tuple[tuple[int, int], ...]
LONGEST, SHORTEST, VECTOR = 136.0, 16.0, 9.0  # px of an expression's longest side, the least of any, across a vector
_GAP, _FONT, _SMALL, _CHAR = 10.0, 12.0, 10.5, 0.62  # px; width of a monospaced letter as a share of its size
_EDGE, _SHEET, _CELL = 7.0, 5.0, 34.0  # px from a side to its dimension line, between sheets, of a cell with a number
_WIDE_SHEET = 9.0
_MOST_CUTS, _MOST_SHEETS = 160, 12


@dataclass(frozen=True)
class Part:
    """Index ranges of rows and columns that one rank holds; an empty tuple: none."""

    rows: Ranges
    cols: Ranges


@dataclass(frozen=True)
class Edge:
    """What is written along a side: an axis's word, and what finds it on a page (`data-axis`)."""

    text: str
    key: str = ""


@dataclass(frozen=True)
class Matrix:
    """A matrix [rows, cols], or a stack of them, as it is distributed.

    parts: of each rank; none where every rank holds all.
    partial: every rank holds a summand of it.
    depth: owners of each sheet of a stack, front first: a stack is not cut within its sheets.
    behind: how many more sheets there are, all cut as the first one.
    shape: the text under it; its sizes if empty.
    values: what is written in its cells, row by row (small matrices; its cells are drawn large then).
    titled: whether a piece says its rank where a pointer rests on it.
    """

    name: str
    rows: int
    cols: int
    ranks: int
    parts: tuple[Part, ...] = ()
    partial: bool = False
    depth: tuple[tuple[int, ...], ...] = ()
    behind: int = 0
    row_edge: Edge | None = None
    col_edge: Edge | None = None
    depth_edge: Edge | None = None
    shape: str = ""
    values: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    titled: bool = True


def whole(name: str, rows: int, cols: int, ranks: int = 1) -> Matrix:
    """The same on every rank."""
    return Matrix(name, rows, cols, ranks)


def by_columns(name: str, rows: int, cols: int, ranks: int, axis: str = "") -> Matrix:
    """Columns cut evenly; the first ranks hold one more where they do not divide."""
    parts = tuple(Part(((0, rows),), (span,)) for span in even_ranges(cols, ranks))
    return Matrix(name, rows, cols, ranks, parts, col_edge=Edge(axis) if axis else None)


def by_rows(name: str, rows: int, cols: int, ranks: int, axis: str = "") -> Matrix:
    """Rows cut evenly; the first ranks hold one more where they do not divide."""
    parts = tuple(Part((span,), ((0, cols),)) for span in even_ranges(rows, ranks))
    return Matrix(name, rows, cols, ranks, parts, row_edge=Edge(axis) if axis else None)


def partial(name: str, rows: int, cols: int, ranks: int) -> Matrix:
    """A summand of it on every rank."""
    return Matrix(name, rows, cols, ranks, partial=True)


def matrix_svg(matrix: Matrix, scale: float | None = None) -> str:
    """One matrix; `scale` is px for each index, by default so that its longer side is LONGEST."""
    return expression_svg([matrix], scale)


def expression_svg(items: Sequence[Matrix | str], scale: float | None = None) -> str:
    """Matrices to one scale, operators (`@`, `→`, `=`) between them, their middles on one line."""
    matrices = [item for item in items if isinstance(item, Matrix)]
    scale = scale or scale_of(matrices)
    boxes = [_box(item, scale) if isinstance(item, Matrix) else _operator(item) for item in items]
    above, below = max(box.above for box in boxes), max(box.below for box in boxes)
    drawn, x = [], 1.0
    for box in boxes:
        drawn.append(f'<g transform="translate({_px(x)} {_px(above + 1)})">{box.body}</g>')
        x += box.width + _GAP
    width, height = x - _GAP + 1, above + below + 2
    label = escape(" ".join(describe(item) if isinstance(item, Matrix) else clean(item) for item in items))
    return (
        f'<svg class="axisplit-drawing" role="img" aria-label="{label}" width="{_px(width)}" height="{_px(height)}" '
        f'viewBox="0 0 {_px(width)} {_px(height)}" font-family="ui-monospace, monospace" '
        f'fill="currentColor">{"".join(drawn)}</svg>'
    )


def strip_svg(size: int, held: Sequence[Ranges], width: float = 200.0, height: float = 16.0) -> str:
    """One dim as a strip, each rank's ranges of it in its colour.

    >>> strip_svg(3, [((0, 2),), ((2, 3),)]).count('class="part')
    2
    """
    parts = tuple(Part(((0, 1),), ranges) for ranges in held)
    matrix = Matrix("", 1, size, len(held), parts)
    label = escape("; ".join(f"rank {rank}: {ranges_text(ranges)}" for rank, ranges in enumerate(held)))
    return (
        f'<svg class="axisplit-drawing" role="img" aria-label="{label}" width="{_px(width + 2)}" '
        f'height="{_px(height + 2)}" viewBox="-1 -1 {_px(width + 2)} {_px(height + 2)}" '
        f'font-family="ui-monospace, monospace">{_face(matrix, width, height)}</svg>'
    )


def scale_of(matrices: Iterable[Matrix], longest: float = LONGEST) -> float:
    """Px for each index so that the longest side of all is `longest`; larger where numbers have to fit."""
    found = list(matrices)
    if any(matrix.values for matrix in found):
        return _CELL
    return longest / max([1, *(max(matrix.rows, matrix.cols) for matrix in found)])


def describe(matrix: Matrix) -> str:
    """The drawing in words, for those who do not see it.

    >>> describe(by_rows("W2", 9, 4, 2))
    'W2, 9 × 4, rank 0: rows 0:5; rank 1: rows 5:9'
    """
    head = f"{clean(matrix.name)}, {matrix.shape or f'{matrix.rows:,} × {matrix.cols:,}'}, "
    if matrix.partial:
        return f"{head}a summand on each of {matrix.ranks} ranks"
    if matrix.depth:
        return head + "; ".join(f"sheet {i}: {_rank_names(owners)}" for i, owners in enumerate(matrix.depth))
    if not matrix.parts:
        return f"{head}whole on every rank"
    shown = [f"rank {rank}: {part_text(matrix, part)}" for rank, part in enumerate(matrix.parts)]
    if len(shown) > 8:
        shown = [*shown[:1], "…", *shown[-1:]]
    return head + "; ".join(shown)


def part_text(matrix: Matrix, part: Part) -> str:
    """A rank's part in words: the ranges of those dims that are cut."""
    rows = "" if part.rows == ((0, matrix.rows),) else f"rows {ranges_text(part.rows)}"
    cols = "" if part.cols == ((0, matrix.cols),) else f"columns {ranges_text(part.cols)}"
    return ", ".join(text for text in (rows, cols) if text) or "all of it"


def ranges_text(ranges: Ranges, most: int = 4) -> str:
    """Ranges as `start:end`, those after the first `most` counted.

    >>> ranges_text(((0, 4), (8, 12))), ranges_text(())
    ('0:4 8:12', 'none')
    """
    shown = [f"{start}:{end}" for start, end in ranges[:most]]
    return " ".join([*shown, *([f"and {len(ranges) - most} more"] if len(ranges) > most else [])]) or "none"


def _rank_names(owners: Sequence[int]) -> str:
    return f"rank{'s' if len(owners) > 1 else ''} {', '.join(map(str, owners)) or 'none'}"


# --- one matrix ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Box:
    """Something drawn around a middle line at y = 0, from x = 0 to `width`."""

    body: str
    width: float
    above: float
    below: float


def _operator(text: str) -> _Box:
    text = clean(text)
    width = len(text) * 15 * _CHAR
    body = (
        f'<text class="operator" x="{_px(width / 2)}" y="5" font-size="15" text-anchor="middle">{escape(text)}</text>'
    )
    return _Box(body, width, 10, 10)


def _box(matrix: Matrix, scale: float) -> _Box:
    width, height = _side(matrix.cols, scale), _side(matrix.rows, scale)
    sheets = min(matrix.ranks if matrix.partial else len(matrix.depth) or matrix.behind + 1, _MOST_SHEETS)
    spread = (_step(matrix.depth) if matrix.depth else _SHEET) * max(sheets - 1, 0)
    name, shape = clean(matrix.name), matrix.shape or f"{matrix.rows:,} × {matrix.cols:,}"
    left = _left_edge(matrix, height)
    above = [edge.text for edge in (matrix.col_edge, matrix.depth_edge) if edge]
    room = max(len(name) * _FONT, *(len(text) * _SMALL for text in (shape, *above))) * _CHAR
    x = max(left.width, (room - width - spread) / 2)
    middle, top, bottom = x + (width + spread) / 2, -height / 2 - spread, height / 2
    head = _EDGE + _SMALL + 3 if matrix.col_edge or matrix.depth_edge else 0.0
    place = f"translate({_px(x)} {_px(-height / 2)})"
    body = [
        f'<g shape-rendering="crispEdges" transform="{place}">{_face(matrix, width, height)}</g>',
        f'<g transform="translate({_px(x - left.width)} 0)">{left.body}</g>',
        _top_edge(matrix, x, top, width, spread),
        _line_of_text("name", middle, top - head - 6, _FONT, name),
        _line_of_text("shape", middle, bottom + _SMALL + 4, _SMALL, shape, ' opacity="0.7"'),
    ]
    right = max(x + width + spread, middle + room / 2) + 2
    return _Box("".join(body), right, -top + head + 6 + _FONT, bottom + _SMALL + 8)


def _side(size: int, scale: float) -> float:
    return max(size * scale, VECTOR if size == 1 else SHORTEST)


def _left_edge(matrix: Matrix, height: float) -> _Box:
    """The dimension line of the rows, its word along it where that fits, else beside it."""
    edge = matrix.row_edge
    if edge is None:
        return _Box("", 0, 0, 0)
    length = len(edge.text) * _SMALL * _CHAR
    along = length <= height
    width = _EDGE + 3 + (_SMALL if along else length)
    line = width - _EDGE
    half = height / 2
    ticks = f"M{_px(line - 3)} {_px(-half)}h6M{_px(line)} {_px(-half)}v{_px(height)}M{_px(line - 3)} {_px(half)}h6"
    turn = f"translate({_px(_SMALL - 2)} 0) rotate(-90)" if along else f"translate({_px(length / 2)} {_SMALL / 3:.1f})"
    text = f'<text transform="{turn}" font-size="{_SMALL}" text-anchor="middle">{escape(clean(edge.text))}</text>'
    return _Box(_edge_group(edge, ticks, text), width, 0, 0)


def _top_edge(matrix: Matrix, x: float, top: float, width: float, spread: float) -> str:
    """The dimension line of the columns, or along the sheets of a stack."""
    if matrix.depth_edge:
        y = top + spread - _EDGE + 1
        ticks = f"M{_px(x - _EDGE)} {_px(y + 4)}l{_px(spread)} {_px(-spread)}"
        text = _line_of_text("", x + width / 2 + spread / 2, top - _EDGE, _SMALL, clean(matrix.depth_edge.text))
        return _edge_group(matrix.depth_edge, ticks, text)
    if not matrix.col_edge:
        return ""
    y = top - _EDGE
    x += spread
    ticks = f"M{_px(x)} {_px(y - 3)}v6M{_px(x)} {_px(y)}h{_px(width)}M{_px(x + width)} {_px(y - 3)}v6"
    text = _line_of_text("", x + width / 2, y - 4, _SMALL, clean(matrix.col_edge.text))
    return _edge_group(matrix.col_edge, ticks, text)


def _edge_group(edge: Edge, ticks: str, text: str) -> str:
    key = f' data-axis="{escape(edge.key)}"' if edge.key else ""
    return f'<g class="edge"{key}><path d="{ticks}" fill="none" stroke="currentColor" stroke-width="1"/>{text}</g>'


def _line_of_text(kind: str, x: float, y: float, size: float, text: str, more: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return (
        f'<text{named} x="{_px(x)}" y="{_px(y)}" font-size="{size:g}" text-anchor="middle"{more}>{escape(text)}</text>'
    )


# --- its face -----------------------------------------------------------------------------------------------------


def _face(matrix: Matrix, width: float, height: float) -> str:
    colours = rank_colours(matrix.ranks)
    if matrix.partial:
        sheets: Sequence[tuple[int, ...]] = [(rank,) for rank in range(matrix.ranks)]
        sigma = "" if matrix.values else _sign_of_sum(width, height, colours[0])
        return _stack(sheets, width, height, colours) + sigma + _values(matrix, width, height, colours[0].ink)
    if matrix.depth:
        return _stack(matrix.depth, width, height, colours, matrix.titled, numbered=True)
    if not matrix.parts:
        return _rectangle(0, 0, width, height, (), colours) + _values(matrix, width, height, "currentColor")
    behind = [
        f'<rect x="{_px(place * _SHEET)}" y="{_px(-place * _SHEET)}" width="{_px(width)}" height="{_px(height)}" '
        f'class="behind" fill="#888" fill-opacity="0.25" stroke="currentColor" stroke-width="0.75"/>'
        for place in reversed(range(1, min(matrix.behind + 1, _MOST_SHEETS)))
    ]
    body = [
        _rectangle(*cell, colours, numbered=not matrix.values, titled=matrix.titled)
        for cell in _cells(matrix, width, height)
    ]
    outline = f'<rect class="outline" width="{_px(width)}" height="{_px(height)}" fill="none" stroke="currentColor"/>'
    return "".join([*behind, *body]) + outline + _values(matrix, width, height, "")


def _stack(
    sheets: Sequence[tuple[int, ...]], width: float, height: float, colours: Sequence[Colour],
    titled: bool = True, numbered: bool = False,
) -> str:  # fmt: skip
    """Sheets one behind the other, the first in front; of very many those in between are left out."""
    shown = list(sheets)
    if len(shown) > _MOST_SHEETS:
        shown = [*sheets[: _MOST_SHEETS // 2], *sheets[-_MOST_SHEETS // 2 :]]
    step = _step(sheets) if numbered else _SHEET
    drawn = []
    for place, owners in reversed(list(enumerate(shown))):
        x, y = place * step, -place * step
        drawn.append(_rectangle(x, y, width, height, owners, colours, sheet=True, titled=titled))
        if step > _SHEET and len(owners) == 1:
            drawn.append(_number(x, y, step + 2, step, str(owners[0]), colours[owners[0]], 1))
    return "".join(drawn)


def _step(sheets: Sequence[tuple[int, ...]]) -> float:
    """Px between sheets: room for a rank's number where they are few."""
    return _WIDE_SHEET if len(sheets) <= 8 and all(max(owners, default=0) < 10 for owners in sheets) else _SHEET


def _sign_of_sum(width: float, height: float, colour: Colour) -> str:
    middle = f'x="{_px(width / 2)}" y="{_px(height / 2 + 5)}" font-size="15" text-anchor="middle"'
    return f'<text class="rank i0" {middle} fill="{colour.ink}">Σ</text>'


def _cells(matrix: Matrix, width: float, height: float) -> list[tuple[float, float, float, float, tuple[int, ...]]]:
    """(x, y, width, height, ranks that hold it) of each piece, largest pieces that have the same owners."""
    rows = _bands([part.rows for part in matrix.parts], matrix.rows)
    cols = _bands([part.cols for part in matrix.parts], matrix.cols)
    across, down = width / max(matrix.cols, 1), height / max(matrix.rows, 1)
    cells = []
    for top, bottom, in_row in rows:
        pieces = [(left, right, tuple(r for r in in_row if r in in_col)) for left, right, in_col in cols]
        for owners, run in groupby(pieces, key=lambda piece: piece[2]):
            same = list(run)
            left, right = same[0][0], same[-1][1]
            cells.append((left * across, top * down, (right - left) * across, (bottom - top) * down, owners))
    return cells


def _bands(held: Sequence[Ranges], size: int) -> list[tuple[float, float, tuple[int, ...]]]:
    """(start, end, ranks that hold it) along one dim; stripes that are too fine to see are sampled."""
    cuts = sorted({0, size, *(end for ranges in held for span in ranges for end in span)})
    if len(cuts) > _MOST_CUTS:
        cuts = [round(size * i / _MOST_CUTS) for i in range(_MOST_CUTS + 1)]
    bands = []
    for start, end in pairwise(cuts):
        middle = (start + end) // 2
        owners = tuple(rank for rank, ranges in enumerate(held) if any(a <= middle < b for a, b in ranges))
        bands.append((float(start), float(end), owners))
    return bands


def _rectangle(
    x: float, y: float, width: float, height: float, owners: tuple[int, ...], colours: Sequence[Colour],
    sheet: bool = False, numbered: bool = True, titled: bool = True,
) -> str:  # fmt: skip
    """A piece: grey where no single rank is meant, its rank's colour, or bands of several."""
    frame = ' stroke="currentColor" stroke-width="0.75"' if sheet else ""
    if not owners:
        return (
            f'<rect class="whole" x="{_px(x)}" y="{_px(y)}" width="{_px(width)}" height="{_px(height)}" '
            f'fill="currentColor" fill-opacity="0.1" stroke="currentColor"/>'
        )
    title = f"<title>{_rank_names(owners)}</title>" if titled else ""
    if len(owners) > 1:
        return f"<g>{title}{_banded(x, y, width, height, owners, colours)}</g>"
    colour = colours[owners[0]]
    rectangle = (
        f'<rect class="part r{owners[0]}" x="{_px(x)}" y="{_px(y)}" width="{_px(width)}" height="{_px(height)}" '
        f'fill="{colour.fill}"{frame}/>'
    )
    number = (
        _number(x, y, width, height, str(owners[0]), colour, len(str(len(colours) - 1)))
        if numbered and not sheet
        else ""
    )
    return f"<g>{title}{rectangle}{number}</g>" if title else rectangle + number


def _banded(x: float, y: float, width: float, height: float, owners: tuple[int, ...], colours: Sequence[Colour]) -> str:
    """Bands across the longer side, each owner twice."""
    count = 2 * len(owners)
    flat = width >= height
    size = (width if flat else height) / count
    drawn = []
    for place in range(count):
        rank = owners[place % len(owners)]
        band = (x + place * size, y, size, height) if flat else (x, y + place * size, width, size)
        drawn.append(
            f'<rect class="part r{rank}" x="{_px(band[0])}" y="{_px(band[1])}" width="{_px(band[2])}" '
            f'height="{_px(band[3])}" fill="{colours[rank].fill}"/>'
        )
        drawn.append(
            _number(*band, str(rank), colours[rank], len(str(len(colours) - 1))) if place < len(owners) else ""
        )
    return "".join(drawn)


def _number(x: float, y: float, width: float, height: float, text: str, colour: Colour, digits: int) -> str:
    """A rank's number in the middle of its piece, where a number of `digits` fits."""
    size = min(_FONT, height - 2.0, (width - 2) / (digits * _CHAR))
    if size < 7:
        return ""
    return (
        f'<text class="rank i{text}" x="{_px(x + width / 2)}" y="{_px(y + height / 2 + size * 0.36)}" '
        f'font-size="{_px(size)}" text-anchor="middle" fill="{colour.ink}">{text}</text>'
    )


def _values(matrix: Matrix, width: float, height: float, ink: str) -> str:
    """Numbers in the cells; `ink` empty: each in the ink of the rank that holds it."""
    if not matrix.values:
        return ""
    colours, owner = rank_colours(matrix.ranks), _owner_of(matrix)
    across, down = width / matrix.cols, height / matrix.rows
    drawn = []
    for row, line in enumerate(matrix.values):
        for col, text in enumerate(line):
            rank = owner(row, col)
            fill = ink or (colours[rank].ink if rank is not None else "currentColor")
            x, y = (col + 0.5) * across, (row + 0.5) * down + 4
            drawn.append(_line_of_text("value", x, y, 11, clean(text), f' fill="{fill}"'))
    return "".join(drawn)


def _owner_of(matrix: Matrix) -> Callable[[int, int], int | None]:
    def inside(ranges: Ranges, index: int) -> bool:
        return any(start <= index < end for start, end in ranges)

    def find(row: int, col: int) -> int | None:
        ranks = (r for r, part in enumerate(matrix.parts) if inside(part.rows, row) and inside(part.cols, col))
        return next(ranks, None)

    return find


def _px(value: float) -> str:
    """A length with at most one decimal, so that files stay small and the same.

    >>> _px(3.0), _px(1.26), _px(-0.01)
    ('3', '1.3', '0')
    """
    return f"{round(value, 1) + 0.0:g}" if abs(value) < 100_000 else f"{value:.0f}"
