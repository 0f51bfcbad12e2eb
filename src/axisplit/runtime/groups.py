"""Groups of ranks that communicate.

    Group            what every group does (a protocol); all results are new tensors
    ProcessGroup     ranks are processes, over torch.distributed
    SingleGroup      one rank, no communication
    FakeGroup        a rank of a group that cannot communicate, for tracing on fake tensors
    SimulatedGroup   ranks are threads (simulate.py)

A sum is taken in rank order, in float32 at least, and rounded once, by `sum_in_rank_order`, in processes on CPU as
among simulated ranks: both give the same bits, and all ranks get the same bits. On CPU it goes through memory that the
ranks share where all are on one machine (shared/), else through the group's sockets as an exchange of exact shares
(wire.py; 2 ranks: of the whole tensor; more: a reduce-scatter, then an all-gather), which moves the bandwidth-optimal
2 (n - 1) / n * S in the tensor's own dtype. On other devices it is the backend's own, but for float16 and bfloat16.
Gradients do not pass through a group: collectives.py adds them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from axisplit.errors import CollectiveError, InputError
from axisplit.runtime.shared.backend import SharedMemoryGroup
from axisplit.runtime.shared.connect import MESSAGE_BYTES, connect
from axisplit.runtime.shared.spanning import SpanningWire
from axisplit.runtime.shared.wire import SharedWire
from axisplit.runtime.signature import Signature, signature_of
from axisplit.runtime.sums import LOW_PRECISION, max_over_ranks, sum_in_rank_order
from axisplit.runtime.turns import InTurns
from axisplit.runtime.wire import Combine, Wire

__all__ = ["FakeGroup", "Group", "ProcessGroup", "SingleGroup"]

T = TypeVar("T")
_MAX_PREPARED = 4096
_REDUCTIONS = {sum_in_rank_order: dist.ReduceOp.SUM, max_over_ranks: dist.ReduceOp.MAX}
Way = Wire | SharedWire | SpanningWire


class Group(Protocol):
    """Ranks that communicate; every rank calls the same methods in the same order. `site` only names the call."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_reduce_sum(self, x: Tensor, site: str = "") -> Tensor:
        """Sum over ranks, accumulated in float32 at least, in x's dtype; x has one shape on all ranks."""

    def all_reduce_max(self, x: Tensor, site: str = "") -> Tensor:
        """Elementwise maximum over ranks."""

    def all_gather(self, x: Tensor, shapes: Sequence[Sequence[int]], site: str = "") -> list[Tensor]:
        """Every rank's tensor; `shapes` are those of all ranks, alike on all ranks."""

    def all_to_all(
        self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], site: str = "", sides: object = None
    ) -> list[Tensor]:
        """Send parts[r] to rank r and receive from each a tensor of shapes[r]; the own part comes back as it is.
        `sides` describes what all exchange, alike on all ranks.
        """

    def reduce_scatter_in_turns(self, x: Tensor, site: str = "") -> Tensor:
        """Of the sum of x [M, n, T] over n ranks this rank's part, [M, T] (see `turns`)."""

    def all_gather_in_turns(self, part: Tensor, site: str = "") -> Tensor:
        """Every rank's part [M, T] in its place: [M, n, T]."""

    def broadcast(self, x: Tensor, src: int, site: str = "") -> Tensor:
        """The tensor of rank `src` of this group; x has one shape and dtype on all ranks."""

    def broadcast_object(self, value: Any, src: int = 0, site: str = "") -> Any:
        """The JSON value of rank `src`; JSON and not pickle, so that a peer cannot run code here."""

    def barrier(self) -> None:
        """Wait for all ranks."""


class SingleGroup(InTurns):
    """The only rank: every collective returns its input, copied."""

    rank = 0
    size = 1

    def all_reduce_sum(self, x: Tensor, site: str = "") -> Tensor:
        return x.clone(memory_format=torch.contiguous_format)

    def all_reduce_max(self, x: Tensor, site: str = "") -> Tensor:
        return x.clone(memory_format=torch.contiguous_format)

    def all_gather(self, x: Tensor, shapes: Sequence[Sequence[int]], site: str = "") -> list[Tensor]:
        return [x.clone(memory_format=torch.contiguous_format)]

    def all_to_all(
        self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], site: str = "", sides: object = None
    ) -> list[Tensor]:
        return list(parts)

    def broadcast(self, x: Tensor, src: int, site: str = "") -> Tensor:
        return x.clone(memory_format=torch.contiguous_format)

    def broadcast_object(self, value: Any, src: int = 0, site: str = "") -> Any:
        return value

    def barrier(self) -> None:
        return None


