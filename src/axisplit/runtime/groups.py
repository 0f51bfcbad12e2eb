"""Groups of ranks that communicate.

    Group            what every group does (a protocol); all results are new tensors
    ProcessGroup     ranks are processes, over torch.distributed
    SingleGroup      one rank, no communication
    FakeGroup        a rank of a group that cannot communicate, for tracing on fake tensors
    SimulatedGroup   ranks are threads (simulate.py)

A sum is taken in rank order, in float32 at least, and rounded once, by `sum_in_rank_order`, in processes on CPU as
among simulated ranks: both give the same bits, and all ranks get the same bits. On CPU a reduction is an exchange of
exact shares (wire.py; 2 ranks: of the whole tensor; more: a reduce-scatter, then an all-gather), which moves the
bandwidth-optimal 2 (n - 1) / n * S in the tensor's own dtype; up to 4 KiB it is one exchange among any number of
ranks. On other devices it is the backend's own, but for float16 and bfloat16. Gradients do not pass through a group:
collectives.py adds them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from axisplit.errors import CollectiveError, InputError
from axisplit.runtime.wire import Signature, Wire, signature_of

__all__ = ["FakeGroup", "Group", "ProcessGroup", "SingleGroup", "max_over_ranks", "sum_in_rank_order"]

T = TypeVar("T")
Combine = Callable[[Sequence[Tensor]], Tensor]

_SMALL_BYTES = 4096
"""Up to here latency counts and not bytes: one exchange of the whole tensor in place of a reduce-scatter and an
all-gather, and in place of a broadcast, so that ranks which name different sources are found out."""


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

    def broadcast(self, x: Tensor, src: int, site: str = "") -> Tensor:
        """The tensor of rank `src` of this group; x has one shape and dtype on all ranks."""

    def broadcast_object(self, value: Any, src: int = 0, site: str = "") -> Any:
        """The JSON value of rank `src`; JSON and not pickle, so that a peer cannot run code here."""

    def barrier(self) -> None:
        """Wait for all ranks."""


def sum_in_rank_order(parts: Sequence[Tensor]) -> Tensor:
    """Sum with float16 and bfloat16 accumulated in float32 and rounded once: a new tensor in the parts' dtype."""
    dtype = parts[0].dtype
    low = dtype in (torch.float16, torch.bfloat16)
    if len(parts) == 1:
        return parts[0].clone()
    total = parts[0].float() + parts[1] if low else parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total.to(dtype)


def max_over_ranks(parts: Sequence[Tensor]) -> Tensor:
    """Elementwise maximum as a new tensor."""
    return torch.stack(list(parts)).amax(0)


class SingleGroup:
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


class FakeGroup:
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


