"""The plan and the verdict as tables to look at.

`render_plan`: what is split and where, what a rank holds, what moves (moves.py), what is known of it.
`render_verdict`: EQUAL, DIFFERENT or COULD NOT, and on what grounds (verdict.py).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import groupby
from typing import TYPE_CHECKING

from axisplit.report.fold import Appearance, Blocks, axis_word, join_siblings
from axisplit.report.moves import collectives_section, optimality_section
from axisplit.report.text import bytes_text, clean, columns, hang, percent_text, shorten, unbroken
from axisplit.report.verdict import render_verdict

if TYPE_CHECKING:
    from axisplit.solve.plan import AxisPlan, ParameterPlan, Plan

__all__ = ["render_plan", "render_verdict"]

MOST_LINES, MOST_RANKS, PARTS_WIDTH, BAR_WIDTH, NAME_WIDTH = 8, 8, 32, 40, 56
AxisRow = tuple[str, str, str, str]  # word, size, parts, parameters and their dims
Row = tuple[str, str, str]
BETWEEN = "no parameter: values between a reduction and the next matrix"
_HOW = {
    "native": "converted at module boundaries",
    "attributes": "integer attributes rewritten",
    "expression": "calls inserted into forward",
    "captured": "a captured program in place of the Python",
}


def render_plan(plan: Plan) -> str:
    """The plan as text, for people."""
    blocks = Blocks(p.name for p in plan.parameters)
    sections = (
        _headline(plan),
        _axes(plan, blocks),
        _parameters(plan),
        _kept_whole(plan, blocks),
        collectives_section(plan, blocks),
        optimality_section(plan),
        _lowering(plan, blocks),
        _notes(plan),
    )
    return "\n\n".join("\n".join(section) for section in sections if section)


def facts(plan: Plan) -> list[str]:
    """What the plan is for: inputs of the first phase, dtypes, versions, fingerprint."""
    dtypes = ", ".join(dict.fromkeys(p.dtype for p in plan.parameters if p.kind == "parameter"))
    first = next(iter(plan.sizes), "").partition(":")[0]
    named = [(k.partition(":")[2], v) for k, v in plan.sizes.items() if k.partition(":")[0] == first]
    inputs = [f"{'input ' if name.isdigit() else ''}{name} {shape}" for name, shape in named]
    versions = [f"{name} {version}" for name, version in plan.versions.items() if version]
    found = [*inputs, dtypes, *versions, f"fingerprint {plan.fingerprint}"]
    return [clean(fact) for fact in found if fact]


def _headline(plan: Plan) -> list[str]:
    ranks = "1 rank" if plan.ranks == 1 else f"{plan.ranks} ranks"
    return [
        f"{shorten(clean(plan.model), 80)} over {ranks}",
        *hang("  ", unbroken(facts(plan), " · ")),
    ]


# --- axes ---------------------------------------------------------------------------------------------------------


def _axes(plan: Plan, blocks: Blocks) -> list[str]:
    if not plan.axes:
        return ["AXES  none is split"]
    head = ("axis", "size", "each rank's part", "parameters and their dims")
    return ["AXES THAT ARE SPLIT", *columns([head, *axis_rows(plan, blocks)], "lrlw")]


def axis_rows(plan: Plan, blocks: Blocks) -> dict[AxisRow, list[str]]:
    """Each axis in the model's order with its names; alike blocks are one."""
    order: dict[str, int] = {}
    held: dict[str, list[Appearance]] = defaultdict(list)
    for parameter in plan.parameters:
        dims = split_dims(parameter)
        if dims:
            order.setdefault(parameter.axis, len(order))
            held[parameter.axis].append(Appearance(parameter.name, dims, parameter.shape[dims[0]]))
    rows: dict[AxisRow, list[str]] = defaultdict(list)
    for axis in sorted(plan.axes, key=lambda a: order.get(a.name, len(order))):
        marked = [(clean(blocks.fold(a.parameter)), str(list(a.dims))) for a in held[axis.name]]
        items = join_siblings(list(dict.fromkeys(marked or [(clean(name), "") for name in axis.parameters])))
        word = shorten(clean(axis_word(axis.name, axis.size, held[axis.name])), 14)
        if not axis.parameters:
            word, items = shorten(clean(axis.name.removeprefix("inputs.")), 14), [BETWEEN]
        rows[word, f"{axis.size:,}", _parts(axis), unbroken(items)].append(axis.name)
    return dict(rows)


def split_dims(parameter: ParameterPlan) -> tuple[int, ...]:
    """Dims of which some rank does not hold all."""
    if parameter.held != "split":
        return ()
    sizes = enumerate(parameter.shape)
    return tuple(dim for dim, size in sizes if any(ranges[dim] != ((0, size),) for ranges in parameter.ranges))


def _parts(axis: AxisPlan) -> str:
    """Each rank's part; of many ranks the first and the last, or how many equal ones."""
    parts = [clean(part).replace(" x ", "×") for part in axis.split]
    text = " | ".join(parts)
    if len(text) <= PARTS_WIDTH:
        return text
    count = len(axis.split)
    even, rest = divmod(axis.size, count)
    if not rest and list(axis.split) == [f"{i * even}:{(i + 1) * even}" for i in range(count)]:
        return f"{count} parts of {even:,}"
    return f"{parts[0]} | … | {parts[-1]}"


# --- parameters ---------------------------------------------------------------------------------------------------


