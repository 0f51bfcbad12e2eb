"""Attributes are rewritten where that is all that the ranks' Python needs; one that feeds two needs stays."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import axisplit
from axisplit.capture.provenance import Attribute, Operation
from axisplit.lower.edits import Equation, _solve
from models_zoo.equality import on_ranks
from models_zoo.small import Attention, Fused, SharedScale, SharedSlopes, Slopes
from models_zoo.tiny import perturb


def planned(model: nn.Module, width: int, ranks: int = 2, **options):
    inputs = (torch.randn(2, 5, width, generator=torch.Generator().manual_seed(0)),)
    return axisplit.plan(model, inputs, ranks=ranks, **options), inputs


def assert_equal_on_ranks(plan, model, *inputs) -> None:
    """In float64, to a few roundings."""
    model = model.double()
    inputs = [x.double() for x in inputs]
    with torch.no_grad():
        whole = model(*inputs)
        for part, _ in on_ranks(plan, model, lambda m: m(*inputs)):
            torch.testing.assert_close(part, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "width", "ranks", "values"),
    [
        (Attention, 32, 2, {"num_heads": (2, 2)}),
        (Attention, 32, 3, {"num_heads": (2, 1, 1)}),
        (Slopes, 32, 3, {"num_heads": (2, 1, 1)}),
        (Fused, 48, 2, {"kv_heads": (2, 1), "num_heads": (4, 2)}),
        (Fused, 48, 4, {"kv_heads": (1, 1, 1, 1), "num_heads": (1, 2, 2, 1)}),
    ],
)
def test_heads_are_counted_by_each_rank(kind, width, ranks, values):
    model = perturb(kind()).eval()
    plan, _ = planned(model, width, ranks)
    edits = {edit.attribute: edit.values for edit in plan.edits}
    if (kind, ranks) != (Fused, 4):  # three kv heads on four ranks: which rank shares is the planner's business
        assert edits == values
    assert set(edits) == set(values)
    assert plan.split_fraction > 0.98
    assert plan.captured_fraction == 0
    assert_equal_on_ranks(plan, model, torch.randn(3, 7, width))


@pytest.mark.parametrize("kind", [SharedSlopes, SharedScale])
@pytest.mark.parametrize("ranks", [2, 3])
def test_an_attribute_that_feeds_two_needs_is_not_rewritten(kind, ranks):
    model = perturb(kind()).eval()
    plan, _ = planned(model, 32, ranks)
    assert plan.edits == ()
    assert plan.tiers == {"model": "expression", "o": "native"}
    assert plan.split_fraction > 0.98
    assert [(c.kind, c.count) for c in plan.collectives] == [("all_reduce", 1)]
    assert_equal_on_ranks(plan, model, torch.randn(3, 7, 32))


@dataclass
class Config:
    heads: int
    width: int
    activation: str = "gelu"


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x):
        size = self.config.width // 4
        q, k, v = self.qkv(x).view(*x.shape[:2], self.config.heads, 3, size).unbind(3)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).flatten(2))


def test_a_config_is_changed_for_one_module_only():
    config = Config(4, 32)
    model = perturb(nn.Sequential(Layer(config), Layer(config)).eval())
    plan, inputs = planned(model, 32)
    assert {(e.module, e.attribute, e.values) for e in plan.edits} == {
        ("0", "config.heads", (2, 2)),
        ("1", "config.heads", (2, 2)),
    }

    def counted(part):
        return part[0].config.heads, part[1].config.heads, part(*inputs)

    with torch.no_grad():
        for (first, second, y), _ in on_ranks(plan, model, counted):
            assert (first, second) == (2, 2)
            torch.testing.assert_close(y, model(*inputs))
    assert config == Config(4, 32)
    assert model[0].config is model[1].config is config


def test_keep_leaves_what_was_named():
    model = perturb(Attention()).eval()
    plan, _ = planned(model, 32, keep=["q.*"])
    held = {p.name: (p.held, p.reason) for p in plan.parameters}
    assert held["q.weight"] == ("whole", "kept whole as asked (--keep 'q.*')")
    assert held["o.weight"][0] == "split"
    assert_equal_on_ranks(plan, model, torch.randn(3, 7, 32))


HEADS, WIDTH = Attribute("attention", "heads"), Attribute("attention", "width")


def test_equations_are_solved_together_or_not_at_all():
    share = Operation("//", (WIDTH, HEADS))
    now = {HEADS: 4, WIDTH: 64}
    assert _solve([Equation(HEADS, 2, 0), Equation(share, 16, 1)], now) == {HEADS: 2, WIDTH: 33}
    assert _solve([Equation(HEADS, 2, 0), Equation(WIDTH, 32, 0), Equation(share, 16, 1)], now) == {HEADS: 2, WIDTH: 32}
    assert _solve([Equation(HEADS, 2, 0), Equation(WIDTH, 64, 0), Equation(share, 16, 1)], now) is None
    assert _solve([Equation(HEADS, 2, 0), Equation(HEADS, 4, 1)], now) is None
