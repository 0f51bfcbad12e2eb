"""Functions that a model keeps run the copy's layers in its copies; records are looked into, at both ends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import axisplit
from axisplit.capture.copies import copy_model
from axisplit.errors import CaptureError, InputError
from axisplit.proof.numbers import run_whole


class Kept(nn.Module):
    """Keeps functions of its layers in every way that a function can reach them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.gain = nn.Linear(6, 20), nn.Linear(20, 6), nn.Parameter(torch.ones(6))
        layers, gain, factor = [self.up, self.down], self.gain, 2.0
        self.closing = lambda x: layers[1](layers[0](x)) * gain * factor
        self.held = {"defaults": [lambda x, up=self.up, *, down=self.down: down(up(x))]}
        self.partly = partial(lambda up, x, down: down(up(x)), self.up, down=self.down)
        inner = lambda x: self.up(x)  # noqa: E731
        self.nested = lambda x: self.down(inner(x))

    def forward(self, x):
        return self.closing(x) + self.held["defaults"][0](x) + self.partly(x) + self.nested(x)


def test_functions_run_the_copys_layers():
    model, x = Kept(), torch.randn(2, 6)
    before, copied = model(x), copy_model(model)
    assert torch.equal(copied(x), before)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert not copied(x).any()
    assert torch.equal(model(x), before)
    assert copied.closing.__closure__[0].cell_contents == 2.0  # what is no layer stays what it is


def test_what_was_computed_is_copied_detached():
    model, x = nn.Sequential(nn.Linear(6, 6)), torch.randn(2, 6)
    model[0].last, model[0].queue = (state := model(x)), [state]  # deepcopy refuses both
    copied = copy_model(model)[0]
    assert torch.equal(copied.last, state)
    assert copied.last is copied.queue[0] is not state
    assert not copied.last.requires_grad


def test_a_model_that_keeps_functions_is_split():
    model, inputs = Kept(), (torch.randn(3, 6),)
    plan = axisplit.plan(model, inputs, ranks=3)
    assert plan.split_fraction > 0.9
    assert axisplit.verify(model, inputs, plan, gradients=True).equal


class ByGlobal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        globals()["LAYER"] = self.layer

    def forward(self, x):
        return LAYER(x)  # noqa: F821


def test_a_layer_that_a_copy_would_not_have_is_refused():
    with pytest.raises(CaptureError) as raised:
        axisplit.plan(ByGlobal(), (torch.randn(3, 6),), ranks=2)
    assert "uses a parameter of the model itself" in str(raised.value)
    assert "layer.weight" in str(raised.value)


@dataclass(frozen=True)
class Scores:
    scores: torch.Tensor
    best: torch.Tensor
    hidden: torch.Tensor | None = None


class Records(nn.Module):
    """Returns its results as some kind of record, integers among them."""

    def __init__(self, kind) -> None:
        super().__init__()
        self.kind, self.up, self.down = kind, nn.Linear(6, 31), nn.Linear(31, 9)

    def forward(self, batch):
        scores = self.down(self.up(batch.x).tanh())
        return self.kind(scores=scores, best=scores.argmax(-1))


@pytest.mark.parametrize("kind", [Scores, SimpleNamespace])
def test_records_are_arguments_and_results(kind):
    model, batch = Records(kind), SimpleNamespace(x=torch.randn(4, 6), name="a batch")
    plan = axisplit.plan(model, (batch,), ranks=3)
    assert plan.split_fraction > 0.9
    verdict = axisplit.verify(model, (batch,), plan, gradients=True)
    assert verdict.equal
    assert set(run_whole(model, (batch,)).outputs) == {"forward:scores", "forward:best"}


class Opaque:
    def __init__(self, scores) -> None:
        self.scores = scores


def test_a_result_that_cannot_be_looked_into_is_refused():
    model = nn.Sequential(nn.Linear(6, 6))
    model.register_forward_hook(lambda module, args, output: Opaque(output))
    with pytest.raises(InputError, match="the model returns no tensor") as raised:
        axisplit.plan(model, (torch.randn(3, 6),), ranks=2)
    assert "Opaque" in str(raised.value)


class Remembers(nn.Module):
    """Keeps what it computed from a parameter by device, as levit does."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.kept = nn.Parameter(torch.randn(6)), dict[str, torch.Tensor]()

    def forward(self, x):
        if not self.kept:
            self.kept["cpu"] = self.gain * 2
        return x * self.kept["cpu"]


def test_what_knows_what_it_was_computed_from_is_copied_without_that():
    model, x = Remembers(), torch.randn(2, 6)
    before = model(x)
    copied = copy_model(model)
    assert copied.kept["cpu"].is_leaf
    assert torch.equal(copied(x), before)
    assert axisplit.plan(model, (x,), ranks=2).calls
