"""How an op (Tensor x, str site) -> Tensor is defined in `torch.ops.axisplit`, with its fake and its backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from axisplit.runtime.sites import BACKWARD, BoundSite, Kind, has_twin, kind_at, lookup

__all__ = ["DEFINED", "copied", "cotangent", "count_fake", "define", "fake_alike"]

Kernel = Callable[[Tensor, str], Tensor]


def copied(x: Tensor) -> Tensor:
    """A new, contiguous tensor: what the fake implementations promise."""
    return x.clone(memory_format=torch.contiguous_format)


def count_fake(bound: BoundSite, volume: int) -> None:
    """Count a call on fake tensors, where that is asked for."""
    if bound.count_fake:
        bound.count(volume)


def fake_alike(kind: Kind) -> Kernel:
    """The fake implementation of an op that sends nothing and gives a tensor like its operand."""

    def fake(x: Tensor, site: str) -> Tensor:
        count_fake(lookup(site, kind), 0)
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    return fake


def _remember_site(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.site = inputs[1]


def _twin_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return cotangent(grad, ctx.site), None


def cotangent(grad: Tensor, site: str) -> Tensor:
    """The input's cotangent from the output's, at a site: what its twin does."""
    if not has_twin(site):
        return grad
    twin = site + BACKWARD
    result: Tensor = DEFINED[kind_at(twin)](grad, twin)
    return result


_library = torch.library.Library("axisplit", "DEF")  # type: ignore[no-untyped-call]
DEFINED: dict[str, OpOverload[..., Tensor]] = {}


def define(name: str, kernel: Kernel, fake: Kernel, differentiable: bool = True) -> OpOverload[..., Tensor]:
    """One op with its implementations; `torch.library.custom_op` costs twice as much a call."""
    _library.define(f"{name}(Tensor x, str site) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
    _library.impl(name, kernel, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"axisplit::{name}", fake, lib=_library)
    if differentiable:
        torch.library.register_autograd(f"axisplit::{name}", _twin_backward, setup_context=_remember_site, lib=_library)
    overload: OpOverload[..., Tensor] = getattr(torch.ops.axisplit, name).default
    DEFINED[name] = overload
    return overload
