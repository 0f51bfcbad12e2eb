"""Cut axes unevenly against each other, so that all ranks hold alike.

An axis is cut as evenly as it goes, and what does not divide goes to the first ranks: of 3 key heads on 2 ranks they
have 2 and 1. A finer axis of the same model can make up for that where nothing is gathered along it: as no bytes depend
on its shares, the rank with fewer heads takes more of the inner size of the MLP. All wait for the rank that holds most,
in memory as in time.

Shares are given out from the coarsest axis to the finest, unit by unit to the rank that holds least; units of long axes
are powers of two, which kernels like. What is won must be worth it (`WORTH`).

Example: 9 heads on 3 key heads and an inner size of 1536 on 2 ranks (SmolLM2). Ranks hold 2 and 1 of the key heads and
672 and 864 of the inner size, so that the first holds 1 % more than the second in place of 14 %.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from axisplit.solve.build import Search, granularity, share_bytes
from axisplit.solve.plan import AxisPlan, ParameterPlan
from axisplit.solve.policy import Choice
from axisplit.solve.shards import ranges_of
from axisplit.solve.splits import Box, Range, Split

Cut = tuple[Box, ...]
Ranges = tuple[tuple[tuple[Range, ...], ...], ...]
"""Rank -> dim -> ranges."""
WORTH = 0.01
"""Of what the fullest rank holds."""
_UNITS, _LARGEST_UNIT = 16, 64
"""Each rank is given at least so many units of a long axis, of so many indices at most."""


@dataclass(frozen=True)
class _Free:
    """A split whose shares may differ: indices in a unit, bytes of one, and how many units there are."""

    split: Split
    unit: int
    bytes: float
    count: int


def levelled(search: Search, choice: Choice) -> Search:
    """The search with a choice's splits cut such that the fullest rank holds least; itself if that gains little."""
    held = _held(search, choice)
    fixed = [sum(shares[r] for shares in held.values()) for r in range(search.num_ranks)]
    free = sorted(_free(search, choice, held), key=lambda f: (-f.bytes, f.split.name))
    loads = [load - sum(held[f.split.name][r] for f in free) for r, load in enumerate(fixed)]
    boxes: dict[str, Cut] = {}
    for each in free:
        counts = _given_out(loads, each)
        ends = [min(each.unit * end, each.split.sizes[0]) for end in accumulate(counts, initial=0)]
        boxes[each.split.name] = tuple((span,) for span in pairwise(ends))
    if max(loads) > (1 - WORTH) * max(fixed):
        return search
    return with_boxes(search, boxes)


def as_planned(search: Search, axes: Iterable[AxisPlan], parameters: Iterable[ParameterPlan]) -> Search:
    """The search with splits cut as a plan holds parameters; they need not have the names that they have there."""
    usual, cuts = {split.boxes for split in search.splits.values()}, dict.fromkeys(axis.boxes for axis in axes)
    if cuts.keys() <= usual:
        return search
    values = search.derived.graph.parameters
    held = {values[p.name]: p.ranges for p in parameters if p.held == "split" and p.name in values}
    boxes = {name: _as_held(search, split, [split.boxes, *cuts], held) for name, split in search.splits.items()}
    return with_boxes(search, boxes)


def _as_held(search: Search, split: Split, cuts: Sequence[Cut], held: Mapping[int, Ranges]) -> Cut:
    """The first of some cuts of a split's axes with which a parameter is held; its own if there is none."""
    derived, axes = search.derived, set(split.axes)
    here = [v for v in held if axes & {search.keys.get(leaf) for leaf in derived.leaves(v)}]
    for boxes in cuts:
        if tuple(end for _, end in boxes[-1]) != split.sizes:
            continue
        cut = replace(split, boxes=boxes)
        if any(ranges_of(derived, value, cut, search.keys) == held[value] for value in here):
            return boxes
    return split.boxes


def with_boxes(search: Search, boxes: dict[str, Cut]) -> Search:
    """A search in which some splits have other boxes; nothing is remembered of the old ones."""
    splits = {name: replace(s, boxes=boxes.get(name, s.boxes)) for name, s in search.splits.items()}
    return replace(search, splits=splits, derived=replace(search.derived, memo={}), memo={})


def _held(search: Search, choice: Choice) -> dict[str, list[float]]:
    """Bytes of split parameters that each rank holds, by split."""
    found: dict[str, list[float]] = defaultdict(lambda: [0.0] * search.num_ranks)
    for value, split in _split_parameters(search, choice):
        for rank, share in enumerate(share_bytes(search, value, f"S:{split}")):
            found[split][rank] += share * search.times_read(value)
    return found


def _split_parameters(search: Search, choice: Choice) -> list[tuple[int, str]]:
    states = choice.solution.state
    values = dict.fromkeys(search.derived.graph.parameters.values())
    return [(v, states[search.ties.value[v]][2:]) for v in values if states[search.ties.value[v]][0] == "S"]


def _free(search: Search, choice: Choice, held: dict[str, list[float]]) -> list[_Free]:
    """Splits of one axis along which the choice gathers nothing."""
    conversions, taken = choice.problem.conversions, choice.solution.conversions
    gathered = {
        source[2:]
        for (value, wanted), source in taken.items()
        if source[0] == "S" and wanted != source and conversions[value, source, wanted].collectives
    }
    whole: dict[str, float] = defaultdict(float)
    for value, name in _split_parameters(search, choice):
        whole[name] += search.derived.graph.values[value].bytes * search.times_read(value)
    found, steps = [], granularity(search.derived, search.ties)
    for split in (search.splits[name] for name in held if name not in gathered):
        if len(split.axes) > 1:
            continue
        size, multiple = split.sizes[0], steps.get(split.axes[0], 1)
        unit = multiple * _power_of_two(size // (multiple * search.num_ranks * _UNITS))
        once = whole[split.name]
        cut = once - (sum(held[split.name]) - once) / max(search.num_ranks - 1, 1)  # all ranks have the rest
        found.append(_Free(split, unit, cut / size * unit, -(-size // unit)))
    return found


def _power_of_two(most: int) -> int:
    return min(1 << max(most.bit_length() - 1, 0), _LARGEST_UNIT)


def _given_out(loads: list[float], free: _Free) -> Sequence[int]:
    """Units for each rank, at least one; `loads` grow by them."""
    counts = [1] * len(loads)
    for rank in range(len(loads)):
        loads[rank] += free.bytes
    for _ in range(free.count - len(loads)):
        least = min(range(len(loads)), key=loads.__getitem__)
        counts[least] += 1
        loads[least] += free.bytes
    return counts
