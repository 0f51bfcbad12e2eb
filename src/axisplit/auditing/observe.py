"""What every module of a model takes and gives in one forward, and the gradients that arrive at what it gives.

A value's name is `module#call` (the n-th call of that module in this forward) with `<` for its first float input, `>`
and the leaf's path for its outputs: `layers.0.mlp#0>0`. Values are copies: later code may write into them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from axisplit.auditing.states import Values
from axisplit.capture.trees import leaves


@dataclass
class Observed:
    """`values` are inputs and outputs in the order in which they come; `inside`: the modules that run at the moment."""

    values: Values = field(default_factory=dict)
    cotangents: Values = field(default_factory=dict)
    inside: list[str] = field(default_factory=list)


@contextmanager
def observing(model: nn.Module, cotangents: bool = False) -> Iterator[Observed]:
    """Watch a forward (and with `cotangents` the backward after it) that runs inside."""
    seen, handles = Observed(), []
    calls: Counter[str] = Counter()
    for path, module in model.named_modules():
        before, after = _hooks(seen, path, calls, cotangents)
        handles += [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def module_of(value: str) -> str:
    """The module in a value's name.

    >>> module_of("layers.0.mlp#0>0")
    'layers.0.mlp'
    """
    return value.rpartition("#")[0]


def is_input(value: str) -> bool:
    """Whether it is what a module takes, not what it gives."""
    return value.endswith("<")


def _hooks(
    seen: Observed, path: str, calls: Counter[str], cotangents: bool
) -> tuple[Callable[..., None], Callable[..., None]]:
    running: list[int] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        running.append(calls[path])
        calls[path] += 1
        seen.inside.append(path)
        first = next((t for _, t in leaves([args, kwargs], _itself) if t.is_floating_point()), None)
        if first is not None:
            seen.values[f"{path}#{running[-1]}<"] = local_copy(first)

    def after(module: nn.Module, args: Any, result: Any) -> None:
        seen.inside.pop()
        call = running.pop()
        for leaf, tensor in leaves(result, _itself):
            if not tensor.is_floating_point():
                continue
            name = f"{path}#{call}>{leaf}"
            seen.values[name] = local_copy(tensor)
            if cotangents and tensor.requires_grad:
                tensor.register_hook(lambda grad, name=name: seen.cotangents.__setitem__(name, local_copy(grad)))  # type: ignore[no-untyped-call]

    return before, after


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def local_copy(tensor: Tensor) -> Tensor:
    """A copy in plain float64; of a DTensor this rank's part."""
    to_local = getattr(tensor, "to_local", None)
    local = tensor if to_local is None else to_local()
    wait = getattr(local, "wait", None)  # a collective's result that is still on its way
    return torch.Tensor.clone((local if wait is None else wait()).detach()).double()
