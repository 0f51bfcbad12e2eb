"""Figures and state of the whole model from ranks that hold parts: boxes, overlapping, whole, on the first only."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import axisplit
from axisplit import Plan
from axisplit.errors import InputError
from axisplit.lower.apply import make_rank, take_shard
from axisplit.runtime.simulate import simulate
from axisplit.runtime.sites import unregister

BOXES = (  # of [4, 6]: row 1 is shared by 0 and 1, by 0 and 2, in column 2 by all; rows 2 and 3 there by 1 and 2
    (((0, 2),), ((0, 6),)),
    (((1, 4),), ((1, 3),)),
    (((1, 4),), ((0, 1), (2, 6))),
)


class Net(nn.Module):
    """`split` in boxes, `once` on the first rank only, `norm` and `count` whole, `again` tied to `split`."""

    def __init__(self) -> None:
        super().__init__()
        self.split = nn.Parameter(torch.randn(4, 6))
        self.once = nn.Parameter(torch.randn(4))
        self.norm = nn.Parameter(torch.randn(6))
        self.again = self.split
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.norm) @ self.split.T + self.once


def held(plan: Plan) -> Plan:
    """The plan with its parameters held as above; nothing runs forward here."""
    ways: dict[str, dict[str, Any]] = {"split": {"held": "split", "ranges": BOXES}, "once": {"held": "first"}}
    parameters = (replace(p, gradient="own", **ways.get(p.name, {"held": "whole"})) for p in plan.parameters)
    return replace(plan, parameters=tuple(parameters), places=(), edits=(), captured=())


def on_parts(model: nn.Module, plan: Plan, fn: Callable[[nn.Module, int], Any]) -> list[Any]:
    def rank(group: Any) -> Any:
        part, _ = make_rank(model, plan, group, "training")
        try:
            return fn(part, group.rank)
        finally:
            unregister("training")

    return simulate(plan.ranks, rank)


@pytest.fixture
def net() -> tuple[Net, Plan]:
    torch.manual_seed(0)
    model = Net().double()
    return model, held(axisplit.plan(model, (torch.randn(3, 6).double(),), ranks=3))


@pytest.mark.parametrize("order", [1.0, 2.0, 3.5, float("inf")])
def test_each_entry_counts_once_in_the_norm(net, order):
    model, plan = net
    shards = {p.name: p for p in plan.parameters}
    whole = copy.deepcopy(model)
    for parameter in whole.parameters():
        parameter.grad = torch.randn_like(parameter)

    def clipped(part: nn.Module, rank: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        for name, parameter in part.named_parameters():
            parameter.grad = take_shard(shards[name], whole.get_parameter(name).grad, rank).clone()
        found = axisplit.clip_grad_norm_(part, 0.5, order)
        return found, {name: p.grad for name, p in part.named_parameters()}

    found = on_parts(model, plan, clipped)
    wanted = torch.nn.utils.clip_grad_norm_(whole.parameters(), 0.5, order)
    for rank, (norm, gradients) in enumerate(found):
        torch.testing.assert_close(norm, wanted)
        assert torch.equal(norm, found[0][0])
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, take_shard(shards[name], whole.get_parameter(name).grad, rank))


def test_the_whole_state_dict_comes_together_on_rank_0(net):
    model, plan = net
    found = on_parts(model, plan, lambda part, rank: axisplit.gather_state_dict(part))
    assert found[1:] == [{}, {}]
    assert list(found[0]) == list(model.state_dict()) == ["split", "once", "norm", "again", "count"]
    for name, value in model.state_dict().items():
        assert torch.equal(found[0][name], value), name
    assert found[0]["again"] is found[0]["split"]


def test_gradients_that_are_no_numbers(net):
    model, plan = net

    def refused(part: nn.Module, rank: int) -> str:
        part.split.grad = torch.full_like(part.split, float("nan") if rank == 1 else 0.0)
        assert axisplit.clip_grad_norm_(part, 1.0).isnan()
        with pytest.raises(RuntimeError, match="they cannot be clipped") as refusal:
            axisplit.clip_grad_norm_(part, 1.0, error_if_nonfinite=True)
        return str(refusal.value)

    assert len(set(on_parts(model, plan, refused))) == 1, "every rank is told"


def test_what_is_no_part_is_refused(net):
    model, plan = net
    with pytest.raises(InputError, match="the model is not a rank's part"):
        axisplit.clip_grad_norm_(model, 1.0)

    def with_more(part: nn.Module, rank: int) -> str:
        part.adapter = nn.Parameter(torch.zeros(2))
        with pytest.raises(InputError, match="the plan does not know these parameters") as refusal:
            axisplit.gather_state_dict(part)
        return str(refusal.value)

    assert all("adapter" in text for text in on_parts(model, plan, with_more))
