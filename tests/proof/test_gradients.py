"""Gradients in the verdict: right plans are equal, each thing that a plan can get wrong in backward is found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import axisplit
from axisplit.capture.trace import capture
from axisplit.errors import InputError, PlanMismatchError, ProofError
from axisplit.lower.lowering import prove_programs
from axisplit.lower.planning import _Planner, begin_search
from axisplit.proof.backward import gradients_of
from axisplit.proof.gradients import measure_gradients


class Block(nn.Module):
    """A residual block whose slope every rank uses on its own part of the hidden axis, as a norm of queries is."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(48, 16)
        self.slope, self.dropout = nn.Parameter(torch.tensor([1.5])), nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.dropout(torch.tanh(self.slope * self.up(self.norm(x)))))


@pytest.fixture(scope="module")
def block() -> tuple[nn.Module, tuple[torch.Tensor], axisplit.Plan]:
    torch.manual_seed(0)
    model, inputs = nn.Sequential(Block(), Block()), (torch.randn(3, 5, 16),)
    return model, inputs, axisplit.plan(model, inputs, ranks=3)


def test_equal(block):
    model, inputs, plan = block
    verdict = axisplit.verify(model, inputs, plan, gradients=True)
    assert verdict.equal
    found = verdict.gradients
    assert found.equal
    assert found.control_caught
    assert 0 < found.max_error <= found.bound
    assert found.exact_error < 1e-13
    assert set(found.control_errors) == {
        "all_reduce at *.norm:output.0:enter@backward", "all_reduce at *.slope:gradient",
    }  # fmt: skip
    assert set(verdict.to_json()["gradients"]) == {
        "equal", "max_error", "bound", "exact_error", "parameter", "control_caught", "deliveries",
        "vanishing",
    }  # fmt: skip
    assert "each collective of backward left out in turn: each is noticed" in str(verdict)
    assert all(p.grad is None for p in model.parameters())
    moved = sum(c.bytes for c in plan.collectives if c.phase == "backward")
    assert max(found.comm_bytes) == pytest.approx(moved)


class Turned(nn.Module):
    """Heads whose features are turned as complex numbers, under a norm's weight that they share."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.weight, self.down = nn.Linear(16, 24), nn.Parameter(torch.full((8,), 1.5)), nn.Linear(24, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.weight * self.up(x).view(*x.shape[:-1], 3, 8)
        angles = torch.arange(x.shape[-2] * 4).view(-1, 1, 4) / 7
        turned = torch.view_as_complex(heads.unflatten(-1, (4, 2))) * torch.polar(torch.ones_like(angles), angles)
        return x + self.down(torch.tanh(torch.view_as_real(turned)).flatten(-3))


def test_cotangents_of_complex_numbers():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(Turned(), nn.LayerNorm(16)), (torch.randn(2, 5, 16),)
    plan = axisplit.plan(model, inputs, ranks=3)
    assert {p.name for p in plan.parameters if p.held == "split"} == {"0.up.weight", "0.up.bias", "0.down.weight"}
    assert {p.name for p in plan.parameters if p.gradient == "sum"} >= {"0.weight"}
    assert axisplit.verify(model, inputs, plan, gradients=True).equal


def judged(model, inputs, plan):
    return axisplit.verify(model, inputs, plan, gradients=True)


def with_gradient(plan, name, gradient):
    """As in a file from before plans kept the states of cotangents: the numbers alone must tell."""
    changed = tuple(replace(p, gradient=gradient) if p.name == name else p for p in plan.parameters)
    return replace(plan, parameters=changed, cotangents=None)


def test_a_gradient_that_is_not_summed(block):
    model, inputs, plan = block
    slopes = [p for p in plan.parameters if "slope" in p.name]
    assert [p.gradient for p in slopes] == ["sum", "sum"]
    collectives = tuple(c for c in plan.collectives if "slope" not in c.where)
    moved = [c for c in plan.collectives if "slope" in c.where]
    forgotten = with_gradient(with_gradient(plan, "0.slope", "own"), "1.slope", "own")
    assert sum(c.count for c in moved) == 2
    verdict = judged(model, inputs, replace(forgotten, collectives=collectives))
    assert not verdict.equal
    assert verdict.max_error <= verdict.bound  # forward is right
    assert verdict.gradients.parameter.endswith("slope")


def test_bytes_that_were_not_planned(block):
    model, inputs, plan = block
    with pytest.raises(ProofError, match="the bytes that backward sent are not those planned"):
        judged(model, inputs, with_gradient(plan, "0.slope", "own"))


def test_more_bytes_than_planned(block):
    model, inputs, plan = block
    collectives = tuple(c for c in plan.collectives if "slope" not in c.where)
    with pytest.raises(ProofError, match="the bytes that backward sent are not those planned"):
        judged(model, inputs, replace(plan, collectives=collectives))


class Recurring(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 48), nn.Linear(48, 16)
        self.read, self.write = nn.Linear(16, 48), nn.Linear(48, 16)

    def forward(self, x, state=None):
        if state is not None:
            state = self.write(torch.tanh(self.read(state)))
        return self.down(torch.tanh(self.up(x))), state


class Keeping(nn.Module):
    """Has a state in evaluation, none in training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.start, self.inner = nn.LayerNorm(16), nn.LayerNorm(16), Recurring()

    def forward(self, x):
        return self.inner(self.norm(x), state=None if self.training else self.start(x[:, 0]))


