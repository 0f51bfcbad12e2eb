"""Parts that lie in turns: of [M, n, T] values rank r of n holds [:, r, :], [M, T].

That is how an index of the inputs is cut (`layout.Layout.in_turns`): M counts turns over all dims in front, T is what
lies behind. A reduce-scatter and an all-gather of such parts work on consecutive memory, which shared memory takes in
pieces along M (`shared.wire`). Groups do them by what they have otherwise, with the same bits: sums in rank order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from axisplit.runtime.sums import sum_in_rank_order

__all__ = ["InTurns"]


class _Exchanges(Protocol):
    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_gather(self, x: Tensor, shapes: Sequence[Sequence[int]], site: str = "") -> list[Tensor]: ...

    def all_to_all(
        self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], site: str = "", sides: object = None
    ) -> list[Tensor]: ...


class InTurns:
    """The two collectives for groups of whatever kind."""

    def reduce_scatter_in_turns(self: _Exchanges, x: Tensor, site: str = "") -> Tensor:
        """Of the sum of x [M, n, T] over ranks this rank's part, [M, T]."""
        parts = list(x.unbind(1))
        shapes = [parts[self.rank].shape] * self.size
        return sum_in_rank_order(self.all_to_all(parts, shapes, site, list(x.shape)))

    def all_gather_in_turns(self: _Exchanges, part: Tensor, site: str = "") -> Tensor:
        """Every rank's part [M, T] in its place: [M, n, T]."""
        return torch.stack(self.all_gather(part, [part.shape] * self.size, site), 1)
