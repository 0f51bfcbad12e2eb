"""Everything a page shows of a plan, as plain data: the same rows and figures as the terminal's table (report.table).

Names are cleaned of unseen characters here, and escaped by the template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from axisplit.report.colours import Colour, rank_colours
from axisplit.report.drawing import Edge, Matrix, strip_svg
from axisplit.report.fold import Blocks
from axisplit.report.moves import Row as TrafficRow
from axisplit.report.moves import Traffic, traffic_shown
from axisplit.report.page.figures import details, draw_row, is_upright, matrix_of
from axisplit.report.page.layout import Item, Leaf, Row, lay_out
from axisplit.report.page.moves import Move, Places
from axisplit.report.table import axis_rows, edit_rows, facts, kept_whole_entries, size_rows, split_dims, tier_rows
from axisplit.report.text import clean
from axisplit.solve.plan import ParameterPlan, Plan, Ranges


@dataclass(frozen=True)
class AxisView:
    """A row of the legend; `key` marks the axis wherever it appears on the page."""

    key: str
    word: str
    size: str
    parts: str
    where: str
    strip: str


@dataclass(frozen=True)
class FigureView:
    """A parameter that is drawn; `number` finds its details."""

    name: str
    number: int
    svg: str
    axis: str


@dataclass(frozen=True)
class PillView:
    """A parameter that is only named: a vector that every rank holds whole."""

    name: str
    number: int
    note: str


@dataclass(frozen=True)
class MoveView:
    """A collective between drawings; `at` names the module where no drawing does."""

    move: Move
    at: str


@dataclass(frozen=True)
class RowView:
    """Modules side by side, what moves between them, and what of them is only named."""

    label: str
    drawn: tuple[FigureView | MoveView, ...]
    pills: tuple[PillView, ...]

    @property
    def quiet(self) -> bool:
        """Whether nothing is drawn in it: it takes one line."""
        return not any(isinstance(shape, FigureView) for shape in self.drawn)


@dataclass(frozen=True)
class StackView:
    """Alike blocks, the first one drawn."""

    label: str
    first: int
    last: int
    count: int
    items: tuple[Any, ...]


@dataclass(frozen=True)
class RankView:
    """What one rank holds."""

    rank: int
    bytes: int
    share: float
    width: float  # percent of the most loaded rank's
    colour: Colour


@dataclass(frozen=True)
class TrafficView:
    """The table of collectives: (kind, where, (calls, bytes) of each phase), and their sums."""

    phases: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[tuple[int, float], ...]], ...]
    sums: tuple[tuple[int, float], ...]
    same: tuple[str, ...]


_Shape = tuple[ParameterPlan, Matrix] | MoveView | PillView


@dataclass
class _Drawn:
    """What is known while a plan is drawn: details by number, in the order of the page."""

    plan: Plan
    edges: Mapping[str, Edge]
    places: Places
    details: list[dict[str, Any]] = field(default_factory=list)
    told: set[str] = field(default_factory=set)

    def number(self, p: ParameterPlan) -> int:
        self.details.append(details(p, self.plan.ranks, self.plan.tied.get(p.name, "")))
        return len(self.details) - 1


@dataclass(frozen=True)
class View:
    """A page."""

    plan: Plan
    model: str
    facts: tuple[str, ...]
    inputs: str
    first_phase: str
    decode_bytes: float | None
    axes: tuple[AxisView, ...]
    items: tuple[Any, ...]
    left: tuple[Move, ...]
    ranks: tuple[RankView, ...]
    kept: tuple[tuple[str, str, tuple[int, ...]], ...]
    traffic: TrafficView
    tiers: Sequence[tuple[str, str, str]]
    edits: Sequence[tuple[str, str, str]]
    sizes: Sequence[tuple[str, str, str]]
    details: tuple[dict[str, Any], ...]


def view_of(plan: Plan) -> View:
    """Everything a page shows of the plan."""
    blocks = Blocks(p.name for p in plan.parameters)
    axes = _axes(plan, blocks)
    drawn = _Drawn(plan, _edges(plan, blocks), Places(plan))
    keys = {name: edge.key for name, edge in drawn.edges.items()}
    items = tuple(_item(item, drawn) for item in lay_out(_with_tied(plan), keys))
    first = plan.collectives[0].phase if plan.collectives else ""
    decode = [c.bytes for c in plan.collectives if c.phase == "decode"]
    return View(
        plan=plan,
        model=_short_name(clean(plan.model)),
        facts=(*([clean(plan.model)] if _short_name(clean(plan.model)) != clean(plan.model) else []), *facts(plan)),
        inputs=_inputs(plan),
        first_phase=clean(first),
        decode_bytes=sum(decode) if decode else None,
        axes=axes,
        items=items,
        left=tuple(drawn.places.left),
        ranks=_ranks(plan),
        kept=tuple((name, reason, tuple(sizes)) for (name, reason), sizes in kept_whole_entries(plan, blocks)),
        traffic=_traffic(plan, blocks),
        tiers=tier_rows(plan, blocks),
        edits=edit_rows(plan, blocks),
        sizes=size_rows(plan, blocks),
        details=tuple(drawn.details),
    )


def _short_name(model: str) -> str:
    """A model's name as a title: of a path the last two parts.

    >>> _short_name("org/name"), _short_name("/home/me/models/llama/config.json")
    ('org/name', 'llama/config.json')
    """
    return "/".join([part for part in model.split("/") if part][-2:]) if model.count("/") > 1 else model


def _inputs(plan: Plan) -> str:
    """Names and shapes of the first phase's inputs."""
    first = next(iter(plan.sizes), "").partition(":")[0]
    named = [(k.partition(":")[2], v) for k, v in plan.sizes.items() if k.partition(":")[0] == first]
    return clean(", ".join(f"{'input ' if name.isdigit() else ''}{name} {shape}" for name, shape in named))


