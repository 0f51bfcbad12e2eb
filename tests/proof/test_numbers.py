"""The bound is larger than the error and far smaller than a mistake; the control can fail."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import axisplit
from axisplit.capture.randomness import random_op
from axisplit.capture.trace import capture
from axisplit.proof.numbers import (
    CONTROL_FACTOR,
    Numbers,
    Perturbed,
    Widened,
    difference,
    distinct_collectives,
    run_all,
)
from models_zoo.equality import tensors
from models_zoo.small import Mlp
from models_zoo.tiny import ZOO, build, perturb


def forward(model, inputs):
    with torch.no_grad():
        return dict(tensors(model(*inputs) if isinstance(inputs, tuple) else model(**inputs)))


@pytest.mark.parametrize("name", ["mlp 5", "self attention", "gpt2"])
def test_bound_between_rounding_and_mistakes(name):
    model, inputs = build(name), ZOO[name].inputs(2, 9)
    verdict = axisplit.verify(model, inputs, axisplit.plan(model, inputs, ranks=2))
    whole = forward(model, inputs)
    wide_inputs = tuple(x.double() for x in inputs) if isinstance(inputs, tuple) else inputs
    true = forward(copy.deepcopy(model).double(), wide_inputs)
    rounding = difference(whole, {name: x.float() for name, x in true.items()})
    scale = max(float(x[x.isfinite()].abs().max()) for x in whole.values())
    assert verdict.equal
    assert verdict.control_caught
    assert 0 < verdict.max_error <= verdict.bound
    assert rounding <= verdict.bound <= 1e-4 * scale
    assert min(verdict.numbers.control_errors.values()) > CONTROL_FACTOR * verdict.bound


def test_verdicts_of_numbers():
    numbers = Numbers(
        exact_error=1e-13, max_error=1e-6, bound=2e-6, control_errors={"a": 1.0, "b": 3e-5}, comm_bytes=[]
    )
    assert numbers.equal
    assert numbers.control_caught is True
    assert replace(numbers, control_errors={"a": 1.0, "b": 1e-5}).control_caught is False
    assert replace(numbers, control_errors={"a": float("nan")}).control_caught is True
    assert replace(numbers, control_errors={}).control_caught is None
    assert not replace(numbers, max_error=3e-6).equal
    assert not replace(numbers, exact_error=1e-9).equal
    assert not replace(numbers, max_error=float("nan")).equal


def test_difference():
    a = {"y": torch.tensor([1.0, float("inf"), float("nan"), -4.0])}
    assert difference(a, a) == 0
    assert difference(a, {"y": torch.tensor([1.5, float("inf"), float("nan"), -4.0])}) == 0.5
    assert difference(a, {"y": torch.tensor([2.0, float("inf"), float("nan"), -4.0])}, relative=True) == 0.25
    for other in ([1.0, 5.0, float("nan"), -4.0], [1.0, float("inf"), 0.0, -4.0], [1.0, float("inf"), float("nan")]):
        assert difference(a, {"y": torch.tensor(other)}) == float("inf")
    assert difference(a, {}) == float("inf")


def test_perturbed_moves_a_product_by_its_rounding():
    torch.manual_seed(0)
    a, b = torch.randn(64, 1024), torch.randn(1024, 64)
    with Perturbed(seed=0):
        moved = a @ b
    size = float((moved - a @ b).std())
    expected = 2**-24 * 1024**0.5 * float((a @ b).square().mean().sqrt())
    assert size == pytest.approx(expected, rel=0.1)


def test_one_control_for_all_repeated_blocks():
    plan = axisplit.plan(build("gpt2"), ZOO["gpt2"].inputs(2, 9), ranks=2)
    found = distinct_collectives(plan, ())
    assert sorted(len(sites) for sites in found.values()) == [1, 1, 2, 2]
    assert sum(len(sites) for sites in found.values()) == sum(
        s.kind in ("all_reduce", "all_gather") for p in plan.places for s in p.steps
    )


class Length(nn.Module):
    """How much of its input goes on depends on what a split block says of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Mlp(), Mlp()

    def forward(self, x):
        lasting = int((self.first(x) > 0).sum())
        return self.second(x[: max(lasting % x.shape[0], 1)])


