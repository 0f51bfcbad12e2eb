"""Which axes can be split over N ranks, and what each rank gets of them.

A `Split` divides the joint index space of one or two leaf axes into one box for each rank:

    heads 9 over 2 ranks              [0, 5) [5, 9)                      uneven
    kv 2 x group 4 over 4 ranks       kv over pairs, group inside a pair: two-level
    kv 2 x group 2 over 3 ranks       kv0 x [0,1), kv0 x [1,2), kv1 x [0,2)

Every rank gets a non-empty box; a split that would leave a rank empty is not offered. A tensor that has only the first
axis of a pair holds that axis's range, so ranks of a pair hold the same (k and v of a shared kv head).

Invariant (`check_split`): the boxes are disjoint and cover the index space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

Range = tuple[int, int]
Box = tuple[Range, ...]


@dataclass(frozen=True)
class Split:
    """An ordered set of leaf axes (by class key) and each rank's ranges of them."""

    name: str
    axes: tuple[str, ...]  # leaf class keys, outer first
    sizes: tuple[int, ...]
    boxes: tuple[Box, ...]
    follows: bool = False  # an index of the inputs, in turns over the ranks (`solve.following`)

    def range_of(self, axis: str, rank: int) -> Range:
        return self.boxes[rank][self.axes.index(axis)]

    @cached_property
    def lengths(self) -> tuple[tuple[int, ...], ...]:
        """How many indices of each axis each rank has."""
        return tuple(tuple(b - a for a, b in box) for box in self.boxes)

    @cached_property
    def kinds(self) -> dict[tuple[int, ...], int]:
        """Lengths that occur, and the first rank that has them: what depends on them alone is worked out there."""
        return {lengths: rank for rank, lengths in reversed(list(enumerate(self.lengths)))}

    @property
    def even(self) -> bool:
        return len(self.kinds) == 1


def even_ranges(size: int, parts: int, multiple: int = 1) -> list[Range]:
    """`size` in `parts` consecutive ranges whose lengths, in units of `multiple`, differ by at most one.

    >>> even_ranges(9, 2)
    [(0, 5), (5, 9)]
    >>> even_ranges(128, 3, 4)
    [(0, 44), (44, 88), (88, 128)]
    """
    base, extra = divmod(-(-size // multiple), parts)
    bounds = [min(size, multiple * (i * base + min(i, extra))) for i in range(parts + 1)]
    return list(pairwise(bounds))


def make_boxes(sizes: Sequence[int], num_ranks: int, multiple: int = 1) -> tuple[Box, ...] | None:
    """Each rank's box, or None if some rank would get nothing.

    >>> make_boxes([2, 2], 3)
    (((0, 1), (0, 1)), ((0, 1), (1, 2)), ((1, 2), (0, 2)))
    """
    first, *rest = sizes
    if first >= num_ranks:
        whole = tuple((0, size) for size in rest)
        spans = even_ranges(first, num_ranks, multiple)
        return tuple((span, *whole) for span in spans) if all(a < b for a, b in spans) else None
    if not rest:
        return None
    boxes: list[Box] = []
    for index, (start, end) in enumerate(even_ranges(num_ranks, first)):
        inner = make_boxes(rest, end - start)
        if inner is None:
            return None
        boxes += [((index, index + 1), *box) for box in inner]
    return tuple(boxes)


def make_split(
    name: str, axes: tuple[str, ...], sizes: tuple[int, ...], num_ranks: int, uneven: bool, multiple: int = 1
) -> Split | None:
    """A split of one or two axes, or None if a rank would get nothing (or, unless uneven, ranks would differ)."""
    boxes = make_boxes(sizes, num_ranks, multiple)
    if boxes is None:
        return None
    split = Split(name, axes, sizes, boxes)
    return split if uneven or split.even else None


def check_split(split: Split) -> None:
    """Assert that the boxes partition the index space."""
    volume = 0
    for box in split.boxes:
        cells = 1
        for start, end in box:
            assert 0 <= start < end
            cells *= end - start
        volume += cells
    total = 1
    for size in split.sizes:
        total *= size
    assert volume == total, f"boxes of {split.name} hold {volume} of {total} indices"
    for i, a in enumerate(split.boxes):
        for b in split.boxes[i + 1 :]:
            assert any(x[1] <= y[0] or y[1] <= x[0] for x, y in zip(a, b, strict=True)), (
                f"boxes of {split.name} overlap"
            )
