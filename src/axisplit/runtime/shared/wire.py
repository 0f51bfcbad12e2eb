"""Exchanges and reductions between ranks of one machine, of any size, in the dtype that they have.

What fits a slot goes in one meeting, from views that are kept for the next call of the same signature; more goes in
chunks, of which one is written while the one before is read. A reduction among two ranks has every rank combine all
parts; among more, large ones are combined by chunks, of which each rank does its part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from axisplit.runtime.shared.board import Board
from axisplit.runtime.signature import Signature
from axisplit.runtime.sums import sum_in_rank_order
from axisplit.runtime.wire import Combine

__all__ = ["SharedWire"]

_MAX_LANES = 4096
_COUNT_BYTES = 64
"""In front of a slot of `swap`: how many chunks this rank sends; the rest of the line is not used."""


class SharedWire:
    """A rank's exchanges with the others on a board. What comes back is used up before the next call, or copied."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._lanes: dict[tuple[Signature, int], list[list[Tensor]]] = {}

    def gather(
        self, x: Tensor, shapes: Sequence[Sequence[int]], signature: Signature, *, phase: int = 0
    ) -> list[Tensor]:
        """Every rank's tensor.

        Args:
            x: detached, contiguous; of `shapes[rank]`.
            shapes: of all ranks, alike on all ranks.
            signature: alike on all ranks; it determines shapes and dtypes.
            phase: a number for this exchange among those of one signature.
        Returns: views of the shared memory, or new tensors.
        Raises: CollectiveError as `Board.meet`.
        """
        lane = self._lanes.get((signature, phase)) or self._lane(x, shapes, (signature, phase))
        if lane is None:
            return self._gather_in_chunks(x, shapes, signature)
        board = self._board
        views = lane[board.side]
        board.post(x, views[board.rank], signature)
        return views

    def reduce(self, x: Tensor, combine: Combine, signature: Signature, *, in_place: bool = False) -> Tensor:
        """One tensor of all ranks' x, which have one shape and dtype: a new one, or x itself."""
        key = (signature, 0)
        lane = self._lanes.get(key) or self._lane(x, [x.shape] * self._board.size, key)
        if lane is None:
            return self._reduce_in_chunks(x, combine, signature, in_place)
        board, result = self._board, x if in_place else torch.empty_like(x)
        how = board.reduction(combine, x.dtype)
        if how is not None:
            board.reduce(x, result, how, signature)
            return result
        views = lane[board.side]
        board.post(x, views[board.rank], signature)
        combine(views, out=result)
        return result

    def prepared(self, x: Tensor, combine: Combine, signature: Signature) -> Callable[[Tensor], Tensor] | None:
        """`reduce`, to a new tensor, of what is like x, contiguous, in as few steps as can be; None where it takes more
        than one meeting, or Python.
        """
        board = self._board
        how = board.reduction(combine, x.dtype)
        if how is None or x.nbytes > board.slot_bytes:
            return None

        def reduce(x: Tensor) -> Tensor:
            result = torch.empty_like(x)
            board.reduce(x, result, how, signature)
            return result

        return reduce

    def scatter_in_turns(self, x: Tensor, signature: Signature) -> Tensor:
        """Of the sum of x [M, n, T], contiguous, over ranks this rank's part, a new tensor [M, T]."""
        board, own = self._board, self._board.rank
        total, rows = x.new_empty(x.shape[0], x.shape[2]), self._rows(x)
        for a in range(0, x.shape[0], rows):
            piece = x[a : a + rows]
            views = self._views(piece.shape, x.dtype)
            board.post(piece, views[own], signature)
            views[own] = piece
            sum_in_rank_order([view[:, own] for view in views], out=total[a : a + rows])
        return total

    def gather_in_turns(self, part: Tensor, signature: Signature) -> Tensor:
        """Every rank's part [M, T], contiguous, in its place: a new tensor [M, n, T]."""
        board, own = self._board, self._board.rank
        whole, rows = part.new_empty(part.shape[0], board.size, part.shape[1]), self._rows(part)
        whole[:, own].copy_(part)
        for a in range(0, part.shape[0], rows):
            piece = part[a : a + rows]
            views = self._views(piece.shape, part.dtype)
            board.post(piece, views[own], signature)
            for rank, view in enumerate(views):
                if rank != own:
                    whole[a : a + rows, rank].copy_(view)
        return whole

    def takes_rows_of(self, x: Tensor) -> bool:
        """Whether there is a row of x, and it fits a slot."""
        return len(x) > 0 and 0 < x[0].nbytes <= self._board.slot_bytes

    def _rows(self, x: Tensor) -> int:
        """How many rows of x one meeting takes."""
        return self._board.slot_bytes // x[0].nbytes

    def _views(self, shape: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
        """What each rank writes for the next meeting, at the beginning of its slot."""
        size = prod(shape) * dtype.itemsize
        return [slot[:size].view(dtype).view(tuple(shape)) for slot in self._board.slots(self._board.side)]

    def broadcast(self, x: Tensor, src: int, signature: Signature) -> Tensor:
        """Rank `src`'s tensor, a new one; x has one shape and dtype on all ranks."""
        board = self._board
        shapes = [x.shape if rank == src else (0,) for rank in range(board.size)]
        received = self.gather(x if board.rank == src else x.new_empty(0), shapes, signature, phase=1)[src]
        return received.clone()

    def swap(self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], signature: Signature) -> list[Tensor]:
        """Send parts[r] to rank r and receive from each a tensor of shapes[r]; the own part comes back as it is."""
        board, own = self._board, parts[self._board.rank]
        room = (board.slot_bytes - _COUNT_BYTES) // board.size // _COUNT_BYTES * _COUNT_BYTES
        step = room // own.element_size()
        sent = [part.reshape(-1) for part in parts]
        received = [own.new_empty(prod(shape)) for shape in shapes]
        steps = _steps(max(part.numel() for part in parts), step)
        done = 0
        while done < max(steps, 1):
            slots = board.slots(board.side)
            slots[board.rank][:8].view(torch.int64).fill_(steps)
            for r, part in enumerate(sent):
                if r != board.rank:
                    _place(slots[board.rank], r, room, part[done * step : (done + 1) * step], own.dtype)
            board.meet(signature)
            steps = max(steps, *(int(slot[:8].view(torch.int64)) for slot in slots))
            for r, whole in enumerate(received):
                if r != board.rank:
                    _fetch(slots[r], board.rank, room, whole[done * step : (done + 1) * step])
            done += 1
        received[board.rank] = own.reshape(-1)
        return [whole.view(tuple(shape)) for whole, shape in zip(received, shapes, strict=True)]

    def compare(self, signature: Signature) -> None:
        """Meet over the texts. Raises: CollectiveError on every rank if they differ."""
        self._board.compare(signature)

    def _lane(
        self, x: Tensor, shapes: Sequence[Sequence[int]], key: tuple[Signature, int]
    ) -> list[list[Tensor]] | None:
        """Views of all ranks' slots, for both sides; None where a tensor does not fit its slot."""
        sizes = [prod(shape) * x.element_size() for shape in shapes]
        if max(sizes) > self._board.slot_bytes:
            return None
        with torch.inference_mode(False):
            lane = [
                [
                    slot[:size].view(x.dtype).view(tuple(shape))
                    for slot, size, shape in zip(self._board.slots(side), sizes, shapes, strict=True)
                ]
                for side in (0, 1)
            ]
        if len(self._lanes) >= _MAX_LANES:
            self._lanes.clear()
        self._lanes[key] = lane
        return lane

    def _gather_in_chunks(self, x: Tensor, shapes: Sequence[Sequence[int]], signature: Signature) -> list[Tensor]:
        board, flat = self._board, x.reshape(-1)
        step = board.slot_bytes // x.element_size()
        wholes = [x.new_empty(prod(shape)) for shape in shapes]
        for k in range(_steps(max(whole.numel() for whole in wholes), step)):
            slots = board.slots(board.side)
            _place(slots[board.rank], 0, 0, flat[k * step : (k + 1) * step], x.dtype)
            board.meet(signature)
            for r, whole in enumerate(wholes):
                if r != board.rank:
                    _fetch(slots[r], 0, 0, whole[k * step : (k + 1) * step])
        wholes[board.rank] = flat
        return [whole.view(tuple(shape)) for whole, shape in zip(wholes, shapes, strict=True)]

    def _reduce_in_chunks(self, x: Tensor, combine: Combine, signature: Signature, in_place: bool) -> Tensor:
        board, flat = self._board, x.reshape(-1)
        result = flat if in_place else torch.empty_like(flat)
        step = board.slot_bytes // x.element_size()
        typed = [[slot.view(x.dtype) for slot in board.slots(side)] for side in (0, 1)]
        how = board.reduction(combine, x.dtype)
        for chunk, total in zip(torch.split(flat, step), torch.split(result, step), strict=True):
            views = [view[: chunk.numel()] for view in typed[board.side]]
            if how is not None:
                board.reduce(chunk, total, how, signature)
                continue
            board.post(chunk, views[board.rank], signature)
            combine(views, out=total)
        return result.view(x.shape)


def _steps(size: int, step: int) -> int:
    return -(-size // step)


def _place(slot: Tensor, index: int, room: int, part: Tensor, dtype: torch.dtype) -> None:
    if part.numel():
        begin = (_COUNT_BYTES if room else 0) + index * room
        slot[begin : begin + part.numel() * part.element_size()].view(dtype).copy_(part)


def _fetch(slot: Tensor, index: int, room: int, part: Tensor) -> None:
    if part.numel():
        begin = (_COUNT_BYTES if room else 0) + index * room
        part.copy_(slot[begin : begin + part.numel() * part.element_size()].view(part.dtype))