def _parameters(plan: Plan) -> list[str]:
    total, sizes = plan.total_bytes, plan.bytes_per_rank
    groups = [(size, [rank for rank, _ in group]) for size, group in groupby(enumerate(sizes), key=lambda e: e[1])]
    if len(groups) > MOST_RANKS:
        groups = [(max(sizes), [sizes.index(max(sizes))]), (min(sizes), [sizes.index(min(sizes))])]
    rows = []
    for size, ranks in groups:
        share = size / total if total else 0.0
        name = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}, each"
        rows.append((name, bytes_text(size), percent_text(share), "█" * max(round(BAR_WIDTH * share), 1)))
    heading = f"PARAMETERS  {bytes_text(total)} in all, {percent_text(plan.split_fraction)} of them split"
    return [heading, *columns(rows, "lrrl")]


def kept_whole_entries(plan: Plan, blocks: Blocks) -> list[tuple[tuple[str, str], list[int]]]:
    """((name, reason), bytes of each) of the parameters that every rank holds, largest first."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for parameter in plan.parameters:
        if parameter.held != "split" and parameter.kind == "parameter":
            found[clean(blocks.fold(parameter.name)), clean(parameter.reason)].append(parameter.bytes)
    return sorted(found.items(), key=lambda entry: (-sum(entry[1]), entry[0]))


def _kept_whole(plan: Plan, blocks: Blocks) -> list[str]:
    entries = kept_whole_entries(plan, blocks)
    rows = [
        (shorten(name, NAME_WIDTH), f"{len(sizes)} ×", bytes_text(max(sizes)), reason)
        for (name, reason), sizes in entries[:MOST_LINES]
    ]
    rest = [size for _, sizes in entries[MOST_LINES:] for size in sizes]
    more = [f"  and {len(rest)} more, {bytes_text(sum(rest))} together"] if rest else []
    total = bytes_text(sum(sum(sizes) for _, sizes in entries))
    return [f"KEPT WHOLE  {total} on every rank", *columns(rows, "lrrw"), *more] if rows else []


# --- how it runs, and what to know --------------------------------------------------------------------------------


def _lowering(plan: Plan, blocks: Blocks) -> list[str]:
    rows, edits = tier_rows(plan, blocks), edit_rows(plan, blocks)
    found = ["MODULES THAT ARE CHANGED", *columns(rows, "lrw")] if rows else []
    found += _counted("attributes, whole → of each rank", edits)
    return found + _counted("sizes in calls, each rank's share", size_rows(plan, blocks))


def _counted(heading: str, rows: list[Row]) -> list[str]:
    """The first rows under a heading, and how many more there are."""
    shown = [(shorten(name, NAME_WIDTH), count, text) for name, count, text in rows[:MOST_LINES]]
    more = [f"  and {len(rows) - MOST_LINES} more"] if len(rows) > MOST_LINES else []
    return [f"  {heading}", *columns(shown, "lrw", 4), *more] if rows else []


def tier_rows(plan: Plan, blocks: Blocks) -> list[Row]:
    """(tier, how many modules, how and which)."""
    counts = Counter(plan.tiers.values())
    rows = []
    for tier in sorted(counts, key=lambda t: (t != "native", t)):
        modules = unbroken(dict.fromkeys(clean(blocks.fold_module(m)) for m, t in plan.tiers.items() if t == tier))
        how = _HOW.get(tier, "") + (f" ({_captured_share(plan)} of the parameters)" if tier == "captured" else "")
        rows.append((clean(tier), str(counts[tier]), f"{how}: {modules}"))
    return rows


def edit_rows(plan: Plan, blocks: Blocks) -> list[Row]:
    """(attribute, how many, whole → of each rank)."""
    edits: dict[tuple[str, str], int] = Counter()
    for edit in plan.edits:
        values = " | ".join(str(value) for value in edit.values)
        edits[clean(f"{blocks.fold_module(edit.module)}.{edit.attribute}"), f"{edit.whole} → {values}"] += 1
    return [(name, f"{n} ×", values) for (name, values), n in edits.items()]


def size_rows(plan: Plan, blocks: Blocks) -> list[Row]:
    """(size in a call, how many, each rank's share of it)."""
    found: dict[tuple[str, str], int] = Counter()
    for place in plan.places:
        if place.shares and place.position is not None:
            name = f"{blocks.fold_module(place.module)} line {place.position[0]}, argument {_written(place.argument)}"
            found[clean(name), " | ".join("1" if n == d else f"{n}/{d}" for n, d in place.shares)] += 1
    return [(name, f"{n} ×", shares) for (name, shares), n in found.items()]


def _written(argument: tuple[int | str, ...]) -> str:
    """An argument's place in a call.

    >>> _written((1, 2)), _written(("size", 0))
    ('1[2]', 'size[0]')
    """
    return str(argument[0]) + "".join(f"[{item}]" for item in argument[1:])


def _captured_share(plan: Plan) -> str:
    """How much of the parameters lies in modules that captured programs stand for."""
    inside = tuple(f"{captured.module}." if captured.module else "" for captured in plan.captured)
    size = sum(p.bytes for p in plan.parameters if p.kind == "parameter" and p.name.startswith(inside))
    return percent_text(size / plan.total_bytes if plan.total_bytes else 0.0)


def _notes(plan: Plan) -> list[str]:
    ties = [f"{clean(name)} = {clean(other)}" for name, other in plan.tied.items()]
    notes = (
        ("tied", [unbroken(ties)] if ties else []),
        ("domain", plan.domain),
        ("assumed", plan.assumed or ["nothing"]),
        ("WARNING", plan.warnings),
    )
    rows = [(label if i == 0 else "", clean(text, "\u00a0")) for label, texts in notes for i, text in enumerate(texts)]
    return columns(rows, "lw")