def test_a_state_that_training_goes_without():
    torch.manual_seed(0)
    model, inputs = Keeping().eval(), (torch.randn(3, 5, 16),)
    plan = axisplit.plan(model, inputs, ranks=2)
    assert measure_gradients(model, inputs, plan).control_caught
    with pytest.raises(ProofError, match="not those planned"):
        measure_gradients(model, inputs, replace(plan, collectives=plan.collectives * 2))
    assert measure_gradients(model.train(), inputs, plan).equal


class Watching(nn.Module):
    """Asks for the gradient of what it computes from its input, as audio encoders do in training."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 48), nn.Linear(48, 16)

    def forward(self, x):
        x = x[:, None]
        if self.training:
            x.requires_grad = True
        return self.down(torch.tanh(self.up(x)))


def test_a_value_whose_gradient_the_model_asks_for():
    torch.manual_seed(0)
    model, inputs = Watching(), (torch.randn(3, 16),)
    plan = axisplit.plan(model, inputs, ranks=2)
    assert capture(model, inputs).graph.watched
    assert not capture(model.eval(), inputs).graph.watched
    with pytest.raises(PlanMismatchError):
        axisplit.verify(model, inputs, plan)
    verdict = axisplit.verify(model.train(), inputs, plan, gradients=True)
    assert verdict.equal
    assert verdict.gradients.comm_bytes == [3 * 16 * 4.0] * 2 == [sum(c.bytes for c in of_backward(plan))] * 2


def of_backward(plan):
    return [c for c in plan.collectives if c.phase == "backward"]


class Tap(nn.Module):
    """What the norm gives is returned as it is, and read by a layer that is split."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(48, 16)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        normed = self.norm(x)
        return normed, self.down(torch.tanh(self.up(normed)))


def test_what_is_returned_has_its_own_cotangent():
    torch.manual_seed(0)
    model, inputs = Tap(), (torch.randn(1, 1, 16),)  # so little that it enters where it is read, behind the norm
    plan = axisplit.plan(model, inputs, ranks=3)
    assert plan.no_backward == ""
    assert {p.module for p in plan.places if p.steps[0].kind == "enter"} == {"up"}
    assert judged(model, inputs, plan).equal


def test_a_bias_that_every_rank_would_learn(block):
    model, inputs, plan = block
    assert {p.gradient for p in plan.parameters if p.name.endswith("down.bias")} == {"first"}
    verdict = judged(model, inputs, with_gradient(plan, "1.down.bias", "own"))
    assert not verdict.equal
    assert verdict.gradients.parameter == "1.down.bias"


def test_dropout_is_refused(block):
    _, inputs, _ = block
    dropping = nn.Sequential(Block(0.5)).eval()
    plan = axisplit.plan(dropping, inputs, ranks=2)
    assert judged(dropping, inputs, plan).equal
    with pytest.raises(InputError, match="gradients cannot be compared: two runs of the whole model differ"):
        measure_gradients(dropping.train(), inputs, plan)


class Remembers(Block):
    """What a call reads and leaves behind: a running mean in a buffer, written in place by what carries gradients, and
    a result in an attribute.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean *= 0.9
        self.mean += 0.1 * x.mean((0, 1))
        self.last = super().forward(x - self.mean)
        return self.last


def test_what_modules_keep_is_put_back():
    model = nn.Sequential(Remembers(), Remembers())
    inputs = (torch.randn(3, 5, 16),)
    verdict = axisplit.verify(model, inputs, axisplit.plan(model, inputs, ranks=2), gradients=True)
    assert verdict.equal
    assert verdict.gradients.equal
    assert model[0].mean is dict(model.named_buffers())["0.mean"]
    assert not model[1].mean.any()
    assert not hasattr(model[1], "last")
    model(*inputs)  # now it holds what it was computed from
    assert axisplit.verify(model, inputs, axisplit.plan(model, inputs, ranks=2), gradients=True).equal


class Caching(Block):
    """What it computes of a parameter is kept in a dict from the first call on."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.known = nn.Parameter(torch.ones(48)), {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "gain" not in self.known:
            self.known["gain"] = self.gain.exp()
        return x + self.down(torch.tanh(self.known["gain"] * self.up(x)))


def test_what_modules_keep_in_a_dict_is_put_back():
    model, inputs = nn.Sequential(Caching(), Caching()), (torch.randn(3, 5, 16),)
    known, plan = model[0].known, axisplit.plan(model, inputs, ranks=2)
    assert plan.split_fraction > 0.9
    assert axisplit.verify(model, inputs, plan, gradients=True).equal
    assert gradients_of(model, inputs)["0.gain"].any()
    assert model[0].known is known
    assert not known


