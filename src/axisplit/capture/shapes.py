"""What shapes ops make, remembered: the fake mode is asked once for each kind of call.

    key      op, what its operands look like, its other arguments with their types, torch's state that shapes depend on
             (without gradients: then only views of parameters need any)
    results  of each: the operand that it is, or its shape, strides, offset and dtype and the operand whose storage it
             shares

Made from such an entry a result takes a tenth of the time that the fake mode takes, and most ops of a program are of a
kind that was seen: blocks repeat, and so do phases and ranks. Only `aten` ops that write to nothing, on fakes of which
no number is known, are remembered; every other one is asked for again.

Example: `add(a, b)` of two float [4, 8] -> fresh, (4, 8), (8, 1); `transpose(a, 0, 1)` -> storage of operand 0,
(8, 4), (1, 8), offset 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager

MOST_KEPT = 50_000
_FRESH = -1
_PLAIN = {int, float, bool, complex, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format}


@dataclass(frozen=True, slots=True)
class _Look:
    """A result that is a tensor on the storage of operand `source` (`_FRESH`: on a new one)."""

    source: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool


# key -> (list or tuple of results, each as it looks or the number of the operand that it is)
_known: dict[tuple[Any, ...], tuple[type | None, list[_Look | int]]] = {}


def remembered(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], run: Callable[[], Any]) -> Any:
    """What `run`, a call of the op under a fake mode, gives."""
    mode = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
    if mode is None or torch.is_grad_enabled() or not _is_steady(op):
        return run()
    operands: list[FakeTensor] = []
    parts: list[Any] = [op, *_state()]
    if not _describe(args, parts, operands) or not _describe(kwargs, parts, operands):
        return run()
    key = tuple(parts)
    found = _known.get(key)
    if found is None:
        result = run()
        _keep(key, result, operands)
        return result
    kind, looks = found
    made = [_make(mode, look, operands) for look in looks]
    return made[0] if kind is None else kind(made)


@cache
def _is_steady(op: Any) -> bool:
    """Whether an op's results have the same shapes whenever its operands have."""
    values = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view}
    return op.namespace == "aten" and not op._schema.is_mutable and values.isdisjoint(op.tags)


def _state() -> tuple[Any, ...]:
    """What of torch's state decides on dtypes and strides."""
    autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    kernels = torch._C._get_math_sdp_enabled(), torch._C._get_flash_sdp_enabled()
    return autocast, torch.get_default_dtype(), torch.is_inference_mode_enabled(), kernels


def _describe(tree: Any, parts: list[Any], operands: list[FakeTensor]) -> bool:
    """Add an argument to a key, its tensors to the operands; False where it cannot be told by its looks."""
    kind = type(tree)
    if kind is FakeTensor:
        if not _is_plain(tree):
            return False
        storage = tree.untyped_storage()._cdata
        shared = next((i for i, x in enumerate(operands) if x.untyped_storage()._cdata == storage), len(operands))
        parts += (shared, tree.shape, tree.stride(), tree.storage_offset(), tree.dtype)
        parts += (tree.fake_device, tree.requires_grad)
        operands.append(tree)
    elif kind in _PLAIN:
        parts += (kind, tree)
    elif isinstance(tree, int):  # one that remembers where it came from
        parts += (int, int(tree))
    elif kind is tuple or kind is list:
        parts += (kind, len(tree))
        return all(_describe(item, parts, operands) for item in tree)
    elif kind is dict:
        parts += (kind, *tree)
        return all(_describe(item, parts, operands) for item in tree.values())
    else:
        return False
    return True


def _is_plain(tensor: FakeTensor) -> bool:
    """Whether a fake has nothing but a shape: no known number, no lazy conjugate or sign."""
    known = tensor.constant is not None or tensor.layout is not torch.strided
    return not known and not tensor.is_conj() and not tensor.is_neg()


def _keep(key: tuple[Any, ...], result: Any, operands: list[FakeTensor]) -> None:
    """Remember how the results of a call came to be, where they can be made again so."""
    kind = type(result) if type(result) in (list, tuple) else None
    made = [result] if kind is None else list(result)
    looks = [_look(tensor, operands) for tensor in made]
    new = [isinstance(look, _Look) and look.source == _FRESH for look in looks]
    fresh = [tensor.untyped_storage()._cdata for tensor, is_new in zip(made, new, strict=True) if is_new]
    if len(_known) >= MOST_KEPT:
        _known.clear()
    if None not in looks and len(set(fresh)) == len(fresh):
        _known[key] = kind, [look for look in looks if look is not None]


def _look(tensor: Any, operands: list[FakeTensor]) -> _Look | int | None:
    """How one result came to be; None where that is not known."""
    itself = next((i for i, operand in enumerate(operands) if operand is tensor), None)
    if itself is not None:
        return itself
    if type(tensor) is not FakeTensor or not _is_plain(tensor):
        return None
    storage = tensor.untyped_storage()._cdata
    source = next((i for i, x in enumerate(operands) if x.untyped_storage()._cdata == storage), _FRESH)
    if source == _FRESH and tensor.storage_offset():
        return None
    shape, stride, offset = tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())
    return _Look(source, shape, stride, offset, tensor.dtype, tensor.fake_device, tensor.requires_grad)


def _make(mode: FakeTensorMode, look: _Look | int, operands: list[FakeTensor]) -> torch.Tensor:
    """A result from what is known of it."""
    if isinstance(look, int):
        return operands[look]
    with in_kernel_invocation_manager(mode):
        made = torch.empty_strided(
            look.shape, look.stride, dtype=look.dtype, device="meta", requires_grad=look.requires_grad
        )
        if look.source != _FRESH:
            made.set_(operands[look.source].untyped_storage(), look.offset, look.shape, look.stride)
    return FakeTensor(mode, made, look.device)
