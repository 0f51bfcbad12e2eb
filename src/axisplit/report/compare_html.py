"""A comparison in a notebook: the ways as a table, each one's steps as drawings on request, the best one drawn.

Everything is in the markup itself (no script, no id, no style sheet), in the notebook's own colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

from axisplit.lesson.setting import Setting, Value, value_of
from axisplit.lesson.ways import Compute, collect_bytes
from axisplit.report.compare import groups_of
from axisplit.report.drawing import Edge, Matrix, Part, expression_svg
from axisplit.report.text import bytes_text, clean
from axisplit.solve.states import PARTIAL

if TYPE_CHECKING:
    from axisplit.lesson.compare import Comparison, Strategy

_CELL = 'style="padding:.3em .8em .3em 0;vertical-align:top;text-align:left"'
_NARROW = _CELL.replace("vertical", "white-space:nowrap;vertical")
_LARGEST = 144.0  # px of the longest side


def comparison_html(found: Comparison) -> str:
    """The whole comparison."""
    parts = [f"<h4>{_text(found.formula.text)} over {found.setting.ranks} ranks</h4>"]
    for title, strategies in groups_of(found):
        rows = "".join(_row(found, strategy) for strategy in strategies)
        parts.append(f"<h5>{_text(title.capitalize())}</h5><table><tbody>{rows}</tbody></table>")
    if found.best is not None:
        parts.append(f"<h5>Best: {_text(found.best.name)}</h5>{way_html(found, found.best)}")
    return f'<div class="axisplit-comparison">{"".join(parts)}</div>'


def _row(found: Comparison, strategy: Strategy) -> str:
    mark = "★ best" if strategy is found.best else "✓ right" if strategy.valid else "✗ wrong"
    count = len(strategy.collectives)
    moved = f"{bytes_text(strategy.comm_bytes)}<br>{count} collective{'s' * (count != 1)}"
    steps = " → ".join(_text(step) for step in strategy.steps)
    told = (
        f"<details><summary>{_text(strategy.name)}</summary>{way_html(found, strategy)}</details>"
        f'<span style="opacity:.75">{steps}</span><br>{_text(strategy.reason)}'
    )
    return f"<tr><td {_NARROW}>{mark}</td><td {_NARROW}>{moved}</td><td {_CELL}>{told}</td></tr>"


def way_html(found: Comparison, strategy: Strategy) -> str:
    """Each step of a way as a drawing: what every rank reads and makes, and what is exchanged."""
    drawn = "".join(f'<div style="margin:.6em 0;overflow-x:auto">{svg}</div>' for svg in way_drawings(found, strategy))
    return f"<div>{drawn}</div>"


def way_drawings(found: Comparison, strategy: Strategy) -> Iterator[str]:
    """One SVG for each step; all of them to one scale."""
    setting = found.setting
    sizes = [size for value in (*setting.shapes, *range(len(found.formula.ops))) for size in _flat(setting, value)]
    scale = _LARGEST / max(sizes)
    for action in strategy.judged.way:
        if isinstance(action, Compute):
            op = found.formula.ops[action.op]
            operands = [value_of(operand) for operand in op.operands]
            read = [matrix(setting, v, s) for v, s in zip(operands, action.run.inputs, strict=True)]
            made = matrix(setting, action.op, action.run.output)
            yield expression_svg([*_between(op.word, read), "=", made], scale)
        else:
            moves = f"{action.word}, {bytes_text(collect_bytes(setting, action))} →"
            before, after = (matrix(setting, action.op, state) for state in (action.source, action.target))
            yield expression_svg([before, moves, after], scale)


_SIGNS = {"matmul": "@", "add": "+", "subtract": "−", "multiply": "×"}


def _between(word: str, read: Sequence[Matrix]) -> list[Matrix | str]:
    return [read[0], _SIGNS[word], read[1]] if len(read) == 2 else [word, *read]


def matrix(setting: Setting, value: Value, state: str) -> Matrix:
    """A value as the ranks hold it; of more than two dims the last against all others."""
    rows, cols = _flat(setting, value)
    *outer, last = setting.dim_letters(value) or [""]
    name = clean(value if isinstance(value, str) else setting.formula.ops[value].text)
    plain = Matrix(name, rows, cols, setting.ranks, row_edge=_edge(outer), col_edge=_edge([last]))
    if state == PARTIAL:
        return replace(plain, partial=True)
    if state[0] != "S":
        return plain
    found = setting.ranges(value, state)
    assert found is not None
    (dim, ranges), shape = found, setting.shape(value)
    if dim == len(shape) - 1:
        return replace(plain, parts=tuple(Part(((0, rows),), (span,)) for span in ranges))
    return replace(plain, parts=tuple(Part(_rows(shape, dim, span), ((0, cols),)) for span in ranges))


def _edge(letters: Sequence[str]) -> Edge | None:
    text = " ".join(letter for letter in letters if letter)
    return Edge(text) if text else None


def _flat(setting: Setting, value: Value) -> tuple[int, int]:
    shape = setting.shape(value) or (1,)
    return math.prod(shape[:-1]), shape[-1]


def _rows(shape: Sequence[int], dim: int, span: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """The rows, all dims but the last counted together, in which a dim's index lies in a range."""
    inner, outer = math.prod(shape[dim + 1 : -1]), math.prod(shape[:dim])
    start, end = span
    return tuple((inner * (o * shape[dim] + start), inner * (o * shape[dim] + end)) for o in range(outer))


def _text(text: str) -> str:
    return escape(clean(text))
