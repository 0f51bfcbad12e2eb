"""Expressions behind calls: base classes, helper methods, functions; what no way leads to is captured."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm, linear, relu

import axisplit
from axisplit.lower.apply import make_rank
from axisplit.runtime.groups import FakeGroup
from axisplit.runtime.sites import unregister
from lower.test_edits import assert_equal_on_ranks, planned
from lower.test_places import Bare
from models_zoo.small import SharedScale, SharedSlopes
from models_zoo.tiny import perturb


class Inherited(Bare):
    def forward(self, x):
        return super().forward(x) + x


class InheritedTwice(Inherited):
    def forward(self, x):
        return super().forward(2 * x)


class ByMethod(Bare):
    """One method, called from two places: what it returns stays split at one, and is summed over ranks at the other."""

    def product(self, x, weight):
        return linear(x, weight)

    def forward(self, x):
        return layer_norm(x + self.product(gelu(self.product(x, self.up)), self.down), (16,))


def normal(x, y):
    return layer_norm(x + y, (16,))


def normal_product(x, up, down):
    return normal(x, linear(gelu(linear(x, up)), down))


class ByFunction(Bare):
    def forward(self, x):
        return normal_product(x, self.up, self.down)


class ByStaticMethod(Bare):
    @staticmethod
    def product(x, up, down):
        return (
            gelu(linear(x, up))
            .matmul(down.t())
            .relu()
        )  # fmt: skip

    def forward(self, x):
        return self.product(x, self.up, self.down)


class ByLocalFunction(Bare):
    def forward(self, x):
        def product(y):
            return layer_norm(x + linear(gelu(linear(y, self.up)), self.down), (16,))

        return product(x)


class Shared(nn.Module):
    """A method of a child that is not its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.child = ByMethod()

    def forward(self, x):
        hidden = gelu(self.child.product(x, self.child.up))
        return layer_norm(x + self.child.product(hidden, self.child.down), (16,))


BEHIND_CALLS = [Inherited, InheritedTwice, ByMethod, ByFunction, ByStaticMethod, ByLocalFunction, Shared]


@pytest.mark.parametrize("kind", BEHIND_CALLS)
@pytest.mark.parametrize("ranks", [2, 3])
def test_expressions_behind_calls_are_wrapped(kind, ranks, tmp_path):
    model = perturb(kind()).eval()
    plan, _ = planned(model, 16, ranks)
    assert plan.tiers == {"model": "expression"}
    assert plan.split_fraction == 1.0
    assert [(c.kind, c.count) for c in plan.collectives if c.phase == "forward"] == [("all_reduce", 1)]
    plan.save(tmp_path / "plan.json")
    loaded = axisplit.Plan.load(tmp_path / "plan.json")
    assert loaded.places == plan.places
    assert_equal_on_ranks(loaded, model, torch.randn(3, 4, 16))


def test_other_callers_keep_their_function():
    before = (normal_product, normal_product.__code__, ByFunction.forward)
    model = perturb(ByFunction()).eval()
    plan, _ = planned(model, 16)
    assert [(place.function, [name for name, _ in place.through]) for place in plan.places] == [
        ("normal_product", ["ByFunction.forward"])
    ]
    assert_equal_on_ranks(plan, model, torch.randn(3, 4, 16))
    assert (normal_product, normal_product.__code__, ByFunction.forward) == before
    assert "forward" not in vars(model)


def product(x, up, down):
    return relu(linear(gelu(linear(x, up)), down))


def other_product(x, up, down):
    return relu(linear(relu(linear(x, up)), down))


class Chosen(Bare):
    product = staticmethod(product)

    def forward(self, x):
        return self.product(x, self.up, self.down)


def test_a_function_that_was_not_traced_is_refused():
    model = perturb(Chosen()).eval()
    plan, inputs = planned(model, 16)
    assert plan.tiers == {"model": "expression"}
    part, _ = make_rank(model, plan, FakeGroup(0, 2), "chosen")
    part.product = other_product
    with pytest.raises(axisplit.errors.LoweringError, match="would run without its collectives") as raised:
        part.to("meta")(inputs[0].to("meta"))
    unregister("chosen")
    assert "other_product" in str(raised.value)


class Unreachable(Bare):
    """A lambda has no definition that could be rewritten."""

    product = staticmethod(lambda x, up, down: relu(linear(gelu(linear(x, up)), down)))

    def forward(self, x):
        return self.product(x, self.up, self.down)