def test_a_run_that_breaks_off_without_a_collective_is_noticed():
    torch.manual_seed(0)
    model, inputs = perturb(Length()).eval(), (torch.randn(40, 16),)
    verdict = axisplit.verify(model, inputs, axisplit.plan(model, inputs, ranks=2))
    assert verdict.equal
    assert verdict.control_caught
    assert float("inf") in verdict.numbers.control_errors.values()


class Remembers(nn.Module):
    """Continues from a list of tensors that it returned, and writes to it."""

    def can_generate(self) -> bool:
        return True

    def forward(self, input_ids, state=None, use_cache=True):
        state = [torch.zeros(())] if state is None else state
        state[0] += 1
        return {"state": state}


def test_an_output_is_kept_as_it_was_returned():
    outputs = run_all(Remembers(), {"input_ids": torch.randint(16, (2, 5))})
    assert outputs == {"prefill:state.0": torch.tensor(1.0), "decode:state.0": torch.tensor(2.0)}


class Noisy(nn.Module):
    def __init__(self, used: bool) -> None:
        super().__init__()
        self.used, self.up, self.down = used, nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x):
        hidden = self.up(x).relu()
        noise = torch.rand(hidden.shape[-1])
        return self.down(hidden * noise if self.used else hidden)


def test_a_model_that_draws_is_not_compared():
    x = torch.randn(3, 8)
    plan = axisplit.plan(Noisy(used=True), (x,), ranks=2)
    assert plan.warnings == ("aten.rand.default in the model draws numbers, which differ from rank to rank",)
    assert plan.calls == ()
    with pytest.raises(axisplit.errors.InputError, match=r"draws random numbers[\s\S]*aten\.rand\.default in forward"):
        axisplit.verify(Noisy(used=True), (x,), plan)
    idle = Noisy(used=False)
    assert axisplit.verify(idle, (x,), axisplit.plan(idle, (x,), ranks=2)).equal


@pytest.mark.parametrize(("layers", "dropout", "drawing"), [(1, 0.0, None), (2, 0.5, "aten.lstm.input")])
def test_a_recurrent_layer_draws_for_its_dropout_only(layers, dropout, drawing):
    model = nn.LSTM(8, 8, layers, dropout=dropout).train()
    found = random_op(capture(model, (torch.randn(3, 2, 8),)).graph)
    assert (found and found.name) == drawing


class Groups(nn.Module):
    """Sums features by a matrix that is neither parameter nor buffer."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.groups = nn.Linear(8, 12), nn.Linear(3, 8), [torch.eye(3).repeat_interleave(4, 0)]

    def forward(self, x):
        return self.down(torch.mm(self.up(x), self.groups[0]))


def test_tensors_in_plain_attributes_are_widened_where_they_must_be():
    model, inputs = Groups(), (torch.randn(5, 8),)
    verdict = axisplit.verify(model, inputs, axisplit.plan(model, inputs, ranks=2), gradients=True)
    assert verdict.equal
    assert verdict.exact_error < 1e-12
    written, wide = torch.zeros(2), torch.ones(2, dtype=torch.float64)
    with Widened(), pytest.raises(RuntimeError):
        torch.mv(torch.eye(2, dtype=torch.float64), wide, out=written)


class SharesABuffer(nn.Module):
    """One table under two names, as modules that are made with each other's hold it."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 48), nn.Linear(48, 16)
        self.up.table = self.down.table = nn.Buffer(torch.randn(16))

    def forward(self, x):
        return self.down(self.up(x * self.up.table).relu()) * self.down.table


def test_a_buffer_under_two_names():
    model, x = SharesABuffer(), torch.randn(2, 5, 16)
    assert len(dict(model.named_buffers())) == 1
    verdict = axisplit.verify(model, (x,), axisplit.plan(model, (x,), ranks=2), gradients=True)
    assert verdict.equal
    assert verdict.exact_error < 1e-13
