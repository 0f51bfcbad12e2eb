"""From an axis expression and a split to index ranges: what a rank holds of a dim.

    leaf in the split   the rank's range          leaf outside   all of it
    product             every outer index held, times the inner ranges
    sum                 the segments' ranges, each moved to where its segment starts

>>> ranges_of_product([(0, 1), (2, 3)], [(0, 2)], inner_size=4)
[(0, 2), (8, 10)]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from axisplit.axes.derive import Derived
from axisplit.axes.expression import Axes, Axis
from axisplit.solve.following import followed
from axisplit.solve.splits import Range, Split
from axisplit.solve.ties import AxisKeys


def local_ranges(axes: Axes, axis: Axis, held: Mapping[Axis, Range]) -> list[Range]:
    """The index ranges of a dim that a rank holds, given the ranges of the leaves it does not hold whole."""
    axis = axes.find(axis)
    if axis.form == "leaf":
        return [held.get(axis, (0, axis.size))]
    if axis.form == "sum":
        found: list[Range] = []
        start = 0
        for part in axis.parts:
            found += [(start + a, start + b) for a, b in local_ranges(axes, part, held)]
            start += part.size
        return merge(found)
    result = [(0, 1)]
    for factor in axes.factors(axis):
        result = ranges_of_product(result, local_ranges(axes, factor, held), factor.size)
    return result


def ranges_of_product(outer: list[Range], inner: list[Range], inner_size: int) -> list[Range]:
    """Ranges of a product dim: every outer index held, times the inner ranges."""
    if inner == [(0, inner_size)]:
        return [(a * inner_size, b * inner_size) for a, b in outer]
    return merge([(i * inner_size + a, i * inner_size + b) for x, y in outer for i in range(x, y) for a, b in inner])


def merge(ranges: list[Range]) -> list[Range]:
    """Touching ranges joined, empty ones dropped."""
    result: list[Range] = []
    for a, b in ranges:
        if result and result[-1][1] == a:
            result[-1] = (result[-1][0], b)
        elif b > a:
            result.append((a, b))
    return result


def local_length(axes: Axes, axis: Axis, held: Mapping[Axis, Range]) -> int:
    """How many indices of a dim a rank holds."""
    axis = axes.find(axis)
    if axis.form == "leaf":
        start, end = held.get(axis, (0, axis.size))
        return end - start
    if axis.form == "sum":
        return sum(local_length(axes, part, held) for part in axis.parts)
    result = 1
    for part in axis.parts:
        result *= local_length(axes, part, held)
    return result


@dataclass(frozen=True)
class LocalPart:
    """A rank's part of any axis, as rules ask for it (`law.LocalSize`)."""

    axes: Axes
    held: Mapping[Axis, Range]

    def __call__(self, axis: Axis) -> int:
        return local_length(self.axes, axis, self.held)

    def start(self, axis: Axis) -> int | None:
        ranges = local_ranges(self.axes, axis, self.held)
        return ranges[0][0] if len(ranges) == 1 else None


def self_products(derived: Derived, value: int) -> list[Axis]:
    """Leaves that multiply with themselves in a value (`x + x.T`): parts of them cover only its diagonal."""
    key = ("self products", value)
    if key not in derived.memo:
        counts: Counter[Axis] = Counter()
        if sum(len(derived.axes.leaves(axis)) for axis in derived.dims[value]) > len(derived.leaves(value)):
            for axis in derived.dims[value]:
                counts.update(_occurrences(derived.axes, axis))
        derived.memo[key] = [leaf for leaf, count in counts.items() if count > 1]
    found: list[Axis] = derived.memo[key]
    return found


def _occurrences(axes: Axes, axis: Axis) -> Counter[Axis]:
    """How often each leaf occurs in a product; of a sum's segments, the one in which it occurs most."""
    axis = axes.find(axis)
    if axis.form == "leaf":
        return Counter([axis])
    found: Counter[Axis] = Counter()
    for part in axis.parts:
        inner = _occurrences(axes, part)
        found = found + inner if axis.form == "product" else found | inner
    return found


def held_by(split: Split, axis_keys: AxisKeys, rank: int) -> dict[Axis, Range]:
    """Leaf -> range, for one rank under one split of leaves."""
    if split.follows:
        return {}
    return {leaf: split.range_of(key, rank) for key in split.axes for leaf in axis_keys.by_key[key]}


def split_dims(derived: Derived, value: int, split: Split, axis_keys: AxisKeys) -> list[int]:
    """The dims of a value that a split cuts."""
    return [
        position
        for position, axis in enumerate(derived.dims[value])
        if any(axis_keys.get(leaf) in split.axes for leaf in derived.axes.leaves(axis))
    ]


def layout_of(
    derived: Derived, value: int, split: Split, axis_keys: AxisKeys
) -> tuple[int, int, tuple[tuple[Range, ...], ...]] | None:
    """(dim, period, ranges of every rank) of a value in state `S:split`; None where not just one dim is cut once.

    Outer factors that the split does not touch (a batch in front of the heads) repeat the pattern: they are not part
    of the period, so the layout holds for any batch.
    """
    key = ("layout", value, split.name)
    if key not in derived.memo:
        derived.memo[key] = _layout_of(derived, value, split, axis_keys)
    found: tuple[int, int, tuple[tuple[Range, ...], ...]] | None = derived.memo[key]
    return found


def _layout_of(
    derived: Derived, value: int, split: Split, axis_keys: AxisKeys
) -> tuple[int, int, tuple[tuple[Range, ...], ...]] | None:
    if split.follows:
        index = followed(derived, split)
        at = index.dim_of(value) if index.is_cut(value, len(split.boxes)) else None
        return None if at is None else (at, split.sizes[0], split.boxes)
    dims = split_dims(derived, value, split, axis_keys)
    if len(dims) != 1:
        return None
    (dim,) = dims
    if any(axis_keys.get(leaf) in split.axes for leaf in self_products(derived, value)):
        return None
    axes, factors = derived.axes, derived.axes.factors(derived.dims[value][dim])
    while len(factors) > 1 and not any(axis_keys.get(leaf) in split.axes for leaf in axes.leaves(factors[0])):
        factors.pop(0)
    inner = axes.product(factors)
    return dim, inner.size, ranges_on_ranks(derived, inner, split, axis_keys)


def ranges_on_ranks(derived: Derived, axis: Axis, split: Split, axis_keys: AxisKeys) -> tuple[tuple[Range, ...], ...]:
    """What each rank holds of an axis; one object for all axes that are held alike, as there may be many ranks."""
    axis = derived.axes.find(axis)
    key = ("ranges", axis, split.name)
    if key not in derived.memo:
        held = [held_by(split, axis_keys, rank) for rank in range(len(split.boxes))]
        ranges = tuple(tuple(local_ranges(derived.axes, axis, part)) for part in held)
        derived.memo[key] = derived.memo.setdefault(("alike", ranges), ranges)
    found: tuple[tuple[Range, ...], ...] = derived.memo[key]
    return found