class Writing(Block):
    """What it is given is scaled in place, and needed again in backward."""

    def forward(self, x):
        return super().forward(x.mul_(2.0)) * x


def test_what_a_model_writes_to_its_inputs_is_its_own():
    model, x = Writing(), torch.randn(2, 5, 16)
    given = x.clone()
    verdict = axisplit.verify(model, (x,), axisplit.plan(model, (x,), ranks=2), gradients=True)
    assert verdict.equal
    assert verdict.exact_error < 1e-12
    assert torch.equal(x, given)


def test_a_plan_without_backward(block):
    model, inputs, plan = block
    verdict = judged(model, inputs, replace(plan, no_backward="no place for a sum"))
    assert verdict.could_not
    assert verdict.to_json()["gradients"]["equal"] is None
    assert "could not be derived: no place for a sum" in str(verdict)


def without_enter(plan):
    return replace(plan, places=tuple(p for p in plan.places if p.steps[0].kind != "enter"))


def with_sums_marked_partial(plan):
    def marked(step):
        return replace(step, partial=True) if step.kind == "all_reduce" else step

    return replace(plan, places=tuple(replace(p, steps=tuple(map(marked, p.steps))) for p in plan.places))


def with_a_slope_of_its_own(plan):
    slope = (replace(p, gradient="own") if p.name == "0.slope" else p for p in plan.parameters)
    return replace(plan, parameters=tuple(slope))


@pytest.mark.parametrize("damage", [without_enter, with_sums_marked_partial, with_a_slope_of_its_own])
def test_a_saved_plan_is_matched_backward_too(damage, block, tmp_path):
    model, inputs, plan = block
    damage(plan).save(tmp_path / "damaged.json")
    damaged = axisplit.Plan.load(tmp_path / "damaged.json")
    assert damaged != plan
    found = axisplit.verify(model, inputs, damaged)
    assert found.mismatches
    assert not found.equal


def test_a_saved_plan_is_right_and_an_older_one_says_what_is_not_matched(block, tmp_path):
    model, inputs, plan = block
    plan.save(tmp_path / "plan.json")
    saved = axisplit.Plan.load(tmp_path / "plan.json")
    assert saved == plan
    assert saved.cotangents.parameters
    verdict = judged(model, inputs, saved)
    assert verdict.equal
    assert verdict.proof.assumed == ()
    older = judged(model, inputs, replace(saved, cotangents=None))
    assert older.equal
    assert older.proof.assumed == ("where cotangents are converted: the plan is from before that was kept in it",)
    stranger = replace(saved, cotangents=replace(saved.cotangents, parameters=("nobody",)))
    with pytest.raises(PlanMismatchError, match="the plan's backward is another model's"):
        judged(model, inputs, stranger)


def test_terms_that_nearly_cancel():
    """A batch norm over two rows that are almost alike amplifies float64's own rounding beyond 1e-10 of a gradient's
    scale; a sum that is missing is far beyond what rounding moves, and noticed all the same.
    """
    torch.manual_seed(0)
    layers = [nn.LayerNorm(8), nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 8), nn.BatchNorm1d(8)]
    model, row = nn.Sequential(*layers).train(), torch.randn(8)
    inputs = (torch.stack([row, row + 1e-4 * torch.randn(8)]),)
    found = measure_gradients(model, inputs, axisplit.plan(model, inputs, ranks=2))
    assert found.equal
    assert found.control_errors
    assert not found.unnoticed


def test_where_cotangents_are_converted_is_matched(block):
    model, inputs, plan = block
    captured = capture(model, inputs)
    planner = _Planner(captured, model, inputs, begin_search(captured, 3), (), None)
    found = planner.with_cotangents(planner.search(planner.start))

    def mismatches(change) -> list[str]:
        places = (replace(p, steps=tuple(map(change, p.steps))) for p in found.lowered.places)
        kept = tuple(p for p in places if None not in p.steps)
        return mismatches_of(kept)

    def mismatches_of(places) -> list[str]:
        broken = replace(found.lowered, places=tuple(places))
        return [str(m) for m in prove_programs(found.decision, broken, captured, model, inputs)]

    assert found.no_backward == ""
    assert found.decision.cotangents.bytes == pytest.approx(
        sum(c.bytes for c in plan.collectives if c.phase == "backward")
    )
    entering = [p for p in found.lowered.places if p.steps[0].kind == "enter"]
    assert mismatches_of([*found.lowered.places, *(replace(p, leaf=p.leaf) for p in entering)])  # entered twice
    assert mismatches(lambda step: step) == []
    assert mismatches(lambda step: None if step.kind == "enter" else step)
    assert mismatches(lambda step: replace(step, kind="leave") if step.kind == "enter" else step)
    assert mismatches(lambda step: replace(step, partial=True) if step.kind == "all_reduce" else step)
