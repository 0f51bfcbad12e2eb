"""Whole model beside simulated ranks, without `axisplit.verify`: every output of one forward pass in float64, and the
tokens of a greedy generation. Ranks are made and simulated as for users; only how a model is run in float64 is shared
with the proof.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from axisplit import Plan
from axisplit.lower.apply import make_rank
from axisplit.proof.numbers import Widened, wide_by_default
from axisplit.runtime.groups import Group
from axisplit.runtime.simulate import simulate
from axisplit.runtime.sites import unregister

TOLERANCE = 1e-10  # of an output's largest value, in float64: some thousand roundings are 1e-13
NEW_TOKENS = 6
_KEY = "coverage"
T = TypeVar("T")


class DifferentOutputs(Exception):
    """An output is missing, of another shape, or not a number on one side only."""


def on_ranks(plan: Plan, model: nn.Module, run: Callable[[nn.Module], T], mode: Any = nullcontext) -> list[T]:
    """`run` of every simulated rank's part."""

    def rank(group: Group) -> T:
        part, _ = make_rank(model, plan, group, _KEY)
        try:
            with mode():
                return run(part)
        finally:
            unregister(_KEY)

    return simulate(plan.ranks, rank)


def forward_error(plan: Plan, model: nn.Module, inputs: Mapping[str, Any]) -> float:
    """Largest difference of any output on any rank from the whole model's, over that output's largest value.

    Raises: DifferentOutputs where the outputs are not even alike.
    """
    wide = in_float64(model)
    given = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in inputs.items()}

    def run(part: nn.Module) -> dict[str, Tensor]:
        torch.manual_seed(0)  # some models draw in evaluation, too
        with torch.no_grad():
            return dict(tensors(part(**given)))

    with wide_by_default():  # a number that a forward makes (the least of float64, for a mask) is float64 as well
        with Widened():
            whole = run(wide)
        parts = on_ranks(plan, wide, run, Widened)
    if not whole:
        raise DifferentOutputs("the whole model returns no tensor")
    return max(largest_gap(whole, part) for part in parts)


def in_float64(model: nn.Module) -> nn.Module:
    """A copy with float64 parameters and buffers; one that has two names stays one (`.double()` makes two buffers)."""
    made = copy.deepcopy(model)
    for tensor in (*made.parameters(), *made.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.double()
    return made


def tensors(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensor leaves by path; what is no tuple, list or mapping (a cache) stays a rank's own."""
    if isinstance(tree, Tensor):
        yield path or "output", tree
    elif isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from tensors(item, f"{path}.{key}".lstrip("."))
    elif isinstance(tree, (tuple, list)):
        for index, item in enumerate(tree):
            yield from tensors(item, f"{path}.{index}".lstrip("."))


def largest_gap(whole: Mapping[str, Tensor], part: Mapping[str, Tensor]) -> float:
    """The largest `gap` of any output. Raises: DifferentOutputs.

    >>> largest_gap({"y": torch.tensor([1.0, -2.0])}, {"y": torch.tensor([1.0, -1.5])})
    0.25
    """
    if whole.keys() != part.keys():
        raise DifferentOutputs(f"outputs {sorted(part)} instead of {sorted(whole)}")
    return max(gap(name, whole[name], part[name]) for name in whole)


def gap(name: str, whole: Tensor, part: Tensor) -> float:
    """Largest absolute difference over the largest finite value of `whole`. Raises: DifferentOutputs."""
    if whole.shape != part.shape:
        raise DifferentOutputs(f"{name} is {list(part.shape)} instead of {list(whole.shape)}")
    finite = whole.isfinite()
    if not torch.equal(finite, part.isfinite()):
        raise DifferentOutputs(f"{name} is finite elsewhere")
    if not finite.any():
        return 0.0
    wanted, got = whole[finite], part[finite]
    if not whole.is_floating_point() and not whole.is_complex():
        return 0.0 if torch.equal(wanted, got) else 1.0
    scale = float(wanted.abs().max())
    largest = float((wanted - got).abs().max())
    return largest / scale if scale else largest


def greedy(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """The model's own greedy generation with its cache: int64 [B, S + NEW_TOKENS]."""
    given = {name: value for name, value in inputs.items() if name != "use_cache"}
    torch.manual_seed(0)
    tokens = model.generate(**given, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)  # type: ignore[operator]
    return tokens if isinstance(tokens, Tensor) else tokens.sequences
