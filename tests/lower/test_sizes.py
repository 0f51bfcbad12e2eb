"""Sizes in calls that no attribute makes local: the expression is wrapped, where it stands by itself in the source."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import axisplit
from axisplit.capture.integers import paths_of_integers
from axisplit.capture.trace import capture
from axisplit.lower.apply import _local_size
from axisplit.lower.decision import Decision
from axisplit.lower.insert import Insertion, insert_calls
from axisplit.lower.planning import begin_search
from axisplit.lower.sizes import Sizes
from axisplit.solve.plan import PlacePlan
from lower.test_edits import assert_equal_on_ranks, planned
from models_zoo.small import HandWritten
from models_zoo.tiny import perturb


class ByTuples(HandWritten):
    def heads(self, x, width):
        return torch.reshape(x, (x.shape[0], x.shape[1], self.num_heads, width // self.num_heads))

    def merged(self, y, width):
        return y.reshape([y.shape[0], y.shape[1], width])


class ByKeywords(HandWritten):
    def heads(self, x, width):
        return x.reshape(shape=(x.shape[0], x.shape[1], self.num_heads, width // self.num_heads))

    def merged(self, y, width):
        return y.flatten(2).unsqueeze(2).expand(size=(y.shape[0], y.shape[1], 1, width)).squeeze(2)


class ByNumbers(HandWritten):
    def heads(self, x, width):
        return x.view(x.shape[0], x.shape[1], 5, -1)

    def merged(self, y, width):
        return y.reshape(-1, y.shape[1], 40)


class Unfollowed(HandWritten):
    """Nobody sees where an entry of a dict goes, nor what becomes of a float."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = {"heads": 5}

    def heads(self, x, width):
        heads = self.sizes["heads"]
        return x.view(x.shape[0], x.shape[1], heads, int(width / heads))


class BySlices(HandWritten):
    def thirds(self, x, width):
        return x[..., :width], x[:, :, width : 2 * width], x[:, :, 2 * width :]


