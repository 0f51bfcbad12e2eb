"""How often programs are traced while a plan is searched for, and what is tried next."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

import axisplit
from axisplit.capture.record import Recorder
from axisplit.capture.trace import capture
from axisplit.lower import lowering
from axisplit.lower.decision import Decision, Parts
from axisplit.lower.planning import begin_search
from axisplit.runtime.groups import FakeGroup
from axisplit.solve.policy import choose
from models_zoo.tiny import llama, perturb, tokens
from solve.small import TOKENS, WIDTH, Blocks


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """Every recorder under which ranks' programs are traced."""
    found: list[Recorder] = []

    class Kept(Recorder):
        def __init__(self) -> None:
            super().__init__()
            found.append(self)

    monkeypatch.setattr(lowering, "Recorder", Kept)
    return found


def test_each_kind_of_rank_is_traced_once(recorders: list[Recorder]) -> None:
    plan = axisplit.plan(Blocks(2), (torch.randn(TOKENS, WIDTH),), ranks=3)
    assert plan.optimal
    assert not plan.no_backward
    assert len(recorders) == len(lowering.distinct_ranks(plan, [0] * 3)) == 2
    assert lowering.distinct_ranks(plan, [0, 1, 2]) == [
        0,
        1,
        2,
    ]  # alike, but not in what is wanted


@pytest.mark.parametrize("padding", [None, 3])
def test_ranks_that_want_other_numbers_are_of_other_kinds(padding: int | None, recorders: list[Recorder]) -> None:
    """A table's padding row is in the first rank's half: only there the op gets its number."""
    model, inputs = TiedTable(padding), (torch.ones(2, TOKENS, dtype=torch.long),)
    kinds = Parts(begin_search(capture(model, inputs), 2)).kinds
    assert kinds == ((0, 0) if padding is None else (0, 1))
    plan = axisplit.plan(model, inputs, ranks=2)
    assert plan.axes[0].size == 64
    assert len(recorders) == len(set(kinds))


class TiedTable(nn.Module):
    """A table that is looked up, and that logits are made with."""

    def __init__(self, padding: int | None) -> None:
        super().__init__()
        self.table = nn.Embedding(64, WIDTH, padding_idx=padding)

    def forward(self, ids: Tensor) -> Tensor:
        return layer_norm(self.table(ids), (WIDTH,)) @ self.table.weight.T


def test_nothing_is_traced_behind_the_first_mismatch(recorders: list[Recorder]) -> None:
    model, inputs = llama()(), tokens(1, TOKENS)
    captured = capture(model, inputs)
    search = begin_search(captured, 2)
    choice = choose(search)
    assert choice is not None
    decision = Decision(search, choice)
    lowered, refusals = lowering.lower(decision, captured)
    assert not refusals
    kept = tuple(place for place in lowered.places if all(step.kind != "all_reduce" for step in place.steps))
    broken = replace(lowered, places=kept)  # runs to its end, on summands where sums belong
    mismatch = lowering.prove_rank(decision, broken, captured, model, inputs, FakeGroup(0, 2))
    assert mismatch is not None
    assert {node.phase for node in recorders[0].recording.nodes} == {"prefill"} < set(captured.graph.phases)


class Checked(nn.Module):
    """Compares its input's size with attributes that counting heads would rewrite."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.width = 2, 2 * WIDTH
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if 4 * x.shape[-1] != self.count * self.width:
            raise ValueError(f"{x.shape[-1]} features")
        return self.down(self.parted(gelu(self.up(self.norm(x)))).softmax(-2).flatten(-2))

    def parted(self, hidden: Tensor) -> Tensor:
        return hidden.unflatten(-1, (self.count, self.width))


class CheckedInAVariable(Checked):
    """Where no size stands by itself that could be wrapped; a captured program detaches what the Python does."""

    def parted(self, hidden: Tensor) -> Tensor:
        shape = (self.count, self.width)
        return (hidden * hidden.detach()).unflatten(-1, shape)


@pytest.mark.parametrize("kind", [Checked, CheckedInAVariable])
def test_attributes_that_python_checks_are_not_rewritten(kind: type[Checked]) -> None:
    model, inputs = perturb(kind()), (torch.randn(TOKENS, WIDTH),)
    plan = axisplit.plan(model, inputs, ranks=2)
    assert not plan.edits
    assert bool(plan.captured) == (kind is CheckedInAVariable)
    assert plan.split_fraction > 0.9
    verdict = axisplit.verify(model, inputs, plan, gradients=True)
    assert verdict.equal, str(verdict)


class Attend(nn.Module):
    """Takes another way for one key head; what it returns beside a tensor keeps it from being captured."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, object]:
        if k.shape[1] == 1:
            k, v = k.squeeze(1), v.squeeze(1)
        if k.ndim == 3:
            k, v = (t.unsqueeze(1).expand(-1, q.shape[1], -1, -1) for t in (k, v))
        return scaled_dot_product_attention(q, k, v), object()


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.attend = 3, Attend()
        self.q, self.k, self.v = (nn.Linear(WIDTH, 12) for _ in range(3))
        self.out = nn.Linear(12, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (self.heads, 4)).transpose(1, 2) for m in (self.q, self.k, self.v))
        return self.out(self.attend(q, k, v)[0].transpose(1, 2).flatten(2))


def test_views_that_come_back_to_their_shape_are_the_value() -> None:
    model, inputs = perturb(Heads()), (torch.randn(2, TOKENS, WIDTH),)
    plan = axisplit.plan(model, inputs, ranks=3)
    assert plan.optimal
    assert plan.split_fraction > 0.95
    assert axisplit.verify(model, inputs, plan).equal


class Forces(nn.Module):
    """Minus the derivative of an energy: half of the program is issued by autograd, where no Python can be changed."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(6, 40), nn.Softplus(), nn.Linear(40, 24), nn.Tanh(), nn.Linear(24, 1))

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return -torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


def test_what_nothing_could_be_put_into_runs_whole_and_says_why():
    model, inputs = perturb(Forces()), (torch.randn(3, 6),)
    plan = axisplit.plan(model, inputs, ranks=2)
    assert plan.split_fraction == 0.0
    assert not plan.optimal
    assert "could not be put into the model's code\n  · " in str(plan)
    assert "kept whole as asked" not in str(plan)
    assert axisplit.verify(model, inputs, plan, gradients=True).equal


class Settles(nn.Module):
    """A fixed point, found without gradients, then one step with."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Sequential(nn.Linear(18, 40), nn.Tanh(), nn.Linear(40, 18))

    def forward(self, x):
        found = torch.zeros_like(x)
        with torch.no_grad():
            for _ in range(4):
                found = self.step(found) + x
        return self.step(found) + x


def test_what_is_computed_without_gradients_costs_nothing_in_backward():
    model, inputs = perturb(Settles()), (torch.randn(4, 18),)
    plan = axisplit.plan(model, inputs, ranks=2)
    assert {(c.phase, c.count) for c in plan.collectives} == {("forward", 5)}
    assert axisplit.verify(model, inputs, plan, gradients=True).equal