class FakeGroup(InTurns):
    """Rank `rank` of `size` that never communicates: shapes and slices are known, numbers are not."""

    def __init__(self, rank: int, size: int) -> None:
        if not 0 <= rank < size:
            raise InputError(f"no rank {rank} in a group of {size}", needed=f"0 to {size - 1}")
        self.rank = rank
        self.size = size

    def all_reduce_sum(self, x: Tensor, site: str = "") -> Tensor:
        raise self._error("all_reduce_sum", site)

    def all_reduce_max(self, x: Tensor, site: str = "") -> Tensor:
        raise self._error("all_reduce_max", site)

    def all_gather(self, x: Tensor, shapes: Sequence[Sequence[int]], site: str = "") -> list[Tensor]:
        raise self._error("all_gather", site)

    def all_to_all(
        self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], site: str = "", sides: object = None
    ) -> list[Tensor]:
        raise self._error("all_to_all", site)

    def broadcast(self, x: Tensor, src: int, site: str = "") -> Tensor:
        raise self._error("broadcast", site)

    def broadcast_object(self, value: Any, src: int = 0, site: str = "") -> Any:
        raise self._error("broadcast_object", site)

    def barrier(self) -> None:
        raise self._error("barrier", "")

    def _error(self, kind: str, site: str) -> CollectiveError:
        return CollectiveError(
            f"{kind} on a rank that cannot communicate",
            where=site or None,
            got=f"rank {self.rank} of {self.size} of a FakeGroup, with a real tensor",
            needed="fake tensors, or a ProcessGroup or simulated ranks",
        )


