"""Where one place serves values whose cotangents differ, or that have none."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu

import axisplit
from models_zoo.tiny import perturb


class Crossing(nn.Module):
    """What is pooled is read by others, too, in front of the pooling (the second stream) or is not."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix, self.pool = nn.Sequential(nn.Linear(width, 99), nn.Linear(99, width)), nn.AvgPool1d(1)
        self.query, self.key, self.out = nn.Linear(width, 48), nn.Linear(width, 48), nn.Linear(48, width)
        self.up, self.down, self.norm = nn.Linear(2 * width, 48), nn.Linear(48, width), nn.LayerNorm(width)

    def forward(self, x, source):
        seen = self.out(self.query(self.mix(x)) * self.key(self.pool(source)))
        return x + self.norm(self.down(self.up(torch.cat([x, seen], -1)).relu()))


class Streams(nn.Module):
    """Two streams that read each other, one after the other, through the same layers."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm, self.cross = nn.LayerNorm((2, 5, width)), Crossing(width)
        self.up, self.down = nn.Linear(width, 48), nn.Linear(48, width)

    def forward(self, x):
        first, second = self.norm(x).unbind()
        first = self.cross(first, second)
        return self.down(self.up(torch.stack((first, self.cross(second, first)))).relu())


class SharedWithATable(nn.Module):
    """What is computed goes through the same layer as a table, which has no cotangent."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.table = nn.Dropout(0.0), nn.Buffer(torch.randn(5, 16))
        self.first, self.place = nn.Linear(64, 16), nn.Linear(16, 48)
        self.up, self.down = nn.Linear(16, 48), nn.Linear(48, 16)

    def forward(self, x):
        y, table = self.drop(self.first(x) * 2.0), self.drop(self.table * 0.5)
        return y + self.down(gelu(self.up(y) + self.place(table)))


@pytest.mark.parametrize(
    ("model", "shape", "keep", "summed"),
    [
        (Streams, (2, 5, 16), "cross.mix.*", ["norm", "cross.mix.1", "cross.out", "cross.norm"]),
        (SharedWithATable, (2, 5, 64), "first.*", ["model"]),
    ],
)
def test_one_place_for_several_cotangents(model, shape, keep, summed):
    torch.manual_seed(0)
    whole, inputs = perturb(model()), (torch.randn(shape),)
    plan = axisplit.plan(whole, inputs, ranks=2, keep=[keep])
    assert not plan.no_backward
    assert [c.where for c in plan.collectives if c.phase == "backward"] == summed
    verdict = axisplit.verify(whole, inputs, plan, gradients=True)
    assert verdict.equal
    assert not verdict.could_not
