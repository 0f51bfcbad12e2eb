"""How an op (Tensor x, str site) -> Tensor is defined in `torch.ops.axisplit`, with its fake and its backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch._C import _get_tracing_state, _len_torch_dispatch_stack, _len_torch_function_stack
from torch._C._functorch import peek_interpreter_stack
from torch._ops import OpOverload
from torch.autograd import forward_ad, profiler
from torch.compiler import is_dynamo_compiling

from axisplit.errors import CollectiveError
from axisplit.runtime.sites import BACKWARD, BoundSite, Kind, has_twin, kind_at, lookup

__all__ = ["DEFINED", "copied", "cotangent", "count_fake", "define", "fake_alike", "step_at"]

Kernel = Callable[[Tensor, BoundSite, str], Tensor]
Fake = Callable[[Tensor, str], Tensor]


def copied(x: Tensor) -> Tensor:
    """A new, contiguous tensor: what the fake implementations promise."""
    return x.clone(memory_format=torch.contiguous_format)


def count_fake(bound: BoundSite, volume: int) -> None:
    """Count a call on fake tensors, where that is asked for."""
    if bound.count_fake:
        bound.count(volume)


def fake_alike(kind: Kind) -> Fake:
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
_KERNELS: dict[str, Kernel] = {}


def define(name: Kind, kernel: Kernel, fake: Fake, differentiable: bool = True) -> OpOverload[..., Tensor]:
    """One op with its implementations; `torch.library.custom_op` costs twice as much a call."""

    def at_site(x: Tensor, site: str) -> Tensor:
        return kernel(x, lookup(site, name), site)

    _library.define(f"{name}(Tensor x, str site) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
    _library.impl(name, at_site, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"axisplit::{name}", fake, lib=_library)
    if differentiable:
        torch.library.register_autograd(f"axisplit::{name}", _twin_backward, setup_context=_remember_site, lib=_library)
    overload: OpOverload[..., Tensor] = getattr(torch.ops.axisplit, name).default
    DEFINED[name], _KERNELS[name] = overload, kernel
    return overload


def step_at(kind: Kind, site: str) -> Callable[[Tensor], Tensor]:
    """The op at a site that is registered. Where nothing looks on, its kernel is called past torch's dispatcher, which
    takes 10 to 20 µs behind a matrix that has filled the caches.

    Raises: CollectiveError if there is no such site; when called, in forward-mode differentiation, of which torch's
        custom ops know nothing: tangents are 0.
    """
    op, kernel, bound = DEFINED[kind], _KERNELS[kind], lookup(site, kind)

    def step(x: Tensor) -> Tensor:
        if not _is_watched(x):
            return kernel(x, bound, site)
        if forward_ad._current_level >= 0:
            raise CollectiveError(
                "ranks have no forward-mode derivatives",
                where=site,
                got="a call inside torch.func.jvp, jacfwd or a dual level",
                do="use reverse mode: backward, torch.autograd.grad, torch.func.vjp",
            )
        return op(x, site)

    return step


def _is_watched(x: Tensor) -> bool:
    """Whether torch's dispatcher has to see an op on x: of a compiler, tracer, mode, transform, profiler, gradient."""
    return (
        is_dynamo_compiling()
        or type(x) is not Tensor
        or (is_grad_enabled() and x.requires_grad)
        or _len_torch_dispatch_stack() > 0
        or _len_torch_function_stack() > 0
        or peek_interpreter_stack() is not None
        or _get_tracing_state() is not None
        or forward_ad._current_level >= 0
        or profiler._is_profiler_enabled
    )