class ProcessGroup(InTurns):
    """Ranks of a torch.distributed group.

    CPU tensors go through shared memory among the ranks of one machine, through sockets between machines; which ranks
    are where is found out at the first of them.

    Args:
        group: the group, a 1-dim DeviceMesh, or None to state that all processes are meant.
        check: compare the signatures (256 bytes a rank) before each collective, not only with it: also ranks on several
            machines whose sizes differ then get an error that names both sides, where gloo aborts.
        shared_memory: False to use the group's own backend in any case.
    Raises: InputError if torch.distributed is not initialised or the mesh has more dims.
    """

    def __init__(
        self, group: dist.ProcessGroup | DeviceMesh | None, *, check: bool = False, shared_memory: bool = True
    ) -> None:
        if not dist.is_initialized():
            raise InputError(
                "torch.distributed is not initialised",
                do="start with `axisplit run --ranks N SCRIPT` or torchrun, and call init_process_group first",
            )
        self.group = _resolve(group)
        self.rank = dist.get_rank(self.group)
        self.size = dist.get_world_size(self.group)
        self._check = check
        backend = dist.get_backend(self.group)
        self._device = torch.device("cuda" if backend == "nccl" else "cpu")
        self._sockets = Wire(self.group, self.rank, self.size, self._device)
        shares = shared_memory and self.size > 1 and backend != "fake"
        self._way: Way | None = None if shares else self._sockets
        if isinstance(self.group, SharedMemoryGroup):
            self._way = self.group.wire
        self._prepared: dict[Hashable, Callable[[Tensor], Tensor]] = {}

    def all_reduce_sum(self, x: Tensor, site: str = "") -> Tensor:
        return self._reduction("all_reduce_sum", site, x, sum_in_rank_order)

    def all_reduce_max(self, x: Tensor, site: str = "") -> Tensor:
        return self._reduction("all_reduce_max", site, x, max_over_ranks)

    def all_gather(self, x: Tensor, shapes: Sequence[Sequence[int]], site: str = "") -> list[Tensor]:
        def gather(x: Tensor, way: Way, signature: Signature) -> list[Tensor]:
            return [part.clone() for part in way.gather(x, shapes, signature)]

        return self._run("all_gather", site, x, tuple(map(tuple, shapes)), gather)

    def all_to_all(
        self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], site: str = "", sides: object = None
    ) -> list[Tensor]:
        given = [part.detach().contiguous() for part in parts]

        def swap(x: Tensor, way: Way, signature: Signature) -> list[Tensor]:
            return [part.clone() for part in way.swap(given, shapes, signature)]

        return self._run("all_to_all", site, given[self.rank], (str(sides),), swap)

    def reduce_scatter_in_turns(self, x: Tensor, site: str = "") -> Tensor:
        wire = self._shared_wire(x)
        if wire is None:
            return super().reduce_scatter_in_turns(x, site)
        return self._run("reduce_scatter", site, x, (x.shape,), lambda x, _, signed: wire.scatter_in_turns(x, signed))

    def all_gather_in_turns(self, part: Tensor, site: str = "") -> Tensor:
        wire = self._shared_wire(part)
        if wire is None:
            return super().all_gather_in_turns(part, site)
        return self._run("all_gather", site, part, (part.shape,), lambda x, _, signed: wire.gather_in_turns(x, signed))

    def _shared_wire(self, x: Tensor) -> SharedWire | None:
        """The ranks' shared memory, if x goes that way and its rows fit."""
        way = (self._way or self._connected()) if x.is_cpu else None
        return way if isinstance(way, SharedWire) and way.takes_rows_of(x) else None

    def broadcast(self, x: Tensor, src: int, site: str = "") -> Tensor:
        def broadcast(x: Tensor, way: Way, signature: Signature) -> Tensor:
            return way.broadcast(x, src, signature)

        return self._run("broadcast", site, x, (x.shape, f"from {src}"), broadcast)

    def broadcast_object(self, value: Any, src: int = 0, site: str = "") -> Any:
        data = json.dumps(value).encode() if self.rank == src else b""
        size = self.broadcast(torch.tensor([len(data)], device=self._device), src, site)
        payload = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(int(size)).byte()
        return json.loads(bytes(self.broadcast(payload.to(self._device), src, site).tolist()))

    def barrier(self) -> None:
        def meet(x: Tensor, way: Way, signature: Signature) -> None:
            way.gather(x, [(0,)] * self.size, signature)

        self._run("barrier", "", torch.empty(0, device=self._device), (), meet)

    def _reduction(self, kind: str, site: str, x: Tensor, combine: Combine) -> Tensor:
        key = (kind, site, x.dtype, x.shape)
        prepared = self._prepared.get(key)
        if prepared is not None and x.is_cpu and x.is_contiguous():
            return prepared(x)

        def reduce(x: Tensor, way: Way, signature: Signature) -> Tensor:
            if isinstance(way, SharedWire) and not self._check:
                self._prepare(key, way.prepared(x, combine, signature))
            if x.is_cpu or x.dtype in LOW_PRECISION:
                return way.reduce(x, combine, signature)
            result = x.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(result, op=_REDUCTIONS[combine], group=self.group)
            return result

        return self._run(kind, site, x, (x.shape,), reduce)

    def _prepare(self, key: Hashable, prepared: Callable[[Tensor], Tensor] | None) -> None:
        if prepared is None:
            return
        if len(self._prepared) >= _MAX_PREPARED:
            self._prepared.clear()
        self._prepared[key] = prepared

    def _run(
        self,
        kind: str,
        site: str,
        x: Tensor,
        shared: tuple[Hashable, ...],
        call: Callable[[Tensor, Way, Signature], T],
    ) -> T:
        """`shared`: what all ranks agree on, beside kind, site and dtype."""
        given = (x.detach() if x.requires_grad else x).contiguous()
        signature = signature_of(kind, site, x.dtype, *shared)
        try:
            way = self._sockets if not x.is_cpu else self._way or self._connected()
            if self._check:
                way.compare(signature)
            return call(given, way, signature)
        except RuntimeError as error:
            raise CollectiveError(
                f"{kind} failed on rank {self.rank} of {self.size}",
                where=site or None,
                got=f"{str(error).splitlines()[0]}\nwith {x.dtype} {list(x.shape)} on this rank",
                needed="every rank alive and in the same collective, with the same dtype and shape",
                do="look at the other ranks' errors first; ProcessGroup(..., check=True) compares signatures",
            ) from error

    def _connected(self) -> Way:
        def tell(message: bytes) -> list[bytes]:
            row = torch.frombuffer(bytearray(message.ljust(MESSAGE_BYTES, b"\0")), dtype=torch.uint8).to(self._device)
            rows = self._sockets.gather(row, [row.shape] * self.size, signature_of("connect", ""))
            return [bytes(row.tolist()).rstrip(b"\0") for row in rows]

        def among(ranks: Sequence[int]) -> Wire:
            members = [dist.get_global_rank(self.group, rank) for rank in ranks]
            group = dist.new_group(members, backend="gloo", use_local_synchronization=True)
            return Wire(group, ranks.index(self.rank), len(ranks), torch.device("cpu"))

        self._way = connect(self.rank, self._sockets, tell, among, _timeout_of(self.group, self._device))
        return self._way


def _timeout_of(group: dist.ProcessGroup, device: torch.device) -> float:
    """Seconds that a collective of the group may wait; torch's default where a backend does not tell."""
    options = getattr(group._get_backend(device), "options", None)
    seconds: float = getattr(options, "_timeout", dist.default_pg_timeout).total_seconds()
    return seconds


def _resolve(group: dist.ProcessGroup | DeviceMesh | None) -> dist.ProcessGroup:
    if isinstance(group, DeviceMesh):
        if group.ndim != 1:
            raise InputError(
                "a mesh of several dims is not one group",
                got=str(group),
                do="pass one mesh dim, for example mesh['tp']",
            )
        return group.get_group()
    world = dist.group.WORLD if group is None else group
    if not isinstance(world, dist.ProcessGroup):
        raise InputError("this process is not in the group", got=repr(group), do="call it on the group's ranks only")
    return world
