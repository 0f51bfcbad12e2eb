"""The collectives of `torch.distributed` over shared memory: a backend of its own, for CPU ranks of one machine.

    axisplit.register_backend()
    torch.distributed.init_process_group("axisplit")

Everything that takes a process group can use it: DDP, `torch.distributed.nn` (with autograd), DTensor. Collectives are
done when they return, whatever `async_op` says. There is no send and receive: a board is for all ranks together.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store, Work, _create_work_from_future  # type: ignore[attr-defined]  # no stub
from torch.distributed import ReduceOp

from axisplit.errors import CollectiveError, InputError
from axisplit.runtime.shared.connect import MESSAGE_BYTES, share_memory
from axisplit.runtime.shared.wire import SharedWire
from axisplit.runtime.signature import Signature, signature_of
from axisplit.runtime.sums import in_rank_order, max_over_ranks, sum_in_rank_order
from axisplit.runtime.wire import Combine

__all__ = ["BACKEND", "SharedMemoryGroup", "register_backend"]

BACKEND = "axisplit"


def register_backend() -> None:
    """Let `torch.distributed.init_process_group("axisplit")` make groups over shared memory."""
    if BACKEND not in dist.Backend.backend_list:
        dist.Backend.register_backend(BACKEND, _create, devices=["cpu"])


def _mean(parts: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    mean = sum_in_rank_order(parts).div(len(parts))
    return mean if out is None else out.copy_(mean)


_COMBINE: dict[Any, Combine] = {
    ReduceOp.SUM: sum_in_rank_order,
    ReduceOp.AVG: _mean,
    ReduceOp.MAX: max_over_ranks,
    ReduceOp.MIN: partial(in_rank_order, torch.minimum),
    ReduceOp.PRODUCT: partial(in_rank_order, torch.mul),
    ReduceOp.BAND: partial(in_rank_order, torch.bitwise_and),
    ReduceOp.BOR: partial(in_rank_order, torch.bitwise_or),
    ReduceOp.BXOR: partial(in_rank_order, torch.bitwise_xor),
}


def _create(store: Store, rank: int, size: int, timeout: timedelta) -> SharedMemoryGroup:
    rounds = iter(range(MESSAGE_BYTES))

    def tell(message: bytes) -> list[bytes]:
        number = next(rounds)
        store.set(f"{number}/{rank}", message.decode())
        return [store.get(f"{number}/{r}") for r in range(size)]

    wire = share_memory(rank, range(size), tell, timeout.total_seconds())
    if wire is None:
        raise InputError(
            f"the backend {BACKEND!r} needs all ranks on one machine, with memory that they share",
            where=f"rank {rank} of {size}",
            do='use "gloo" here; axisplit itself uses shared memory where it is',
        )
    return SharedMemoryGroup(rank, size, wire)


_Base: Any = dist.ProcessGroup  # its stubs leave out that Python may derive from it


class SharedMemoryGroup(_Base):  # type: ignore[misc]
    """A group of torch.distributed whose ranks share memory."""

    def __init__(self, rank: int, size: int, wire: SharedWire) -> None:
        super().__init__(rank, size)
        self._own, self._count, self.wire = rank, size, wire

    def getBackendName(self) -> str:
        return BACKEND

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> Work:
        """Every tensor becomes the reduction over ranks."""
        for x in tensors:
            self._reduce(x, x, opts)
        return _done(tensors)

    allreduce_coalesced = allreduce

    def reduce(self, tensors: list[Tensor], opts: Any) -> Work:
        """As `allreduce`; only the root's tensor changes."""
        for x in tensors:
            self._reduce(x, x if opts.rootRank == self._own else x.clone(), opts)
        return _done(tensors)

    def broadcast(self, tensors: list[Tensor], opts: Any) -> Work:
        """Every tensor becomes the root's."""
        for x in tensors:
            sent = self.wire.broadcast(_out(x), opts.rootRank, self._signature("broadcast", x, opts.rootRank))
            x.detach().copy_(sent)
        return _done(tensors)

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> Work:
        """outputs[i][r] becomes rank r's inputs[i]; shapes may differ between ranks."""
        for parts, x in zip(outputs, inputs, strict=True):
            self._gather(parts, x)
        return _done(outputs)

    def allgather_coalesced(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> Work:
        """As `allgather`."""
        return self.allgather(outputs, inputs, opts)

    def all_gather_single(self, output: Tensor, x: Tensor, opts: Any = None) -> Work:
        """The output becomes all ranks' x, one behind the other."""
        self._gather(list(_pieces(output, [x.numel()] * self._count)), x.reshape(-1))
        return _done(output)

    _allgather_base = all_gather_single

    def all_gather_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Work:
        """As `all_gather_single`, of each."""
        for output, x in zip(outputs, inputs, strict=True):
            self.all_gather_single(output, x)
        return _done(outputs)

    allgather_into_tensor_coalesced = all_gather_single_coalesced

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any) -> Work:
        """On the root outputs[0][r] becomes rank r's inputs[0]."""
        x, root = inputs[0], opts.rootRank
        parts = self.wire.gather(_out(x), [x.shape] * self._count, self._signature("gather", x, root))
        if self._own == root:
            _fill(outputs[0], parts)
        return _done(outputs)

    def scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any) -> Work:
        """outputs[0] becomes the root's inputs[0][r] on rank r."""
        x, root = outputs[0], opts.rootRank
        nothing = x.new_empty(0)
        sent = [_out(part) for part in inputs[0]] if self._own == root else [nothing] * self._count
        shapes = [x.shape if rank == root else (0,) for rank in range(self._count)]
        received = self.wire.swap(sent, shapes, self._signature("scatter", x, root))
        x.detach().copy_(received[root].view(x.shape))
        return _done(outputs)

    def reduce_scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any) -> Work:
        """outputs[i] becomes the reduction over ranks of inputs[i][own rank]; shapes may differ between ranks."""
        for output, parts in zip(outputs, inputs, strict=True):
            combine = _combine(opts.reduceOp.op)
            signature = self._signature("reduce_scatter", output.new_empty(0), *[p.shape for p in parts])
            received = self.wire.swap([_out(part) for part in parts], [output.shape] * self._count, signature)
            output.detach().copy_(combine(received))
        return _done(outputs)

    def reduce_scatter_single(self, output: Tensor, x: Tensor, opts: Any) -> Work:
        """The output becomes the reduction over ranks of this rank's piece of x."""
        self.reduce_scatter([output.view(-1)], [list(_pieces(x, [output.numel()] * self._count))], opts)
        return _done(output)

    _reduce_scatter_base = reduce_scatter_single

    def reduce_scatter_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any) -> Work:
        """As `reduce_scatter_single`, of each."""
        for output, x in zip(outputs, inputs, strict=True):
            self.reduce_scatter_single(output, x, opts)
        return _done(outputs)

    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced

    def alltoall(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Work:
        """outputs[r] becomes rank r's inputs[own rank]."""
        signature = self._signature("alltoall", inputs[0].new_empty(0))
        _fill(outputs, self.wire.swap([_out(x) for x in inputs], [x.shape for x in outputs], signature))
        return _done(outputs)

    def all_to_all_single(
        self, output: Tensor, x: Tensor, received: list[int] | None, sent: list[int] | None, opts: Any = None
    ) -> Work:
        """As `alltoall`, of the pieces along dim 0; even ones if sizes are not given."""
        inputs, outputs = (_along_rows(t, sizes, self._count) for t, sizes in ((x, sent), (output, received)))
        self.alltoall(outputs, inputs)
        return _done(output)

    alltoall_base = all_to_all_single

    def barrier(self, opts: Any = None) -> Work:
        """Wait for all ranks."""
        nothing = torch.empty(0)
        self.wire.gather(nothing, [(0,)] * self._count, self._signature("barrier", nothing))
        return _done(nothing)

    def send(self, tensors: list[Tensor], dst: int, tag: int) -> Work:
        """Raises: CollectiveError."""
        raise _no_pairs()

    def recv(self, tensors: list[Tensor], src: int, tag: int) -> Work:
        """Raises: CollectiveError."""
        raise _no_pairs()

    def _reduce(self, x: Tensor, into: Tensor, opts: Any) -> None:
        op = ReduceOp.SUM if opts is None else opts.reduceOp.op
        given, result = _out(x), into.detach()
        in_place = x is into and x.is_contiguous()
        total = self.wire.reduce(given, _combine(op), self._signature("all_reduce", x, op), in_place=in_place)
        if not in_place:
            result.copy_(total)

    def _gather(self, parts: list[Tensor], x: Tensor) -> None:
        shapes = [part.shape for part in parts]
        _fill(parts, self.wire.gather(_out(x), shapes, self._signature("all_gather", x.new_empty(0), *shapes)))

    def _signature(self, kind: str, x: Tensor, *details: Any) -> Signature:
        return signature_of(kind, "", x.dtype, x.shape, *details)


def _combine(op: Any) -> Combine:
    if op not in _COMBINE:
        raise InputError("no such reduction here", got=str(op), needed=", ".join(str(known) for known in _COMBINE))
    return _COMBINE[op]


def _out(x: Tensor) -> Tensor:
    return x.detach().contiguous()


def _fill(parts: Sequence[Tensor], received: Sequence[Tensor]) -> None:
    for part, value in zip(parts, received, strict=True):
        part.detach().copy_(value.view(part.shape))  # past autograd, which would take it for a use


def _pieces(x: Tensor, sizes: list[int]) -> Sequence[Tensor]:
    return torch.split(x.view(-1), sizes)


def _along_rows(x: Tensor, sizes: list[int] | None, count: int) -> list[Tensor]:
    return list(torch.split(x, sizes or [x.shape[0] // count] * count))


def _no_pairs() -> CollectiveError:
    return CollectiveError(
        f"the backend {BACKEND!r} has no send and receive", do='use a group of "gloo" for them, or a collective'
    )


def _done(result: Any) -> Work:
    future: torch.futures.Future[Any] = torch.futures.Future()
    future.set_result(result)
    work: Work = _create_work_from_future(future)
    return work
