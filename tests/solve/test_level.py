"""Axes cut unevenly against each other: what the fullest rank holds, and what stays as it is."""

from pathlib import Path

import pytest
import torch
from torch import nn

import axisplit
from axisplit.solve.plan import Plan

WIDTH = 24


class Attention(nn.Module):
    """Heads that do not divide, of a width of 8."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(WIDTH, 8 * heads, bias=False) for _ in range(3))
        self.o = nn.Linear(8 * heads, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (f(x).view(batch, length, self.heads, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.o(y.transpose(1, 2).reshape(batch, length, 8 * self.heads))


class Block(nn.Module):
    def __init__(self, heads: int, inner: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.attention = Attention(heads)
        self.up, self.down = nn.Linear(WIDTH, inner, bias=False), nn.Linear(inner, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))


def planned(model: nn.Module, ranks: int, **options: bool) -> Plan:
    return axisplit.plan(model, (torch.randn(2, 5, WIDTH),), ranks=ranks, **options)


def lengths(plan: Plan, name: str) -> list[int]:
    """What each rank holds of the axis of a parameter."""
    (axis,) = [axis for axis in plan.axes if any(name in parameter for parameter in axis.parameters)]
    return [sum(b - a for a, b in box) for box in axis.boxes]


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_finer_axis_makes_up_for_heads_that_do_not_divide(ranks: int, tmp_path: Path) -> None:
    """5 heads of 4 * 8 * 24 numbers and 192 of 2 * 24: an even cut has the fullest rank hold up to 18 % more."""
    torch.manual_seed(0)
    model = Block(5, 192).eval()
    plan = planned(model, ranks)
    held = [plan.bytes_per_rank[rank] for rank in range(ranks)]
    assert max(held) <= 1.06 * min(held)
    assert sum(lengths(plan, "up")) == 192
    assert lengths(plan, "up") == sorted(lengths(plan, "up"))  # the first ranks have more heads
    assert lengths(plan, "q")[0] == -(-5 // ranks)
    even = planned(model, ranks, uneven=False)
    assert not even.axes or len(set(lengths(even, "up"))) == 1
    plan.save(tmp_path / "plan.json")
    verdict = axisplit.verify(model, (torch.randn(2, 5, WIDTH),), Plan.load(tmp_path / "plan.json"), gradients=True)
    assert verdict.equal
    assert verdict.gradients is not None
    assert verdict.gradients.equal


def test_what_is_even_or_worth_little_stays() -> None:
    plan = planned(Block(4, 192), 2)
    assert lengths(plan, "up") == [96, 96]
    plan = planned(Block(5, 16 * 192), 2)  # one head of 768 numbers in 162,000
    assert lengths(plan, "up") == [8 * 192, 8 * 192]


class Gathered(nn.Module):
    """Its last axis is gathered, at a price that depends on the largest share."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = Attention(5), nn.Linear(WIDTH, 64, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.layer_norm(x + self.attention(x), (WIDTH,)))


def test_an_axis_that_is_gathered_is_cut_evenly() -> None:
    assert lengths(planned(Gathered(), 2), "head") == [32, 32]
