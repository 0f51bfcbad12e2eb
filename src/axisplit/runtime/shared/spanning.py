"""Ranks on several machines: shared memory inside each, sockets between one rank of each.

A reduction is a sum inside every machine, then over the machines in the order of their first ranks: the same bits from
run to run and on every rank, but not those of one sum over all ranks in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from axisplit.runtime.shared.wire import SharedWire
from axisplit.runtime.signature import Signature
from axisplit.runtime.sums import LOW_PRECISION
from axisplit.runtime.wire import Combine, Wire

__all__ = ["Machines", "SpanningWire"]


@dataclass(frozen=True)
class Machines:
    """Which ranks are on which machine, machines in the order of their first ranks.

    >>> Machines.of([b"a", b"b", b"a"])
    Machines(ranks=((0, 2), (1,)))
    """

    ranks: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, names: Sequence[bytes]) -> Machines:
        """From each rank's name of its machine."""
        by_name: dict[bytes, list[int]] = {}
        for rank, name in enumerate(names):
            by_name.setdefault(name, []).append(rank)
        return cls(tuple(map(tuple, by_name.values())))

    def of_rank(self, rank: int) -> tuple[int, ...]:
        """The ranks that are on this rank's machine."""
        return next(ranks for ranks in self.ranks if rank in ranks)


class SpanningWire:
    """A rank's exchanges with ranks of its own and of other machines.

    Args:
        near: with those of this machine.
        far: with the first ranks of the other machines, if this rank is the first of its own.
        sockets: with all ranks.
        rank: of all ranks.
    """

    def __init__(self, near: SharedWire, far: Wire | None, sockets: Wire, machines: Machines, rank: int) -> None:
        self._near, self._far, self._sockets = near, far, sockets
        self._machines, self._rank = machines, rank

    def reduce(self, x: Tensor, combine: Combine, signature: Signature) -> Tensor:
        """One tensor of all ranks' x, which have one shape and dtype: a new one."""
        wide = x.float() if x.dtype in LOW_PRECISION else x  # rounded once, at the end
        total = self._near.reduce(wide, combine, signature)
        if self._far is not None:
            total = self._far.reduce(total, combine, signature)
        return self._near.broadcast(total, 0, signature).to(x.dtype)

    def gather(self, x: Tensor, shapes: Sequence[Sequence[int]], signature: Signature) -> list[Tensor]:
        """Every rank's tensor; `shapes` are those of all ranks."""
        sizes = [[prod(shapes[rank]) for rank in ranks] for ranks in self._machines.ranks]
        local = self._machines.of_rank(self._rank)
        parts = self._near.gather(x, [shapes[rank] for rank in local], signature)
        packed = torch.cat([part.reshape(-1) for part in parts])
        if self._far is not None:
            packed = torch.cat(self._far.gather(packed, [(sum(row),) for row in sizes], signature))
        else:
            packed = x.new_empty(sum(map(sum, sizes)))
        flat = iter(torch.split(self._near.broadcast(packed, 0, signature), [s for row in sizes for s in row]))
        found = {rank: next(flat).view(tuple(shapes[rank])) for ranks in self._machines.ranks for rank in ranks}
        return [found[rank] for rank in range(len(shapes))]

    def broadcast(self, x: Tensor, src: int, signature: Signature) -> Tensor:
        """Rank `src`'s tensor, a new one; x has one shape and dtype on all ranks."""
        shapes = [x.shape if rank == src else (0,) for rank in range(sum(map(len, self._machines.ranks)))]
        return self.gather(x if self._rank == src else x.new_empty(0), shapes, signature)[src]

    def swap(self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], signature: Signature) -> list[Tensor]:
        """Send parts[r] to rank r and receive from each a tensor of shapes[r], over sockets."""
        return self._sockets.swap(parts, shapes, signature)

    def compare(self, signature: Signature) -> None:
        """Compare the texts of all ranks. Raises: CollectiveError on every rank if they differ."""
        self._sockets.compare(signature)
