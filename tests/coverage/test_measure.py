"""Records of real models of the zoo, and that the harness's own check sees what it is there to see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import axisplit
from axisplit.proof.verify import Proof, Verdict
from benchmarks.coverage import check
from benchmarks.coverage import measure as measuring
from benchmarks.coverage.gradients import trainable
from benchmarks.coverage.measure import Subject, backward, measure
from benchmarks.coverage.record import Case
from benchmarks.zoo import build


@pytest.fixture(scope="module")
def gpt2():
    model, inputs = build("gpt2", "causal")
    return model, inputs, axisplit.plan(model, inputs, ranks=2)


@pytest.mark.slow
def test_a_record_of_each_head(gpt2):
    stages: list[str] = []
    causal = measure(Case("gpt2", "causal", 2), Subject(*gpt2[:2]), lambda stage, _: stages.append(stage))
    assert stages == ["plan", "verify", "check", "generate", "gradients"]
    assert (causal.outcome, causal.reason, causal.generate_equal, causal.control_caught) == ("equal", "", True, True)
    assert causal.independent_error <= check.TOLERANCE
    assert causal.max_error <= causal.bound
    assert causal.collectives == 6
    assert list(causal.stage_cpu_s) == stages
    assert sum(causal.stage_cpu_s.values()) == pytest.approx(causal.cpu_s, abs=0.05)
    assert (causal.gradients_equal, causal.gradients_mode) == (True, "train")
    assert not gpt2[0].training, "the model itself is left as it was"
    base = measure(Case("vit", "base", 3), Subject(*build("vit", "base")), lambda stage, _: stages.append(stage))
    assert stages[-2:] == ["check", "gradients"]
    assert (base.outcome, base.generate_equal, base.collectives, base.family) == ("equal", None, 6, "vision")


def test_the_check_of_our_own_sees_a_missing_collective(gpt2):
    model, inputs, plan = gpt2
    assert check.forward_error(plan, model, inputs) <= check.TOLERANCE
    place = next(p for p in plan.places if p.steps[0].kind == "all_reduce")
    without = replace(plan, places=tuple(p for p in plan.places if p is not place))
    assert check.forward_error(without, model, inputs) > 1e-3


class Masked(torch.nn.Linear):
    """Makes the least number of its own dtype."""

    def forward(self, x):
        return torch.maximum(super().forward(x), torch.tensor(torch.finfo(self.weight.dtype).min))


def test_the_check_runs_in_float64_throughout():
    model, x = Masked(8, 6), torch.randn(3, 8)
    plan = axisplit.plan(model, {"x": x}, ranks=2)
    assert check.forward_error(plan, model, {"x": x}) <= check.TOLERANCE


def test_the_check_knows_a_buffer_by_one_of_its_names():
    model, x = torch.nn.Sequential(Masked(8, 6), torch.nn.Linear(6, 4)), torch.randn(3, 8)
    model[0].register_buffer("bands", torch.ones(2))
    model[1].register_buffer("bands", model[0].bands)
    plan = axisplit.plan(model, (x,), ranks=2)
    assert [name for name, _ in check.in_float64(model).named_buffers()] == ["0.bands"]
    assert check.forward_error(plan, model, {"input": x}) <= check.TOLERANCE


def test_verify_alone_does_not_make_a_record_equal(gpt2, monkeypatch):
    """A verify that says equal whatever the plan."""
    model, inputs, plan = gpt2
    without = replace(plan, places=plan.places[:-1])
    verdict = Verdict(True, 0.0, 1.0, 0.0, Proof(1, 1, ()), True)
    monkeypatch.setattr(measuring, "make_plan", lambda *_, **__: without)
    monkeypatch.setattr(measuring, "verify_plan", lambda *_: verdict)
    record = measure(Case("gpt2", "causal", 2), Subject(model, inputs), lambda *_: None)
    assert (record.outcome, record.stage, record.generate_equal) == ("different", "check", False)
    monkeypatch.setattr(measuring, "verify_plan", lambda *_: replace(verdict, control_caught=False))
    assert measure(Case("gpt2", "causal", 2), Subject(model, inputs), lambda *_: None).outcome == "refused"


def test_gradients_that_are_not_summed_are_seen(gpt2):
    model, inputs, plan = gpt2
    wrong = [replace(p, gradient="own") if p.kind == "parameter" else p for p in plan.parameters]
    assert wrong != list(plan.parameters)
    found = backward(replace(plan, parameters=tuple(wrong)), Subject(model, inputs))
    assert found["gradients_equal"] is False


class Noisy(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + torch.rand_like(x) if self.training else x).relu()


class Evaluated(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return super().forward(x).relu()


class Steps(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).detach()


@pytest.mark.parametrize("kind", [Noisy, Evaluated])
def test_gradients_of_a_model_that_cannot_be_compared_in_training(kind):
    model, inputs = kind(8, 12).eval(), {"x": torch.ones(2, 8)}
    found = backward(axisplit.plan(model, inputs, ranks=2), Subject(model, inputs))
    assert (found["gradients_equal"], found["gradients_mode"]) == (True, "eval")


def test_a_model_without_gradients_is_not_compared():
    model, inputs = Steps(8, 12).eval(), {"x": torch.ones(2, 8)}
    found = backward(axisplit.plan(model, inputs, ranks=2), Subject(model, inputs))
    assert found.keys() == {"gradients_reason"}
    assert found["gradients_reason"].startswith("NoGradients: the whole model's backward fails: InputError")


def test_every_dropout_is_off():
    model = build("gpt2", "causal")[0]
    made = trainable(model)
    rates = [m.p for m in made.modules() if isinstance(m, torch.nn.Dropout)]
    assert made.training
    assert rates
    assert not any(rates)
    assert model.config.attn_pdrop, "the model's own are left as they were"
    assert not made.config.attn_pdrop


class Broken(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("no heads\nat all")


def test_what_goes_wrong_is_told_in_one_line():
    record = measure(Case("broken", "base", 2), Subject(Broken(), {"x": torch.ones(1)}), lambda *_: None)
    assert (record.outcome, record.stage, record.split_fraction) == ("refused", "plan", None)
    assert record.reason.startswith("InputError: the model does not run on these inputs · where: Broken · got: x [1]")
    assert "\n" not in record.reason
    assert "test_measure.py" in record.where
