"""Choices on a knife's edge are pinned and said; a router that is wrong is still noticed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import axisplit
from axisplit.proof import processes
from axisplit.proof.choices import Pinned, Recorder, summarize
from axisplit.proof.numbers import CONTROL_FACTOR, difference, measure, run_all, run_ranks
from models_zoo.tiny import ZOO, build

WIDTH, HIDDEN, EXPERTS, TOKENS = 16, 96, 4, 64


class Router(nn.Module):
    """Top-1 of 4 experts. The hidden units are a set and the same set again, and experts 0 and 1 weigh it by (a, b)
    and (b, a): their scores are one sum of products, in two orders, unless `edge` moves the second one up.
    """

    def __init__(self, hard: bool, edge: float = 0.0) -> None:
        super().__init__()
        self.hard = hard
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.scores = nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.experts = nn.Parameter(torch.randn(EXPERTS, WIDTH))
        with torch.no_grad():
            first, second = self.scores.weight[0].chunk(2)
            self.scores.weight[1] = torch.cat([second, first]) + edge
            self.scores.weight[2:] -= 1.0
            for tensor in (self.up.weight, self.up.bias):
                tensor[HIDDEN // 2 :] = tensor[: HIDDEN // 2]

    def forward(self, x: Tensor) -> Tensor:
        value, chosen = self.scores(self.up(x).sigmoid()).topk(1, dim=-1)
        expert = self.experts[chosen.squeeze(-1)]
        return x + (expert if self.hard else value * expert)


def routed(hard: bool = False, edge: float = 0.0) -> tuple[Router, tuple[Tensor], axisplit.Plan]:
    torch.manual_seed(0)
    model, inputs = Router(hard, edge).eval(), (torch.randn(2, TOKENS // 2, WIDTH),)
    return model, inputs, axisplit.plan(model, inputs, ranks=2)


def test_a_tie_that_rounding_breaks():
    model, inputs, plan = routed()
    free = run_ranks(model, inputs, plan, ("forward",), recorded={})
    assert difference(run_all(model, inputs), free[0].outputs) > 0.1
    verdict = axisplit.verify(model, inputs, plan)
    choices = verdict.numbers.choices
    assert verdict.equal
    assert verdict.control_caught
    assert verdict.bound < 1e-4, "no perturbed run flipped"
    assert (choices.pinned, choices.not_pinned) == (TOKENS, 0)
    assert 0 < choices.flipped < TOKENS
    assert choices.margin < 1e-6 < choices.rounding
    assert "and CAN flip it" in str(verdict)
    assert verdict.to_json()["choices"]["flipped"] == choices.flipped


def test_a_wide_margin():
    verdict = axisplit.verify(*routed(edge=0.5))
    choices = verdict.numbers.choices
    assert verdict.equal
    assert choices.flipped == 0
    assert choices.margin > 100 * choices.rounding > 0
    assert "and cannot flip it" in str(verdict)


@pytest.mark.parametrize("hard", [False, True], ids=["weighted", "by index alone"])
def test_a_wrong_router(hard):
    """With the indices pinned a router by index alone gives the right output, whatever its scores."""
    model, inputs, plan = routed(hard, edge=0.5)
    right = axisplit.verify(model, inputs, plan)
    assert right.equal
    assert right.control_caught
    assert min(right.numbers.control_errors.values()) > CONTROL_FACTOR * right.bound
    wrong = replace(
        plan,
        parameters=tuple(
            replace(p, ranges=(p.ranges[0], p.ranges[0])) if p.name == "scores.weight" else p for p in plan.parameters
        ),
    )
    numbers = measure(model, inputs, wrong, ("forward",))
    assert not numbers.equal
    assert numbers.choices.max_error > 100 * numbers.choices.bound
    assert (numbers.max_error <= numbers.bound) == hard


ROWS = torch.tensor([[3.0, 1.0, 2.5, -torch.inf], [0.0, 4.0, 9.0, 4.25]])
OTHER = torch.tensor([[3.0, 1.0, 3.5, -torch.inf], [0.0, 4.0, 9.0, 4.25]])  # the first row's largest is another
CALLS = {
    "topk": (lambda x: x.topk(1), 0.5, 1),
    "topk, in another order": (lambda x: x.topk(2), 0.25, 0),
    "topk, smallest": (lambda x: x.topk(2, largest=False), 0.25, 0),
    "topk, all": (lambda x: x.topk(4), torch.inf, 0),
    "topk, rows": (lambda x: x.topk(1, dim=0), 3.0, 0),
    "argmax": (lambda x: x.argmax(-1), 0.5, 1),
    "argmax, kept": (lambda x: x.argmax(1, keepdim=True), 0.5, 1),
    "argmax, flat": (lambda x: x.argmax(), 4.75, 0),
    "argmin": (lambda x: x[:, :3].argmin(-1), 1.5, 0),
    "max": (lambda x: x.max(-1), 0.5, 1),
    "min": (lambda x: x[:, :3].min(-1, keepdim=True), 1.5, 0),
    "sort": (lambda x: x.sort(-1, descending=True), 0.25, 1),
    "argsort": (lambda x: x.argsort(stable=True), 0.25, 1),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_every_kind_of_choice(call):
    choose, margin, flipped = call
    recorder = Recorder()
    with recorder.during("forward"):
        whole = choose(ROWS)
    pinned = Pinned(recorder.recorded)
    with pinned.during("forward"):
        found = choose(OTHER)
    ((name, choice),) = recorder.recorded.items()
    assert choice.margin == margin
    assert int(pinned.flipped[name].sum()) == flipped
    if isinstance(whole, Tensor):
        assert torch.equal(found, whole)
        return
    assert torch.equal(found[1], whole[1])
    assert found[0].shape == whole[0].shape
    changed = found[0] != whole[0]
    assert torch.equal(changed, whole[0] == 2.5), "values are the run's own"
    assert (found[0][changed] == 3.5).all()


def test_what_is_not_pinned():
    recorder = Recorder()
    with recorder.during("forward"):
        ROWS.long().topk(1)
        ROWS.argmax(-1)
        ROWS.topk(1)
    assert [c.op for c in recorder.recorded.values()] == ["argmax", "topk"], "integers do not round"
    part, whole = Pinned(recorder.recorded), Pinned(recorder.recorded)
    with part.during("forward"):
        assert OTHER[:1].argmax(-1).tolist() == [2], "a part of the rows"
        assert OTHER.topk(1).indices.tolist() == [[0], [2]]
    with whole.during("forward"):
        OTHER.argmax(-1)
        OTHER.topk(1)
    bounds = dict.fromkeys(recorder.recorded, 0.125)
    errors = {"forward:choice 1": 1.0}
    choices = summarize(recorder.recorded, [part.flipped, whole.flipped], errors, bounds)
    assert (choices.pinned, choices.not_pinned, choices.flipped) == (2, 2, 1)
    assert (choices.margin, choices.rounding) == (0.5, 0.125)
    assert (choices.max_error, choices.bound, choices.equal) == (1.0, 0.125, False)


def test_real_processes(two_ranks, monkeypatch):
    """They choose as the whole model does, and from the same rows."""
    monkeypatch.setattr(processes, "launch", lambda ranks, target, args, **_: two_ranks.run(target, *args))
    model, inputs, plan = routed()
    numbers = axisplit.verify(model, inputs, plan).numbers
    assert processes.error_on_processes(model, inputs, plan, numbers.choices) <= numbers.bound
    narrow = replace(numbers.choices, bounds=dict.fromkeys(numbers.choices.bounds, -1.0))
    assert processes.error_on_processes(model, inputs, plan, narrow) == float("inf")


def test_a_mixture_of_experts():
    model, inputs = build("mixtral"), ZOO["mixtral"].inputs(2, 9)
    verdict = axisplit.verify(model, inputs, axisplit.plan(model, inputs, ranks=2))
    choices = verdict.numbers.choices
    assert verdict.equal
    assert verdict.control_caught
    assert (choices.pinned, choices.not_pinned) == (80, 0), "2 layers, prefill of 18 tokens and 2 decoded, twice"
    assert choices.equal
