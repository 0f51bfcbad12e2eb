"""What no output notices is compared where it is delivered."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, linear, relu

import axisplit
from axisplit.proof import verify
from axisplit.proof.delivered import Delivery
from models_zoo.tiny import perturb


class Gate(nn.Module):
    """A block that only decides: the answer shows whether its scores are above a threshold."""

    product = staticmethod(lambda x, up, down: relu(linear(gelu(linear(x, up)), down)))

    def __init__(self, reachable: bool = True) -> None:
        super().__init__()
        self.reachable = reachable
        self.up, self.down, self.out = nn.Linear(16, 48), nn.Linear(48, 16), nn.Linear(16, 16)

    def forward(self, x):
        scores = self.down(gelu(self.up(x))) if self.reachable else self.product(x, self.up.weight, self.down.weight)
        return self.out(x) * (scores > -1e6)


class Faint(Gate):
    """What the scores add is lost in the rounding of the rest, but in float64."""

    def forward(self, x):
        return self.out(x) + 1e-7 * self.product(x, self.up.weight, self.down.weight)


def gated(reachable: bool = True, kind: type[Gate] = Gate):
    torch.manual_seed(0)
    model, inputs = perturb(kind(reachable)).eval(), (torch.randn(2, 5, 16),)
    return model, inputs, axisplit.plan(model, inputs, ranks=2)


def test_what_decides_far_from_its_threshold():
    model, inputs, plan = gated()
    verdict = axisplit.verify(model, inputs, plan)
    assert verdict.equal
    assert verdict.control_caught
    (delivery,) = verdict.deliveries
    assert (delivery.collective,) == verdict.numbers.unnoticed
    assert delivery.noticed
    assert delivery.exercised
    assert 0 < delivery.max_error <= delivery.bound < 1e-4 < delivery.missing
    assert 0 < delivery.exact_error < 1e-13 < 1e-3 < delivery.exact_missing
    assert f"no output notices {delivery.collective}" in str(verdict)


def test_a_wrong_value_that_no_output_notices(monkeypatch):
    model, inputs, plan = gated()
    held = {p.name: p for p in plan.parameters}
    swapped = replace(held["down.weight"], ranges=held["down.weight"].ranges[::-1])
    broken = replace(plan, parameters=tuple(swapped if p is held["down.weight"] else p for p in plan.parameters))
    monkeypatch.setattr(verify, "misheld", lambda *_: ())  # which indices a rank holds no trace shows
    verdict = axisplit.verify(model, inputs, broken)
    assert verdict.mismatches == ()
    assert verdict.numbers.equal
    assert verdict.equal is False
    (delivery,) = verdict.deliveries
    assert delivery.max_error > 1e3 * delivery.bound
    assert delivery.exact_error > 1e-3


def test_what_a_captured_program_delivers_stays_unnoticed():
    model, inputs, plan = gated(reachable=False)
    assert plan.captured
    verdict = axisplit.verify(model, inputs, plan)
    assert verdict.equal
    assert verdict.deliveries == ()
    assert verdict.could_not


def test_what_outputs_notice_in_float64_only():
    model, inputs, plan = gated(kind=Faint)
    assert plan.captured
    verdict = axisplit.verify(model, inputs, plan)
    ((name, error),) = verdict.numbers.exact_controls.items()
    assert verdict.numbers.control_errors[name] <= 10 * verdict.bound
    assert 1e-9 < error < 1e-4
    assert verdict.deliveries == ()
    assert verdict.equal
    assert verdict.control_caught
    assert f"in float64, relative, without {name}" in str(verdict)


def test_zeros_that_are_delivered_say_nothing():
    torch.manual_seed(0)
    model, inputs = perturb(Gate()).eval(), (torch.randn(2, 5, 16),)
    nn.init.zeros_(model.down.weight), nn.init.zeros_(model.down.bias)
    verdict = axisplit.verify(model, inputs, axisplit.plan(model, inputs, ranks=2))
    (delivery,) = verdict.deliveries
    assert delivery.equal
    assert not delivery.exercised
    assert verdict.could_not
    assert "it delivers zeros on these inputs" in str(verdict)


def test_what_is_there_without_a_collective_needs_no_control():
    unneeded = Delivery("all_reduce at x", 0.0, 0.0, 1.0, 0.5, exercised=True)
    assert not unneeded.noticed
    assert unneeded.conclusive
    assert not replace(unneeded, exercised=False).conclusive
    assert replace(unneeded, missing=11.0, exercised=False).conclusive


@pytest.mark.parametrize(
    ("missing", "bound", "exactly", "noticed"),
    [(11, 1, 0, True), (10, 1, 0, False), (0, 0, 0, False), (1, 0, 0, True), (9, 1, 2e-9, True), (9, 1, 1e-9, False)],
)
def test_a_control_that_is_too_small(missing, bound, exactly, noticed):
    assert Delivery("all_reduce at x", 0.0, 0.0, bound, missing, exactly).noticed is noticed
