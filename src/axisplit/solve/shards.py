"""From an axis expression and a split to index ranges: what a rank holds of a dim.

    leaf in the split   the rank's range          leaf outside   all of it
    product             every outer index held, times the inner ranges
    sum                 the segments' ranges, each moved to where its segment starts

>>> ranges_of_product([(0, 1), (2, 3)], [(0, 2)], inner_size=4)
[(0, 2), (8, 10)]
"""

from __future__ import annotations

from collections.abc import Mapping

from axisplit.axes.derive import Derived
from axisplit.axes.expression import Axes, Axis
from axisplit.solve.splits import Range, Split


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


def held_by(split: Split, axis_keys: Mapping[Axis, str], rank: int) -> dict[Axis, Range]:
    """Leaf -> range, for one rank under one split."""
    return {leaf: split.range_of(key, rank) for leaf, key in axis_keys.items() if key in split.axes}


def split_dims(derived: Derived, value: int, split: Split, axis_keys: Mapping[Axis, str]) -> list[int]:
    """The dims of a value that a split cuts."""
    return [
        position
        for position, axis in enumerate(derived.dims[value])
        if any(axis_keys.get(leaf) in split.axes for leaf in derived.axes.leaves(axis))
    ]


def layout_of(
    derived: Derived, value: int, split: Split, axis_keys: Mapping[Axis, str]
) -> tuple[int, int, tuple[tuple[Range, ...], ...]] | None:
    """(dim, period, ranges of every rank) of a value in state `S:split`; None if more than one dim is cut.

    Outer factors that the split does not touch (a batch in front of the heads) repeat the pattern: they are not part
    of the period, so the layout holds for any batch.
    """
    dims = split_dims(derived, value, split, axis_keys)
    if len(dims) != 1:
        return None
    (dim,) = dims
    axes, factors = derived.axes, derived.axes.factors(derived.dims[value][dim])
    while len(factors) > 1 and not any(axis_keys.get(leaf) in split.axes for leaf in axes.leaves(factors[0])):
        factors.pop(0)
    inner = axes.product(factors)
    ranks = range(len(split.boxes))
    return dim, inner.size, tuple(tuple(local_ranges(axes, inner, held_by(split, axis_keys, rank))) for rank in ranks)
