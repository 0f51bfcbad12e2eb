"""How one tensor dim is held by ranks: index ranges inside one period, the pattern repeated in each period.

    global dim = outer * period,  local dim = outer * local_size(rank)
    rank r holds index i of the dim  <=>  i mod period lies in one of ranges[r]

`outer` is never stored: it is read off the tensor, so that a flattened [batch * heads] dim is sliced by heads for any
batch. Ranks may hold different numbers of indices, several ranges, the same ranges (replicated inside a subgroup),
overlapping ones, or none: the local tensor of an empty rank has size 0 there. As size 0 does not tell `outer`, a
layout with an empty rank is for dims of exactly one period.

Which function does what: `take` whole -> part; `assemble` parts -> whole, inverse of `take`; `pad` part -> whole with
zeros, transpose of `take`; `owners` picks one owner for every index where several ranks hold it, evenly among them.
Invariants: `check_layout`.

Example: 9 heads of 3 kv heads on 2 ranks, ranges (((0, 6),), ((6, 9),)) of period 9. A [2 * 9, 4] tensor (batch 2)
becomes [12, 4] (rows 0-5 and 9-14) and [6, 4] (rows 6-8 and 15-17).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from axisplit.errors import LayoutError

__all__ = ["Layout", "Placement", "Range", "check_layout"]

Range = tuple[int, int]
"""Half-open: start <= index < stop."""


class Placement(NamedTuple):
    """A run of indices with the ranks that hold it; a layout's runs cover its period once, in index order."""

    start: int
    stop: int
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Which index ranges of a dim each rank holds.

    Args:
        dim: the tensor dim; negative counts from the end.
        period: indices after which the pattern repeats.
        ranges: for every rank its half-open ranges inside one period, sorted and disjoint.

    >>> layout = Layout.of_sizes(0, (6, 3))
    >>> layout.ranges
    (((0, 6),), ((6, 9),))
    >>> layout.take(torch.arange(18), 1)
    tensor([ 6,  7,  8, 15, 16, 17])
    """

    dim: int
    period: int
    ranges: tuple[tuple[Range, ...], ...]

    @classmethod
    def of_sizes(cls, dim: int, sizes: Sequence[int]) -> Layout:
        """Consecutive shares of the given sizes, one a rank; 0 leaves a rank empty."""
        ends = list(accumulate(sizes, initial=0))
        return cls(dim, ends[-1], tuple(((a, b),) if b > a else () for a, b in pairwise(ends)))

    @property
    def num_ranks(self) -> int:
        return len(self.ranges)

    def local_size(self, rank: int) -> int:
        """Indices that `rank` holds of one period."""
        return self._sizes[rank]

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(sum(stop - start for start, stop in held) for held in self.ranges)

    @cached_property
    def in_turns(self) -> bool:
        """Whether rank r of n holds the indices r, r + n, r + 2 n, ..."""
        return all(held == ((r, r + 1),) for r, held in enumerate(self.ranges))

    @cached_property
    def has_empty_rank(self) -> bool:
        return any(not held for held in self.ranges)

    @cached_property
    def _placements(self) -> tuple[Placement, ...]:
        begin, end = defaultdict[int, list[int]](list), defaultdict[int, list[int]](list)
        for rank, held in enumerate(self.ranges):
            for a, b in held:
                begin[a].append(rank)
                end[b].append(rank)
        runs, holders = list[Placement](), set[int]()
        for a, b in pairwise(sorted({0, self.period, *begin, *end})):
            holders = (holders - set(end[a])) | set(begin[a])
            runs.append(Placement(a, b, tuple(sorted(holders))))
        return tuple(runs)

    def placements(self) -> tuple[Placement, ...]:
        """The period cut into runs, each with all ranks that hold it.

        >>> Layout(0, 4, (((0, 2),), ((0, 4),))).placements()
        (Placement(start=0, stop=2, ranks=(0, 1)), Placement(start=2, stop=4, ranks=(1,)))
        """
        return self._placements

    @cached_property
    def _owners(self) -> Layout:
        if all(len(run.ranks) == 1 for run in self._placements):
            return self
        owned: list[list[Range]] = [[] for _ in self.ranges]
        for start, stop, ranks in self._placements:
            length, num = stop - start, len(ranks)
            for i, rank in enumerate(ranks):
                _append(owned[rank], (start + length * i // num, start + length * (i + 1) // num))
        return Layout(self.dim, self.period, tuple(map(tuple, owned)))

    def owners(self) -> Layout:
        """Every index with exactly one of its holders: what an all-gather sends. Itself if nothing is replicated.

        >>> Layout(0, 4, (((0, 2),), ((0, 2),), ((2, 4),))).owners().ranges
        (((0, 1),), ((1, 2),), ((2, 4),))
        """
        return self._owners

    def outer(self, local: Tensor, rank: int) -> int:
        """Periods in the dim, read off the rank's part; 1 where the rank is empty.

        Raises: LayoutError if the part is not a multiple of the rank's share.
        """
        size, share = local.shape[self.dim], self.local_size(rank)
        if share == 0:
            return 1
        self._check_multiple(size, share, f"rank {rank}'s part")
        return size // share

    def local_shape(self, shape: Sequence[int], rank: int) -> list[int]:
        """Shape of the rank's part of a whole tensor of this shape."""
        return _with_dim(shape, self.dim, self._whole_outer(shape) * self.local_size(rank))

    def global_shape(self, local: Tensor, rank: int) -> list[int]:
        """Shape of the whole tensor, read off the rank's part."""
        shape = _with_dim(local.shape, self.dim, self.outer(local, rank) * self.period)
        self._whole_outer(shape)
        return shape

    def owned_shapes(self, local: Tensor, rank: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of what every rank owns, read off the rank's part."""
        outer = self.global_shape(local, rank)[self.dim] // self.period
        sizes = [outer * self._owners.local_size(r) for r in range(self.num_ranks)]
        return tuple(tuple(_with_dim(local.shape, self.dim, size)) for size in sizes)

    def take(self, x: Tensor, rank: int) -> Tensor:
        """The rank's part of a whole tensor, as a new contiguous tensor that shares no memory with it.

        Raises: LayoutError if the dim is not a multiple of the period, or repeats and a rank is empty.
        """
        self._whole_outer(x.shape)
        return _take(x, self.dim, self.period, self.ranges[rank])

    def take_owned(self, local: Tensor, rank: int) -> Tensor:
        """From the rank's part, what it owns (see `owners`)."""
        if self._owners is self:
            return local
        held, owned = self.ranges[rank], self._owners.ranges[rank]
        return _take(local, self.dim, self.local_size(rank), _inside(held, owned))

    def keep_owned(self, x: Tensor, rank: int) -> Tensor:
        """The rank's part of a whole tensor, zero where another rank owns the index: over all ranks, each counts once.

        >>> Layout(0, 4, (((0, 4),), ((0, 4),))).keep_owned(torch.ones(4), 1)
        tensor([0., 0., 1., 1.])
        """
        part = self.take(x, rank)
        outer, share = self.outer(part, rank), self.local_size(rank)
        for start, stop in _inside(self.ranges[rank], _without(self.ranges[rank], self._owners.ranges[rank])):
            _narrow(part, self.dim, outer, share, start, stop - start).zero_()
        return part

    def owned_of(self, x: Tensor, rank: int) -> Tensor:
        """Of a whole tensor, what a rank owns; nothing, if others own all that it holds."""
        return _take(x, self.dim, self.period, self._owners.ranges[rank])

    def pad_owned(self, local: Tensor, rank: int) -> Tensor:
        """The whole tensor with what the rank owns in its place, else zeros: over all ranks, each index once."""
        if self._owners is self:
            return self.pad(local, rank)
        owned, outer = self._owners.ranges[rank], self.outer(local, rank)
        whole = local.new_zeros(self.global_shape(local, rank))
        for (start, stop), (first, _) in zip(owned, _inside(self.ranges[rank], owned), strict=True):
            source = _narrow(local, self.dim, outer, self.local_size(rank), first, stop - start)
            _narrow(whole, self.dim, outer, self.period, start, stop - start).copy_(source)
        return whole

    def shared(self, rank: int, other: int) -> tuple[Range, ...]:
        """Indices of the period that both ranks hold."""
        pairs = ((max(a, c), min(b, d)) for a, b in self.ranges[rank] for c, d in self.ranges[other])
        return tuple((a, b) for a, b in pairs if a < b)

    def part_in(self, local: Tensor, rank: int, wanted: Sequence[Range]) -> Tensor:
        """Of the rank's part, the given indices of the period (which it holds)."""
        return _take(local, self.dim, self.local_size(rank), _inside(self.ranges[rank], wanted))

    def add_in(self, local: Tensor, rank: int, wanted: Sequence[Range], values: Tensor) -> None:
        """Add values at the given indices of the period to the rank's part, in place: the transpose of `part_in`."""
        outer, share, size = self.outer(local, rank), self.local_size(rank), sum(b - a for a, b in wanted)
        start = 0
        for a, b in _inside(self.ranges[rank], wanted):
            source = _narrow(values, self.dim, outer, size, start, b - a)
            _narrow(local, self.dim, outer, share, a, b - a).add_(source)
            start += b - a

    @property
    def is_shared(self) -> bool:
        """Whether several ranks hold an index."""
        return self._owners is not self

    def assemble(self, parts: Sequence[Tensor]) -> Tensor:
        """The whole tensor from every rank's part; where several ranks hold an index, the first one's value.

        Raises: LayoutError if the parts are not of one whole.
        """
        if self._in_order and tuple(part.shape[self.dim] for part in parts) == self._sizes:  # one period
            return torch.cat(list(parts), self.dim).contiguous()
        outer = self._common_outer(parts)
        pieces = [_narrow(parts[r], self.dim, outer, self.local_size(r), first, n) for r, first, n in self._pieces]
        return _join(pieces, self.dim, outer)

    @cached_property
    def _in_order(self) -> bool:
        """Whether the period is every rank's part, one behind the other."""
        return self._pieces == tuple((rank, 0, size) for rank, size in enumerate(self._sizes))

    def _common_outer(self, parts: Sequence[Tensor]) -> int:
        if len(parts) != self.num_ranks:
            raise LayoutError(f"{len(parts)} parts for {self.num_ranks} ranks", needed="one part a rank")
        outers = [self.outer(part, rank) for rank, part in enumerate(parts) if self.ranges[rank]]
        if any(outer != outers[0] for outer in outers):
            got = ", ".join(f"rank {rank}: {list(part.shape)}" for rank, part in enumerate(parts))
            raise LayoutError("the parts are not of one whole", got=got, needed=f"shares {self.ranges} of one dim")
        return outers[0]

    @cached_property
    def _pieces(self) -> tuple[tuple[int, int, int], ...]:
        """(rank, first index in its part, length) in index order, by the first holders; neighbours joined."""
        pieces: list[tuple[int, int, int]] = []
        for start, stop, ranks in self._placements:
            rank, length = ranks[0], stop - start
            first = _inside(self.ranges[rank], [(start, stop)])[0][0]
            if pieces and pieces[-1][0] == rank:  # neighbours in the dim are neighbours in its part
                _, first, before = pieces.pop()
                length += before
            pieces.append((rank, first, length))
        return tuple(pieces)

    def pad(self, local: Tensor, rank: int) -> Tensor:
        """The whole tensor with the rank's part in its place and zeros elsewhere: the transpose of `take`."""
        outer, share = self.outer(local, rank), self.local_size(rank)
        whole = local.new_zeros(self.global_shape(local, rank))
        held = self.ranges[rank]
        for (start, stop), low in zip(held, _offsets(held), strict=True):
            source = _narrow(local, self.dim, outer, share, low, stop - start)
            _narrow(whole, self.dim, outer, self.period, start, stop - start).copy_(source)
        return whole

    def _whole_outer(self, shape: Sequence[int]) -> int:
        size = shape[self.dim]
        self._check_multiple(size, self.period, "the whole dim")
        if self.has_empty_rank and size != self.period:
            raise LayoutError(
                "a dim that repeats cannot be held by some ranks only",
                got=f"{size // self.period} periods of {self.period}, shares {self.ranges}",
                needed="one period, or a share for every rank",
            )
        return size // self.period

    def _check_multiple(self, size: int, share: int, what: str) -> None:
        if size % share != 0:
            raise LayoutError(
                f"{what} does not fit the layout",
                where=f"dim {self.dim}",
                got=f"size {size}",
                needed=f"a multiple of {share}",
            )


def check_layout(layout: Layout) -> None:
    """State a layout's invariants: ranges sorted, disjoint, not empty, inside the period, and every index held.

    Raises: LayoutError that names every offender.
    """
    faults = [] if layout.period > 0 and layout.ranges else [f"period {layout.period}, {layout.num_ranks} ranks"]
    for rank, held in enumerate(layout.ranges):
        faults += [
            f"rank {rank}: range {a}:{b} outside 0:{layout.period} or empty"
            for a, b in held
            if not 0 <= a < b <= layout.period
        ]
        faults += [f"rank {rank}: {p} and {q} overlap or are unsorted" for p, q in pairwise(held) if q[0] < p[1]]
    if not faults:
        faults = [f"indices {run.start}:{run.stop} on no rank" for run in layout.placements() if not run.ranks]
    if faults:
        raise LayoutError(
            f"not a layout of dim {layout.dim}",
            got="\n".join(faults),
            needed=f"sorted, disjoint ranges inside 0:{layout.period} that together cover it",
        )


def _append(spans: list[Range], span: Range) -> None:
    """Add a range to sorted ones, joined to the last if it touches it; empty ones are dropped."""
    if span[0] == span[1]:
        return
    if spans and spans[-1][1] == span[0]:
        spans[-1] = (spans[-1][0], span[1])
    else:
        spans.append(span)


def _offsets(held: Sequence[Range]) -> list[int]:
    """Where each range starts inside the rank's part."""
    return list(accumulate((b - a for a, b in held), initial=0))[:-1]


def _inside(held: Sequence[Range], wanted: Sequence[Range]) -> tuple[Range, ...]:
    """Ranges of the period, as ranges of the part that holds them."""
    return tuple(
        (low + max(a, c) - a, low + min(b, d) - a)
        for c, d in wanted
        for (a, b), low in zip(held, _offsets(held), strict=True)
        if max(a, c) < min(b, d)
    )


def _without(held: Sequence[Range], taken: Sequence[Range]) -> list[Range]:
    """The indices of `held` that are in none of the sorted ranges `taken`."""
    left: list[Range] = []
    for start, stop in held:
        for a, b in taken:
            if start < b and a < stop:
                _append(left, (start, max(start, a)))
                start = min(stop, b)
        _append(left, (start, stop))
    return left


def _with_dim(shape: Sequence[int], dim: int, size: int) -> list[int]:
    changed = list(shape)
    changed[dim] = size
    return changed


def _narrow(x: Tensor, dim: int, outer: int, period: int, start: int, length: int) -> Tensor:
    """A view of `length` indices of each period: [..., length, ...], or [..., outer, length, ...] if it repeats."""
    dim %= x.ndim
    if type(outer) is int and outer == 1:
        return x.narrow(dim, start, length)
    return torch.unflatten(x, dim, (outer, period)).narrow(dim + 1, start, length)


def _join(pieces: Sequence[Tensor], dim: int, outer: int) -> Tensor:
    """Concatenate views of `_narrow` and fold the periods back."""
    if type(outer) is int and outer == 1:
        return torch.cat(list(pieces), dim).contiguous()
    dim %= pieces[0].ndim - 1
    return torch.cat(list(pieces), dim + 1).contiguous().flatten(dim, dim + 1)


def _take(x: Tensor, dim: int, period: int, spans: Sequence[Range]) -> Tensor:
    outer = x.shape[dim] // period if period else 1
    if not spans:
        return x.new_empty(_with_dim(x.shape, dim, 0))
    pieces = [_narrow(x, dim, outer, period, a, b - a) for a, b in spans]
    return _join(pieces, dim, outer)