class InComprehensions(HandWritten):
    def split(self, x, width):
        batch, length, heads = *x.shape[:2], self.num_heads
        q, k, v = (y.view(batch, length, heads, width // heads) for y in self.thirds(x, width))
        same = lambda y: y.reshape(batch * length, width).view(batch, length, heads, width // heads)  # noqa: E731
        return list(map(same, (q, k, v)))


class Scaled(HandWritten):
    """The attribute could be rewritten if it were not for the scale."""

    def heads(self, x, width):
        return x.view(x.shape[0], x.shape[1], self.num_heads, -1)

    def merged(self, y, width):
        return y.flatten(2) * self.num_heads**-0.5


FORMS = [HandWritten, ByTuples, ByKeywords, ByNumbers, Unfollowed, BySlices, InComprehensions, Scaled]


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("ranks", [2, 3])
def test_sizes_are_wrapped(kind, ranks, tmp_path):
    model = perturb(kind()).eval()
    plan, _ = planned(model, 40, ranks)
    assert plan.captured == ()
    assert plan.tiers == {"model": "expression", "o": "native"}
    assert plan.split_fraction > 0.98
    assert [(c.kind, c.count) for c in plan.collectives] == [("all_reduce", 1)]
    heads = {2: ((3, 5), (2, 5)), 3: ((2, 5), (2, 5), (1, 5))}[ranks]
    assert {place.shares for place in plan.places if place.where == "size"} == {heads}
    plan.save(tmp_path / "plan.json")
    loaded = axisplit.Plan.load(tmp_path / "plan.json")
    assert loaded.places == plan.places
    for batch, length in ((3, 7), (1, 2)):
        assert_equal_on_ranks(loaded, model, torch.randn(batch, length, 40))
    assert "forward" not in vars(model)


class BehindAStar(HandWritten):
    def heads(self, x, width):
        return x.view(*x.shape[:2], self.num_heads, width // self.num_heads)


class InAVariable(HandWritten):
    def heads(self, x, width):
        shape = (x.shape[0], x.shape[1], self.num_heads, width // self.num_heads)
        return x.view(shape)


@pytest.mark.parametrize("kind", [BehindAStar, InAVariable])
def test_what_does_not_stand_by_itself_is_not_wrapped(kind):
    model = perturb(kind()).eval()
    plan, _ = planned(model, 40)
    assert plan.tiers == {"model": "captured"}
    assert_equal_on_ranks(plan, model, torch.randn(3, 7, 40))


class OneForAll(nn.Module):
    """On more ranks than heads, pairs of ranks share queries and keys, but not values: one line views all three."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.size = 3, 16
        self.q, self.k, self.v, self.gate, self.o = (nn.Linear(48, 48, bias=False) for _ in range(5))

    def forward(self, x):
        shape = x.shape
        q, k, v = (
            f(x).view(shape[0], shape[1], self.num_heads, self.size).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        y = ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).reshape(shape[0], shape[1], shape[2])
        return self.o(y * self.gate(x).sigmoid())


def test_one_line_that_would_have_to_count_in_two_ways_is_not_wrapped():
    model = perturb(OneForAll()).eval()
    plan, _ = planned(model, 48, 4)
    assert plan.tiers == {"model": "captured"}
    assert_equal_on_ranks(plan, model, torch.randn(3, 7, 48))


def test_a_plan_says_which_sizes_and_cannot_be_exported_without_them():
    plan, _ = planned(perturb(HandWritten()).eval(), 40)
    assert "sizes in calls, each rank's share" in str(plan)
    assert re.search(r"line \d+, argument 3 +1 × +3/5 \| 2/5\n", str(plan))
    with pytest.raises(axisplit.errors.LayoutError, match="a size in a call of the model"):
        plan.to_parallelize_plan()


class Calls(nn.Module):
    def forward(self, x, n=4):
        return x.new_zeros(n, n), torch.zeros((n, n)), torch.zeros(size=[n, n]), x[:n, : n - 1]


@pytest.mark.parametrize(
    ("call", "argument", "shapes"),
    [
        ("x.new_zeros(n, n)", (2,), ((4, 2), (4, 4), (4, 4), (4, 3))),
        ("torch.zeros((n, n))", (0, 0), ((4, 4), (2, 4), (4, 4), (4, 3))),
        ("torch.zeros(size=[n, n])", ("size", 1), ((4, 4), (4, 4), (4, 2), (4, 3))),
        ("x[:n, : n - 1]", (1, 0, "stop"), ((4, 4), (4, 4), (4, 4), (2, 3))),
    ],
)
def test_one_argument_is_wrapped(call, argument, shapes):
    model, code = Calls(), Calls.forward.__code__
    line = code.co_firstlineno + 1
    text = "        return x.new_zeros(n, n), torch.zeros((n, n)), torch.zeros(size=[n, n]), x[:n, : n - 1]"
    start = text.index(call)
    vars(model)["_axisplit"] = {"half": lambda n: n // 2}
    place = (line, line, start, start + len(call))
    insert_calls(model, [Insertion("half", code.co_qualname, place, argument=argument)])
    assert tuple(tuple(y.shape) for y in model(torch.zeros(9, 9))) == shapes


def test_a_share_of_a_size():
    place = PlacePlan("block", "size", "", (), "Block.forward", (7, 7, 0, 9), shares=((2, 3), (1, 3)))
    local = _local_size(place, 2, 3)
    assert [local(size) for size in (3, 12, -1, None)] == [2, 8, -1, None]
    with pytest.raises(
        axisplit.errors.LoweringError, match=r"block, Block.forward, line 7(.|\n)*10(.|\n)*multiple of 3"
    ):
        local(10)


class Positions(nn.Module):
    """More positions than there are, and a width that both have."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.down = nn.Parameter(torch.randn(16, 24)), nn.Linear(24, 48), nn.Linear(48, 24)

    def forward(self, x):
        return self.down(self.up(x + self.table[: x.shape[1]]))


def test_lengths_of_inputs_are_no_fixed_share():
    inputs = (torch.randn(2, 5, 24),)
    captured = capture(perturb(Positions()).eval(), inputs)
    search = begin_search(captured, 2)
    sizes = Sizes(Decision(search, None), None)
    x = next(v.index for v in captured.graph.values if v.origin == "input")
    _, length, width = map(search.derived.axes.find, search.derived.dims[x])
    assert length not in sizes._of_parameters
    assert width in sizes._of_parameters


def test_integers_keep_their_places():
    assert paths_of_integers(("x", 2, (True, 3)), {"size": [4], "cut": slice(None, 5)}) == [
        (1,), (2, 1), ("size", 0), ("cut", "stop"),
    ]  # fmt: skip