class ProcessGroup:
    """Ranks of a torch.distributed group.

    Args:
        group: the group, a 1-dim DeviceMesh, or None to state that all processes are meant.
        check: exchange the signature (256 bytes a rank) before each collective, not only with it: also ranks whose
            sizes differ then get an error that names both sides, where gloo aborts.
    Raises: InputError if torch.distributed is not initialised or the mesh has more dims.
    """

    def __init__(self, group: dist.ProcessGroup | DeviceMesh | None, *, check: bool = False) -> None:
        if not dist.is_initialized():
            raise InputError(
                "torch.distributed is not initialised",
                do="start with `axisplit run --ranks N SCRIPT` or torchrun, and call init_process_group first",
            )
        self.group = _resolve(group)
        self.rank = dist.get_rank(self.group)
        self.size = dist.get_world_size(self.group)
        self._check = check
        self._device = torch.device("cuda" if dist.get_backend(self.group) == "nccl" else "cpu")
        self._wire = Wire(self.group, self.rank, self.size, self._device)

    def all_reduce_sum(self, x: Tensor, site: str = "") -> Tensor:
        return self._run("all_reduce_sum", site, x, partial(self._reduce, sum_in_rank_order, dist.ReduceOp.SUM))

    def all_reduce_max(self, x: Tensor, site: str = "") -> Tensor:
        return self._run("all_reduce_max", site, x, partial(self._reduce, max_over_ranks, dist.ReduceOp.MAX))

    def all_gather(self, x: Tensor, shapes: Sequence[Sequence[int]], site: str = "") -> list[Tensor]:
        return self._run("all_gather", site, x, partial(self._gather, shapes), [list(shape) for shape in shapes])

    def all_to_all(
        self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], site: str = "", sides: object = None
    ) -> list[Tensor]:
        given = [part.detach().contiguous() for part in parts]
        return self._run("all_to_all", site, given[self.rank], partial(self._swap, given, shapes), sides)

    def broadcast(self, x: Tensor, src: int, site: str = "") -> Tensor:
        return self._run("broadcast", site, x, partial(self._broadcast, src), [list(x.shape), src])

    def broadcast_object(self, value: Any, src: int = 0, site: str = "") -> Any:
        data = json.dumps(value).encode() if self.rank == src else b""
        size = self.broadcast(torch.tensor([len(data)], device=self._device), src, site)
        payload = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(int(size)).byte()
        return json.loads(bytes(self.broadcast(payload.to(self._device), src, site).tolist()))

    def barrier(self) -> None:
        nothing = torch.empty(0, device=self._device)
        self._run("barrier", "", nothing, lambda x, s: self._wire.gather(x, [(0,)] * self.size, s, phase=0))

    def _run(self, kind: str, site: str, x: Tensor, call: Callable[[Tensor, Signature], T], shared: object = None) -> T:
        """`shared`: what all ranks agree on, where that is not x's shape."""
        x = x.detach().contiguous()
        signature = signature_of(kind, site, str(x.dtype), str(list(x.shape) if shared is None else shared))
        try:
            if self._check:
                self._wire.compare(signature)
            return call(x, signature)
        except RuntimeError as error:
            raise self._failed(kind, site, x, error) from error

    def _failed(self, kind: str, site: str, x: Tensor, error: RuntimeError) -> CollectiveError:
        return CollectiveError(
            f"{kind} failed on rank {self.rank} of {self.size}",
            where=site or None,
            got=f"{str(error).splitlines()[0]}\nwith {x.dtype} {list(x.shape)} on this rank",
            needed="every rank alive and in the same collective, with the same dtype and shape",
            do="look at the other ranks' errors first; ProcessGroup(..., check=True) compares signatures",
        )

    def _reduce(self, combine: Combine, op: dist.ReduceOp.RedOpType, x: Tensor, signature: Signature) -> Tensor:
        if x.device.type != "cpu" and x.dtype not in (torch.float16, torch.bfloat16):
            result = x.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(result, op=op, group=self.group)
            return result
        if self.size == 2 or x.numel() * x.element_size() <= _SMALL_BYTES:
            return combine(self._wire.gather(x, [x.shape] * self.size, signature, phase=0))
        return self._reduce_in_chunks(x, combine, signature)

    def _reduce_in_chunks(self, x: Tensor, combine: Combine, signature: Signature) -> Tensor:
        """Each rank reduces one chunk of the flattened tensor, then all gather the chunks."""
        flat, n = x.reshape(-1), self.size
        sizes = [(r + 1) * flat.numel() // n - r * flat.numel() // n for r in range(n)]
        chunks = self._wire.swap(torch.split(flat, sizes), [(sizes[self.rank],)] * n, signature, phase=0)
        sums = self._wire.gather(combine(chunks), [(size,) for size in sizes], signature, phase=1)
        return torch.cat(sums).view(x.shape)

    def _gather(self, shapes: Sequence[Sequence[int]], x: Tensor, signature: Signature) -> list[Tensor]:
        return [part.clone() for part in self._wire.gather(x, shapes, signature, phase=0)]

    def _swap(
        self, parts: list[Tensor], shapes: Sequence[Sequence[int]], x: Tensor, signature: Signature
    ) -> list[Tensor]:
        return [part.clone() for part in self._wire.swap(parts, shapes, signature, phase=0)]

    def _broadcast(self, src: int, x: Tensor, signature: Signature) -> Tensor:
        if x.numel() * x.element_size() <= _SMALL_BYTES:
            return self._wire.gather(x, [x.shape] * self.size, signature, phase=0)[src].clone()
        result = x.clone(memory_format=torch.contiguous_format)
        dist.broadcast(result.view(-1).view(torch.uint8), group=self.group, group_src=src)
        return result


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
