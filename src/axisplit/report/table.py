"""The plan and the verdict as tables to look at.

    render_plan      what is split and where, what a rank holds, what moves, what is proved of it
    render_verdict   EQUAL, DIFFERENT or COULD NOT, and on what grounds
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from axisplit.report.fold import Appearance, Blocks, axis_word, join_siblings
from axisplit.report.text import bytes_text, clean, columns, hang, paragraph, percent_text, shorten

if TYPE_CHECKING:
    from axisplit.solve.plan import AxisPlan, CollectivePlan, ParameterPlan, Plan

MOST_WHOLE, MOST_EDITS, MOST_RANKS, SPLIT_WIDTH, BAR_WIDTH, NAME_WIDTH = 8, 6, 8, 30, 40, 52
_MASKED = " masked"
_HOW = {
    "native": "hooks at module boundaries",
    "attributes": "integer attributes rewritten",
    "expression": "calls inserted into a forward",
    "captured": "captured program in place of the Python",
}


def render_plan(plan: Plan) -> str:
    """The plan as text, for people."""
    blocks = Blocks(p.name for p in plan.parameters)
    sections = (
        _headline(plan),
        _axes(plan, blocks),
        _parameters(plan),
        _kept_whole(plan, blocks),
        _collectives(plan, blocks),
        _optimality(plan),
        _lowering(plan, blocks),
        _notes(plan),
    )
    return "\n\n".join("\n".join(section) for section in sections if section)


def _headline(plan: Plan) -> list[str]:
    dtypes = ", ".join(dict.fromkeys(p.dtype for p in plan.parameters if p.kind == "parameter"))
    first = next(iter(plan.sizes), "").partition(":")[0]
    inputs = [f"{k.partition(':')[2]} {list(v)}" for k, v in plan.sizes.items() if k.partition(":")[0] == first]
    versions = [f"{name} {version}" for name, version in plan.versions.items() if version]
    facts = [*inputs, dtypes, *versions, f"fingerprint {plan.fingerprint}"]
    ranks = "1 rank" if plan.ranks == 1 else f"{plan.ranks} ranks"
    return [f"{shorten(clean(plan.model), 80)} over {ranks}", *hang("  ", [clean(f) for f in facts if f], " · ")]


# --- axes ---------------------------------------------------------------------------------------------------------


def _axes(plan: Plan, blocks: Blocks) -> list[str]:
    if not plan.axes:
        return ["AXES", "  none is split"]
    rows = _axis_rows(plan, blocks)
    labels = [("axis", "size", "each rank's part"), *(row[:3] for row in rows)]
    lines = columns(labels, "lrl")
    width = max(map(len, lines)) + 3
    parameters = [["parameters, and which dim of each"], *(row[3] for row in rows)]
    found = ["AXES THAT ARE SPLIT"]
    for line, items in zip(lines, parameters, strict=True):
        found += hang(line.ljust(width), items)
    return found


def _axis_rows(plan: Plan, blocks: Blocks) -> list[tuple[str, str, str, list[str]]]:
    """(word, size, parts, parameters) of each axis; those that differ only in their block are one."""
    held: dict[str, list[ParameterPlan]] = defaultdict(list)
    for parameter in plan.parameters:
        if parameter.held == "split":
            held[parameter.axis].append(parameter)
    rows: dict[tuple[str, str, str, tuple[str, ...]], int] = Counter()
    for axis in plan.axes:
        seen = [Appearance(p.name, _split_dims(p), p.shape[_split_dims(p)[0]]) for p in held[axis.name] if _split_dims(p)]
        marked = [(clean(blocks.fold(a.parameter)), str(list(a.dims))) for a in seen]
        items = join_siblings(list(dict.fromkeys(marked) if marked else [(clean(n), "") for n in axis.parameters]))
        word = shorten(clean(axis_word(axis.name, axis.size, seen)), 14)
        rows[word, f"{axis.size:,}", _parts(axis), tuple(items)] += 1
    order = sorted(rows, key=lambda row: -max((p.bytes for p in plan.parameters if clean(blocks.fold(p.name)) in ""), default=0))
    return [(word, size, parts, list(items)) for word, size, parts, items in order]


def _split_dims(parameter: ParameterPlan) -> tuple[int, ...]:
    """Dims of which some rank does not hold all."""
    return tuple(
        dim
        for dim, size in enumerate(parameter.shape)
        if any(ranges[dim] != ((0, size),) for ranges in parameter.ranges)
    )


def _parts(axis: AxisPlan) -> str:
    """
    >>> from axisplit.solve.plan import AxisPlan
    >>> _parts(AxisPlan("heads", 9, ("0:5", "5:9"), ())), _parts(AxisPlan("ffn", 64, tuple(f"{i}:{i+1}" for i in range(64)), ()))
    ('0:5 | 5:9', '64 parts of 1')
    """
    text = " | ".join(clean(part) for part in axis.split)
    if len(text) <= SPLIT_WIDTH:
        return text
    if len(set(axis.split)) == len(axis.split) and axis.size % len(axis.split) == 0 and " x " not in text:
        starts = [int(part.partition(":")[0]) for part in axis.split]
        even = axis.size // len(axis.split)
        if starts == list(range(0, axis.size, even)):
            return f"{len(starts)} parts of {even:,}"
    return f"{clean(axis.split[0])} | … | {clean(axis.split[-1])}"


# --- parameters ---------------------------------------------------------------------------------------------------


def _parameters(plan: Plan) -> list[str]:
    total = plan.total_bytes
    lines = [f"PARAMETERS  {bytes_text(total)} in all, {percent_text(plan.split_fraction)} split"]
    rows = []
    for size, group in groupby(enumerate(plan.bytes_per_rank), key=lambda entry: entry[1]):
        ranks = [rank for rank, _ in group]
        name = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}, each"
        share = size / total if total else 0.0
        rows.append((name, bytes_text(size), percent_text(share), "█" * max(round(BAR_WIDTH * share), 1)))
    if len(rows) > MOST_RANKS:
        sizes = plan.bytes_per_rank
        rows = [("most", bytes_text(max(sizes)), "", ""), ("least", bytes_text(min(sizes)), "", "")]
    return lines + columns(rows, "lrrl")


def _kept_whole(plan: Plan, blocks: Blocks) -> list[str]:
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for parameter in plan.parameters:
        if parameter.held != "split" and parameter.kind == "parameter":
            found[clean(blocks.fold(parameter.name)), clean(parameter.reason)].append(parameter.bytes)
    if not found:
        return []
    entries = sorted(found.items(), key=lambda entry: (-sum(entry[1]), entry[0]))
    rows = [(shorten(name, NAME_WIDTH), f"{len(sizes)} ×", bytes_text(sizes[0]), reason) for (name, reason), sizes in entries]
    total = sum(sum(sizes) for sizes in found.values())
    lines = columns(rows[:MOST_WHOLE], "lrrl")
    lines = [piece for line in lines for piece in _wrap_last(line, rows)]
    rest = entries[MOST_WHOLE:]
    if rest:
        lines.append(f"  … and {len(rest)} more, {bytes_text(sum(sum(sizes) for _, sizes in rest))} together")
    return [f"KEPT WHOLE ON EVERY RANK  {bytes_text(total)}", *lines]