@pytest.mark.parametrize("ranks", [2, 3])
def test_what_cannot_be_reached_runs_as_a_captured_program(ranks):
    model = perturb(Unreachable()).eval()
    plan, _ = planned(model, 16, ranks)
    assert plan.tiers == {"model": "captured"}
    assert plan.split_fraction == 1.0
    assert [(c.kind, c.count) for c in plan.collectives] == [("all_reduce", 1)]
    assert_equal_on_ranks(plan, model, torch.randn(3, 4, 16))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Unreachable()

    def forward(self, x):
        return self.inner(self.inner(x))


def test_calls_that_do_the_same_share_a_captured_program():
    model, x = perturb(Twice()).eval(), torch.randn(3, 4, 16)
    plan = axisplit.plan(model, (x,), ranks=2)
    (program,) = plan.captured
    assert program.module == "inner"
    assert axisplit.verify(model, (x,), plan).control_caught  # a second one would never run


class Around(Unreachable):
    """What stands inside could not run on parts by itself, either."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        return super().forward(x + self.attention(x, x, x, need_weights=False)[0])


def test_what_runs_inside_a_captured_program_has_none_of_its_own():
    model = perturb(Around()).eval()
    plan, inputs = planned(model, 16)
    assert {program.module for program in plan.captured} == {""}
    verdict = axisplit.verify(model, inputs, plan, gradients=True)  # compares the bytes that backward sends
    assert verdict.equal, str(verdict)


class WithSizes(Unreachable):
    """Takes and returns sizes along with the tensor: half the length, and the length over an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = 3

    def forward(self, x, half):
        y = super().forward(x)
        return y[:, :half], (half, x.shape[1] // self.patch, self.patch)


class Halved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = WithSizes()

    def forward(self, x):
        y, (half, patches, patch) = self.inner(x, x.shape[1] // 2)
        return y.sum(1) / half + patches * patch


@pytest.mark.parametrize("ranks", [2, 3])
def test_sizes_that_go_into_and_out_of_a_captured_program_follow_its_inputs(ranks):
    model = perturb(Halved()).eval()
    plan = axisplit.plan(model, (torch.randn(2, 6, 16),), ranks=ranks)
    assert plan.tiers["inner"] == "captured"
    for length in (6, 9, 4):
        assert_equal_on_ranks(plan, model, torch.randn(2, length, 16))


class BehindAStar(SharedSlopes):
    """Nobody knows which argument the number of heads is."""

    def heads(self, x):
        return x.view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)


class WrittenInto(BehindAStar):
    """Numbers written into parts of the scores, by slices, by a mask and by `fill_`, and one as a tensor."""

    def bias(self, scores):
        scores = super().bias(scores)
        scores[..., 0] = 0.1
        scores[..., 1:3] = -1.5
        scores[scores > 0.75] = 0
        scores[..., 3].fill_(-0.5)
        return scores * torch.tensor(1.1)


@pytest.mark.parametrize("ranks", [2, 3])
def test_numbers_written_into_slices_are_part_of_a_captured_program(ranks, tmp_path):
    model = perturb(WrittenInto()).eval()
    plan, inputs = planned(model, 32, ranks)
    assert plan.tiers == {"model": "captured"}
    assert plan.split_fraction > 0.98
    plan.save(tmp_path / "plan.json")
    loaded = axisplit.Plan.load(tmp_path / "plan.json")
    verdict = axisplit.verify(model, inputs, plan)
    assert verdict.equal
    assert verdict.exact_error < 1e-12
    assert_equal_on_ranks(loaded, model, torch.randn(3, 7, 32))


class VectorWrittenInto(BehindAStar):
    def bias(self, scores):
        scores = super().bias(scores)
        scores[..., 1:3] = torch.tensor([0.1, -1.5])
        return scores


def test_a_program_whose_sizes_do_not_follow_its_inputs_takes_those_it_was_traced_with():
    model = perturb(VectorWrittenInto()).eval()
    plan, _ = planned(model, 32)
    assert plan.tiers == {"model": "captured"}
    assert_equal_on_ranks(plan, model, torch.randn(4, 5, 32))
    with pytest.raises(axisplit.errors.LoweringError, match=r"sizes': \[\[1, 5\]\]"):
        assert_equal_on_ranks(plan, model, torch.randn(2, 7, 32))


class MaskedByATable(BehindAStar):
    """A causal mask that is cut to the length of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(12, 12).tril())

    def bias(self, scores):
        length = scores.shape[-1]
        return super().bias(scores).masked_fill(self.mask[:length, :length] == 0, float("-inf"))


def test_a_table_is_cut_to_the_length_of_each_call():
    model = perturb(MaskedByATable()).eval()
    plan, _ = planned(model, 32)
    assert plan.tiers == {"model": "captured"}
    for length in (1, 5, 12):
        assert_equal_on_ranks(plan, model, torch.randn(2, length, 32))


class ReadsNumbers(Unreachable):
    """Python acts on what it reads: a branch and a factor; and on how many rows there are of a kind."""

    def forward(self, x):
        y = super().forward(x)
        if y.sum() > 20:
            y = y * max(y.flatten().tolist())
        found = x[x[..., 0] > 0]
        return y + found.sum() if len(found) > 4 else y


class CountsRows(Unreachable):
    def forward(self, x):
        y, found = super().forward(x), x[x[..., 0] > 0]
        return y + found.sum() if len(found) > 4 else y


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("kind", [ReadsNumbers, CountsRows])
def test_what_python_reads_is_whole_and_not_written_into_a_program(kind, ranks):
    model = perturb(kind()).eval()
    plan, inputs = planned(model, 16, ranks)
    assert plan.captured == ()
    assert axisplit.verify(model, inputs, plan).equal
    for scale in (0.1, 1, -1, 10):
        assert_equal_on_ranks(plan, model, scale * torch.randn(3, 4, 16))


class ReadsASum(Bare):
    """What is read is linear: without its number, nothing would need the sum over ranks."""

    def forward(self, x):
        y = linear(relu(linear(x, self.up)), self.down)
        return relu(linear(x, self.up)) * y.sum().item()


def test_a_number_that_is_read_is_the_whole_models():
    model = perturb(ReadsASum()).eval()
    plan, inputs = planned(model, 16)
    assert plan.split_fraction == 1.0
    assert axisplit.verify(model, inputs, plan).equal
    assert_equal_on_ranks(plan, model, torch.randn(3, 4, 16))


class HeldNumber(WrittenInto):
    """A number that anyone can change between calls is no constant."""

    def __init__(self) -> None:
        super().__init__()
        self.held = torch.tensor(0.5)

    def bias(self, scores):
        return super().bias(scores) * self.held


def test_numbers_that_modules_hold_are_not_written_down():
    plan, _ = planned(perturb(HeldNumber()).eval(), 32)
    assert plan.captured == ()


class NumberFromHeads(SharedScale):
    def forward(self, x):
        return super(SharedScale, self).forward(x) * torch.tensor(self.num_heads**-0.5)


def test_a_number_made_of_a_rewritten_attribute_is_seen():
    model = perturb(NumberFromHeads()).eval()
    plan, _ = planned(model, 32)
    assert plan.edits == ()
    assert plan.tiers == {"model": "expression", "o": "native"}
    assert_equal_on_ranks(plan, model, torch.randn(3, 7, 32))


class Unusual(nn.Module):
    """Its methods do not call it `self`."""

    def __init__(this) -> None:
        super().__init__()
        this.up, this.down = nn.Parameter(torch.randn(12, 47)), nn.Parameter(torch.randn(47, 12))

    def forward(this, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(this.middle(x)) * 2 + x

    def middle(this, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ this.up) @ this.down


@pytest.mark.parametrize("ranks", [2, 3])
def test_whatever_self_is_called_and_whoever_asks(ranks):
    torch.manual_seed(0)
    model, inputs = Unusual(), (torch.randn(5, 12),)

    def elsewhere() -> axisplit.Plan:
        return axisplit.plan(model, inputs, ranks=ranks)

    plan = elsewhere()
    assert plan.choices == axisplit.plan(model, inputs, ranks=ranks).choices
    assert plan.split_fraction == 1
    verdict = axisplit.verify(model, inputs, plan, gradients=True)
    assert verdict.equal
    assert not verdict.could_not


class Block(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(width, 40), nn.Linear(40, width), nn.LayerNorm(width)

    def forward(self, x):
        return self.norm(x + self.down(self.up(x).relu()))


class Pooled(nn.Module):
    """Residual blocks; what the last returns is an output, and is read where nothing can be put."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in "ab")
        self.pool, self.out = nn.Linear(width, 48), nn.Linear(48, width)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        (first,) = [y[:, 0] for y in (x,)]
        return x, self.out(self.pool(first).tanh())


def test_a_cotangent_is_converted_behind_an_op_that_no_place_stands_in_front_of():
    model, inputs = perturb(Pooled()), (torch.randn(3, 4, 16),)
    plan = axisplit.plan(model, inputs, ranks=2)
    assert plan.split_fraction > 0.9
    assert not plan.no_backward
    assert axisplit.verify(model, inputs, plan, gradients=True).equal
