"""What a forward or backward sends, by watching torch's collectives: DTensor's, `torch.distributed`'s own, all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from axisplit.runtime.costs import all_reduce_bytes, broadcast_bytes

T = TypeVar("T")
_KINDS = {
    "all_reduce": "all_reduce", "allreduce": "all_reduce", "all_gather": "all_gather", "allgather": "all_gather",
    "reduce_scatter": "reduce_scatter", "all_to_all": "all_to_all", "alltoall": "all_to_all", "broadcast": "broadcast",
}  # fmt: skip


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts bytes in terms of a float's size in the model's own dtype: the runs that are watched are in float64.

    Args:
        num_ranks: of the group.
        float_bytes: of one number in the model's dtype.
    """

    def __init__(self, num_ranks: int, float_bytes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_ranks, self.float_bytes = num_ranks, float_bytes
        self.sent: Counter[str] = Counter()

    def during(self, action: Callable[[], T]) -> T:
        """The action's result; what it sends is counted."""
        with self:
            return action()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # DTensor makes plain ops of it, which come here
        if func.namespace in ("c10d", "_c10d_functional"):
            self._count(func.__name__.lstrip("_"), args, func.namespace == "c10d")
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: Any, in_place: bool) -> None:
        kind = next((kind for prefix, kind in _KINDS.items() if name.startswith(prefix)), None)
        if kind is None:
            return
        written_first = in_place and kind not in ("all_reduce", "broadcast")
        given = _tensors(args[1] if written_first else args[0])
        size = sum(t.numel() * (self.float_bytes if t.is_floating_point() else t.element_size()) for t in given)
        self.sent[kind] += round(self._bytes(kind, size))

    def _bytes(self, kind: str, size: int) -> float:
        """What one rank sends; `size` is of what it brings."""
        others = self.num_ranks - 1
        if kind == "all_reduce":
            return all_reduce_bytes(size, self.num_ranks)
        if kind == "all_gather":
            return float(others * size)
        return broadcast_bytes(size, self.num_ranks) if kind == "broadcast" else others / self.num_ranks * size


def _tensors(given: Any) -> list[torch.Tensor]:
    if isinstance(given, torch.Tensor):
        return [given]
    return [tensor for item in given for tensor in _tensors(item)] if isinstance(given, (list, tuple)) else []
