"""What is cut from a weight by the size of the inputs is not split: a plan holds for other lengths."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import axisplit
from axisplit.axes.derive import derive_axes
from axisplit.axes.variable import variable_leaves
from axisplit.capture.trace import capture
from lower.test_edits import assert_equal_on_ranks

PLACES = 64


class Positions(nn.Module):
    """Adds as many rows of a table as the input is long, cut in some way; the width is as narrow as 3 ranks allow."""

    def __init__(self, cut, width: int = 3) -> None:
        super().__init__()
        self.cut, self.table, self.width = cut, nn.Parameter(torch.randn(PLACES, width)), width
        self.up, self.down = nn.Linear(width, 32), nn.Linear(32, width)
        self.register_buffer("ids", torch.arange(PLACES)[None])
        self.rows = nn.Embedding(PLACES, width)

    def forward(self, x):
        return self.down(torch.relu(self.up(x + self.cut(self, x))))


CUTS = {
    "slice": lambda model, x: model.table[: x.shape[1]],
    "narrow": lambda model, x: model.table.narrow(0, 0, x.size(1)),
    "split": lambda model, x: model.table.split([x.shape[1], PLACES - x.shape[1]])[0],
    "by nothing that is traced": lambda model, x: model.table[: len(x[0])],
    "the last": lambda model, x: model.table[PLACES - x.shape[1] :],
    "of a view": lambda model, x: model.table.t()[:, : x.shape[1]].t(),
    "numbers of rows": lambda model, x: model.rows(model.ids[:, : x.shape[1]]),
}


@pytest.mark.parametrize("length", [12, PLACES])
@pytest.mark.parametrize("name", CUTS)
def test_other_lengths(name, length):
    torch.manual_seed(0)
    model = Positions(CUTS[name])
    plan = axisplit.plan(model, (torch.randn(2, length, 3),), ranks=3)
    assert plan.split_fraction > 0.5
    assert_equal_on_ranks(plan, model, torch.randn(2, 30, 3))


class Patches(nn.Module):
    """As many rows as a convolution finds windows: no dim of the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.windows, self.table = nn.Conv1d(3, 3, 2, stride=2), nn.Parameter(torch.randn(PLACES, 3))
        self.up, self.down = nn.Linear(3, 32), nn.Linear(32, 3)

    def forward(self, x):
        y = self.windows(x.mT).mT
        return self.down(torch.relu(self.up(y + self.table[: y.shape[1]])))


def test_other_numbers_of_windows():
    torch.manual_seed(0)
    model = Patches()
    plan = axisplit.plan(model, (torch.randn(2, 24, 3),), ranks=4)
    assert_equal_on_ranks(plan, model, torch.randn(2, 60, 3))


def test_what_the_width_of_a_norm_fixes_is_split():
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.weight = nn.LayerNorm(24), nn.Parameter(torch.randn(48, 24))

        def forward(self, x):
            x = self.norm(x)
            return torch.nn.functional.linear(x, self.weight[: x.shape[-1]])

    derived = derive_axes(capture(Packed(), (torch.randn(2, 24),)).graph)
    assert variable_leaves(derived) == frozenset()