# --- axes ---------------------------------------------------------------------------------------------------------


def _axes(plan: Plan, blocks: Blocks) -> tuple[AxisView, ...]:
    views = []
    for number, ((word, size, parts, where), names) in enumerate(axis_rows(plan, blocks).items()):
        shown = where.replace("\u00a0", " ")
        views.append(AxisView(f"a{number}", word, size, parts, shown, _strip(plan, names[0])))
    return tuple(views)


def _strip(plan: Plan, axis: str) -> str:
    """An axis as its shortest parameter dim is cut; none where no parameter has it."""
    dims = [(p.shape[dim], dim, p) for p in plan.parameters if p.axis == axis for dim in split_dims(p)]
    if not dims:
        return ""
    size, dim, p = min(dims, key=lambda found: found[0])
    held: list[Ranges] = [ranges[dim] for ranges in p.ranges]
    return strip_svg(size, held)


def _edges(plan: Plan, blocks: Blocks) -> dict[str, Edge]:
    rows = axis_rows(plan, blocks).items()
    return {name: Edge(row[0], f"a{number}") for number, (row, names) in enumerate(rows) for name in names}


# --- the model ----------------------------------------------------------------------------------------------------


def _with_tied(plan: Plan) -> list[ParameterPlan]:
    """The parameters, and those that are another one under a second name."""
    own = {p.name: p for p in plan.parameters}
    tied = [replace(own[other], name=name) for name, other in plan.tied.items() if other in own and name not in own]
    return [*plan.parameters, *tied]


def _item(item: Item, drawn: _Drawn) -> RowView | StackView:
    if isinstance(item, Row):
        return _row(item, drawn)
    items = tuple(_item(inner, drawn) for inner in item.items)
    return StackView(clean(item.label), item.first, item.last, item.count, items)


def _row(row: Row, drawn: _Drawn) -> RowView:
    shapes: list[_Shape] = []
    for leaf in row.leaves:
        found = _leaf(leaf, drawn)
        shapes += found
        named = not any(isinstance(item, tuple) for item in found)
        at = clean(leaf.path.rpartition(".")[2]) if named else ""
        shapes += [MoveView(move, at) for move in drawn.places.at(leaf.path)]
        for p in leaf.parameters:
            name = clean(".".join(p.name.split(".")[-2:]))
            shapes += [MoveView(move, name) for move in drawn.places.at(p.name)]
    if row.path not in drawn.told:  # what the parent's own code moves is said in its first row
        drawn.told.add(row.path)
        shapes += [MoveView(move, f"in {clean(row.path.rpartition('.')[2])}") for move in drawn.places.at(row.path)]
    svgs = iter(draw_row([item[1] for item in shapes if isinstance(item, tuple)]))
    views = tuple(
        _figure(item[0], next(svgs), drawn) if isinstance(item, tuple) else item
        for item in shapes
        if not isinstance(item, PillView)
    )
    return RowView(clean(row.label), views, tuple(item for item in shapes if isinstance(item, PillView)))


def _leaf(leaf: Leaf, drawn: _Drawn) -> list[_Shape]:
    found: list[_Shape] = []
    for p in leaf.parameters:
        if split_dims(p) or (len(p.shape) > 1 and p.kind == "parameter"):
            upright = len(p.shape) > 1 or is_upright(p, leaf.parameters)
            matrix = matrix_of(p, drawn.plan.ranks, drawn.edges, upright)
            name = f"{matrix.name} (tied)" if p.name in drawn.plan.tied else matrix.name
            found.append((p, replace(matrix, name=name)))
        else:
            note = "on rank 0" if p.held == "first" else "buffer" if p.kind == "buffer" else ""
            found.append(PillView(clean(".".join(p.name.split(".")[-2:])), drawn.number(p), note))
    return found


def _figure(p: ParameterPlan, svg: str, drawn: _Drawn) -> FigureView:
    edge = drawn.edges.get(p.axis)
    return FigureView(clean(p.name), drawn.number(p), svg, edge.key if edge and split_dims(p) else "")


# --- figures ------------------------------------------------------------------------------------------------------


def _ranks(plan: Plan) -> tuple[RankView, ...]:
    sizes, total, colours = plan.bytes_per_rank, plan.total_bytes, rank_colours(plan.ranks)
    most = max([1, *sizes])
    return tuple(
        RankView(rank, size, size / total if total else 0.0, 100 * size / most, colours[rank])
        for rank, size in enumerate(sizes)
    )


def _traffic(plan: Plan, blocks: Blocks) -> TrafficView:
    shown, same = traffic_shown(plan, blocks)
    places: list[TrafficRow] = list(dict.fromkeys(row for moved in shown.values() for row in moved))
    rows = tuple((kind, where, _cells(shown, (kind, where))) for kind, where in places)
    sums = tuple((sum(n for n, _ in moved.values()), sum(b for _, b in moved.values())) for moved in shown.values())
    return TrafficView(tuple(map(clean, shown)), rows, sums, tuple(map(clean, same)))


def _cells(shown: Mapping[str, Traffic], row: TrafficRow) -> tuple[tuple[int, float], ...]:
    return tuple(moved.get(row, (0, 0.0)) for moved in shown.values())
