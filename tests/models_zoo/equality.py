"""Whole model against ranks, without `axisplit.verify`: run both, keep every floating-point output, compare.

A model that generates runs a prompt and then greedy steps with the cache that it made itself; on a rank that cache is
the rank's part, and only what is fed back in (tokens, masks) and what comes out is compared.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from axisplit import Plan
from axisplit.lower.apply import make_rank
from axisplit.proof.numbers import Widened
from axisplit.runtime.groups import Group
from axisplit.runtime.simulate import simulate
from axisplit.runtime.sites import unregister
from models_zoo.tiny import Tiny

TOLERANCE = 1e-10  # of the largest output, in float64: 2**-53 times some thousand roundings is 1e-13
Outputs = dict[str, Tensor]
T = TypeVar("T")


def run(model: nn.Module, tiny: Tiny, batch: int, length: int, padded: bool = False) -> Outputs:
    """Outputs of one forward, or of a prompt and `tiny.steps` greedy steps after it."""
    dtype = next(model.parameters()).dtype
    given = tiny.inputs(batch, length)
    with torch.no_grad():
        if isinstance(given, tuple):
            return dict(tensors(model(*[x.to(dtype) for x in given])))
        kwargs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in given.items()}
        if padded:
            kwargs["attention_mask"] = left_padding(kwargs["input_ids"])
        return greedy(model, kwargs, tiny.steps) if tiny.steps else dict(tensors(model(**kwargs)))


def takes_mask(model: nn.Module, tiny: Tiny) -> bool:
    return "attention_mask" in inspect.signature(model.forward).parameters and "input_ids" in tiny.inputs(1, 4)


def left_padding(ids: Tensor) -> Tensor:
    """Row r hides its first 2 r tokens."""
    return (torch.arange(ids.shape[1]) >= 2 * torch.arange(ids.shape[0])[:, None]).long()


def greedy(model: nn.Module, kwargs: dict[str, Any], steps: int) -> Outputs:
    """`prompt:...`, `step 1:...`, and so on; each step's token as `token 1`."""
    accepted = inspect.signature(model.forward).parameters
    fed = "decoder_input_ids" if "decoder_input_ids" in kwargs else "input_ids"
    found: Outputs = {}
    now = {**kwargs, "use_cache": True}
    for step in range(steps + 1):
        result = model(**now)
        found |= {f"step {step}:{name}": value for name, value in tensors(result)}
        token = found[f"token {step}"] = result.logits[:, -1:].argmax(-1)
        state = {k: v for k, v in result.items() if k in accepted and not isinstance(v, Tensor)}
        now = {**now, **state, fed: token}
        if "attention_mask" in now and fed == "input_ids":
            now["attention_mask"] = torch.cat([now["attention_mask"], torch.ones_like(token)], dim=1)
        if fed == "decoder_input_ids":
            now["encoder_outputs"] = (result.encoder_last_hidden_state,)
    return found


def tensors(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Floating-point leaves; what is no tuple, list or mapping (a cache) is the model's own business."""
    if isinstance(tree, Tensor) and tree.is_floating_point():
        yield path or "output", tree
    elif isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from tensors(item, f"{path}.{key}")
    elif isinstance(tree, (tuple, list)):
        for index, item in enumerate(tree):
            yield from tensors(item, f"{path}.{index}")


def on_ranks(
    plan: Plan, model: nn.Module, fn: Callable[[nn.Module], T], mode: Any = nullcontext
) -> list[tuple[T, float]]:
    """(`fn` of its part, bytes it sent) for every simulated rank."""

    def rank(group: Group) -> tuple[T, float]:
        part, context = make_rank(model, plan, group, "zoo")
        try:
            with mode():
                return fn(part), context.comm_bytes
        finally:
            unregister("zoo")

    return simulate(plan.ranks, rank)


def worst_difference(plan: Plan, model: nn.Module, fn: Callable[[nn.Module], Outputs]) -> float:
    """Largest difference between whole and any rank in float64, over the largest output; the same outputs, shapes and
    tokens are asserted.
    """
    wide = copy.deepcopy(model).double()
    with Widened():
        whole = fn(wide)
    worst = 0.0
    for part, _ in on_ranks(plan, wide, fn, Widened):
        assert part.keys() == whole.keys()
        for name, wanted in whole.items():
            assert part[name].shape == wanted.shape, name
            if not wanted.is_floating_point():
                assert torch.equal(part[name], wanted), name
                continue
            seen = wanted.isfinite()
            assert torch.equal(seen, part[name].isfinite()), name
            gap = (part[name] - wanted)[seen].abs().max() / wanted[seen].abs().max()
            worst = max(worst, float(gap))
    return worst
