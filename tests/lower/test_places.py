"""Where conversions are put into running Python: decorated and inherited forwards, `+=`, hooks, captured programs."""

from __future__ import annotations

import functools
import inspect
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensor
from torch.nn.functional import gelu, layer_norm, linear

import axisplit
from axisplit.capture.trace import capture, shadow_copy
from axisplit.lower.apply import make_rank, take_shard
from axisplit.lower.insert import Insertion, insert_calls
from axisplit.lower.places import Finder
from axisplit.lower.source import definition_of
from axisplit.proof.verify import verify_plan
from axisplit.runtime.groups import FakeGroup
from axisplit.runtime.layout import Layout
from axisplit.runtime.lookup import localize, mask_rows
from axisplit.runtime.sites import CollectiveContext, Site, registered, twin_of, unregister
from lower.test_edits import assert_equal_on_ranks, planned
from models_zoo.equality import on_ranks
from models_zoo.small import Attention, Mlp
from models_zoo.tiny import perturb


class Bare(nn.Module):
    """Weights without modules: no hook can stand between the product and its uses."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.empty(48, 16)), nn.Parameter(torch.empty(16, 48))

    def forward(self, x):
        y = linear(gelu(linear(x, self.up)), self.down)
        return layer_norm(x + y, (16,))


class Augmented(Bare):
    def forward(self, x):
        y = x * 2
        y += linear(gelu(linear(x, self.up)), self.down)
        return layer_norm(y, (16,))


def doubled(forward):
    @functools.wraps(forward)
    def wrapper(self, x, *, twice=True):
        y = forward(self, x)
        return 2 * y if twice else y

    return wrapper


class Decorated(Bare):
    @doubled
    def forward(self, x):
        return layer_norm(x + linear(gelu(linear(x, self.up)), self.down), (16,))


class Table(nn.Module):
    """A tied table: looked up at one end, multiplied with at the other, through a call in a method."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(24, 16)
        self.body = Mlp()
        self.head = nn.Linear(16, 24, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("scale", torch.linspace(1, 2, 16))

    def forward(self, ids):
        return self.head(self.body(torch.nn.functional.embedding(ids, self.table.weight) * self.scale))


@pytest.mark.parametrize("kind", [Bare, Augmented, Decorated])
@pytest.mark.parametrize("ranks", [2, 3])
def test_expressions_are_wrapped_where_no_hook_reaches(kind, ranks):
    model = perturb(kind()).eval()
    plan, _ = planned(model, 16, ranks)
    assert plan.tiers == {"model": "expression"}
    assert plan.split_fraction == 1.0
    assert [c.kind for c in plan.collectives] == ["all_reduce"]
    assert_equal_on_ranks(plan, model, torch.randn(3, 4, 16))
    assert "forward" not in vars(model)


class Squash(nn.Module):
    """Several ops, so that its calls are one decision."""

    def forward(self, x):
        return torch.tanh(x) * torch.sigmoid(x)


class Shares(nn.Module):
    """One module sees weights that every rank has whole, and a sum: a hook on it would act on both."""

    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.shared, self.up, self.down = shared, nn.Linear(16, 48), nn.Parameter(torch.empty(16, 48))

    def forward(self, x):
        weights = self.shared(x.softmax(-1))
        return layer_norm(x + self.shared(linear(gelu(self.up(weights)), self.down)), (16,))


@pytest.mark.parametrize("shared", [nn.Dropout(0.1), Squash()], ids=["dropout", "squash"])
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_module_that_sees_unlike_values_has_no_hook(ranks, shared):
    model = perturb(Shares(shared)).eval()
    plan, _ = planned(model, 16, ranks)
    assert plan.tiers["model"] == "expression"
    assert plan.excluded == ()
    assert plan.split_fraction > 0.9
    assert [c.kind for c in plan.collectives if c.phase == "forward"] == ["all_reduce"]
    assert_equal_on_ranks(plan, model, torch.randn(3, 4, 16))


class SharesActivation(nn.Module):
    """One module without parameters in three places of a block: in front of, between and behind the products."""

    def __init__(self, kind=nn.GELU) -> None:
        super().__init__()
        self.up, self.down, self.act = nn.Linear(16, 48), nn.Linear(48, 16), kind()

    def forward(self, x):
        return self.act(x + self.down(self.act(self.up(self.act(2 * x)))))


@pytest.mark.parametrize("kind", [nn.GELU, lambda: nn.ReLU(inplace=True)])
@pytest.mark.parametrize("ranks", [2, 3])
def test_calls_of_a_module_without_parameters_are_told_apart(kind, ranks):
    model = perturb(nn.Sequential(SharesActivation(kind), SharesActivation(kind))).eval()
    plan, _ = planned(model, 16, ranks)
    assert plan.split_fraction > 0.95
    assert [(c.kind, c.count) for c in plan.collectives if c.phase == "forward"] == [("all_reduce", 2)]
    assert plan.excluded == ()
    assert [place.module for place in plan.places if "act" in place.module] == []
    assert_equal_on_ranks(plan, model, torch.randn(3, 4, 16))


class GathersBehind(nn.Module):
    """What one call of the pool returns is read whole, and smaller than what it is made from; the other's is whole."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.pool = nn.Conv2d(8, 48, 1), nn.MaxPool2d(2)

    def forward(self, x):
        return self.pool(self.up(self.pool(x))).softmax(1)


def test_what_one_call_of_a_module_returns_is_gathered_behind_that_call():
    model = perturb(GathersBehind()).eval()
    plan = axisplit.plan(model, torch.randn(2, 8, 12, 4), ranks=2)
    assert [(c.kind, c.bytes) for c in plan.collectives if c.phase == "forward"] == [("all_gather", 2 * 3 * 24 * 4)]
    assert (plan.excluded, plan.captured) == ((), ())
    assert_equal_on_ranks(plan, model, torch.randn(3, 8, 16, 4))


class ReturnsATable(Bare):
    """A tensor that is neither parameter nor buffer is returned as it is, and no op reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.arange(3.0)

    def forward(self, x):
        return super().forward(x), self.table


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_constant_that_is_returned(ranks):
    model, x = perturb(ReturnsATable()).eval(), torch.randn(2, 5, 16)
    plan = axisplit.plan(model, x, ranks=ranks)
    assert plan.split_fraction == 1.0
    assert axisplit.verify(model, x, plan).equal


class OneIdles(nn.Module):
    """Experts of which one returns what it is given: all are read and added up by the same expressions."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.experts = nn.Identity(), 2
        self.up, self.down = nn.Parameter(torch.empty(2, 48, 16)), nn.Parameter(torch.empty(2, 16, 48))

    def forward(self, x):
        y = torch.zeros_like(x)
        for expert in range(self.experts + 1):
            rows = torch.cos(x + expert)
            if expert == self.experts:
                made = self.idle(rows)
            else:
                made = linear(gelu(linear(rows, self.up[expert])), self.down[expert])
            y = y + made * 2
        return layer_norm(y / 3, (16,))


@pytest.mark.parametrize("ranks", [2, 3])
def test_what_a_module_returns_as_it_was_given_is_converted_there(ranks):
    """One rank counts the idle expert's rows, and one all-reduce does for all experts."""
    model = perturb(OneIdles()).eval()
    plan, _ = planned(model, 16, ranks)
    assert [c.kind for c in plan.collectives if c.phase == "forward"] == ["all_reduce"]
    assert [place.module for place in plan.places if place.where == "output"] == ["idle"]
    assert plan.optimal
    assert_equal_on_ranks(plan, model, torch.randn(3, 4, 16))


class Shifted(nn.Embedding):
    """Looks up by `super().forward`, as position tables do."""

    def forward(self, ids):
        return super().forward(ids + 2)


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_lookup_by_super(ranks):
    torch.manual_seed(0)
    model = nn.Sequential(Shifted(26, 16), Mlp(), nn.Linear(16, 26, bias=False))
    model[2].weight = model[0].weight  # split by rows for the product, hence for the look-up
    perturb(model).eval()
    ids = torch.randint(0, 24, (2, 6))
    plan = axisplit.plan(model, (ids,), ranks=ranks)
    (place,) = [place for place in plan.places if place.where in ("call", "lookup")]
    assert (place.module, place.where, place.function) == ("0", "call", "Shifted.forward")
    model = model.double()
    with torch.no_grad():
        for y, _ in on_ranks(plan, model, lambda m: m(ids[:1, :4])):
            torch.testing.assert_close(y, model(ids[:1, :4]), rtol=0, atol=1e-12)


def test_tied_weights_and_buffers():
    model = perturb(Table()).eval()
    ids = torch.randint(0, 24, (2, 6), generator=torch.Generator().manual_seed(0))
    plan = axisplit.plan(model, (ids,), ranks=3)
    assert plan.tied == {"head.weight": "table.weight"}
    assert {p.name: (p.kind, p.held) for p in plan.parameters}["scale"][0] == "buffer"
    group = FakeGroup(1, 3)
    part, _ = make_rank(model, plan, group, "tied")
    unregister("tied")
    assert part.head.weight is part.table.weight
    assert part.head.weight.shape != model.head.weight.shape
    model = model.double()
    with torch.no_grad():
        for y, _ in on_ranks(plan, model, lambda m: m(ids[:1, :4])):
            torch.testing.assert_close(y, model(ids[:1, :4]), rtol=0, atol=1e-12)


def test_user_hooks_run_on_whole_values_once():
    model = perturb(Mlp()).eval()
    plan, inputs = planned(model, 16)
    seen = []
    model.down.register_forward_hook(lambda m, a, y: seen.append(("down", y.shape)))
    model.up.register_forward_pre_hook(lambda m, a: seen.append(("up", a[0].shape)))
    part, _ = make_rank(model, plan, FakeGroup(0, 2), "hooks")
    part.to("meta")(inputs[0].to("meta"))
    unregister("hooks")
    assert seen == [("up", inputs[0].shape), ("down", inputs[0].shape)]


def test_conversions_are_inside_hooks_that_change_values():
    """Where values are traced: inputs behind a module's own hooks, outputs in front of them."""
    model = perturb(Mlp()).eval()
    model.down.register_forward_hook(lambda m, a, y: torch.tanh(y))
    plan, inputs = planned(model, 16)
    assert [(p.module, p.steps[0].kind) for p in plan.places if p.where == "output"] == [("down", "all_reduce")]
    assert_equal_on_ranks(plan, model, *inputs)
    model = perturb(Mlp()).eval()
    model.down.register_forward_pre_hook(lambda m, a: (torch.softmax(a[0], -1),))
    plan, inputs = planned(model, 16, keep=["down.*"])
    assert_equal_on_ranks(plan, model, *inputs)


def test_sites_of_a_part_that_cannot_be_made_are_not_left_registered():
    model = perturb(Mlp()).eval()
    plan, _ = planned(model, 16)
    broken = replace(plan, places=tuple(replace(place, module="absent") for place in plan.places))
    for _ in range(2):
        with pytest.raises(AttributeError, match="absent"):
            make_rank(model, broken, FakeGroup(0, 2), "broken")


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 48), nn.Linear(48, 16)

    def forward(self, x, scale=None):
        y = torch.relu(self.up(x))
        return self.down(y if scale is None else torch.tanh(y * scale))


def test_arguments_are_converted_however_they_are_given():
    model, generator = perturb(Scaled()).eval().double(), torch.Generator().manual_seed(0)
    x, scale = (torch.randn(4, width, dtype=torch.float64, generator=generator) for width in (16, 48))
    plan = axisplit.plan(model, {"x": x, "scale": scale}, ranks=2)
    assert ("", "input", "scale") in {(place.module, place.where, place.leaf) for place in plan.places}
    with torch.no_grad():
        for args, kwargs in (((), {"x": x, "scale": scale}), ((x, scale), {}), ((), {"x": x}), ((x,), {})):
            for y, _ in on_ranks(plan, model, lambda m, a=args, k=kwargs: m(*a, **k)):
                torch.testing.assert_close(y, model(*args, **kwargs), rtol=0, atol=1e-12)


def test_converted_forwards_keep_their_signature():
    model = perturb(Mlp()).eval()
    plan, _ = planned(model, 16)
    part, _ = make_rank(model, plan, FakeGroup(0, 2), "signature")
    unregister("signature")
    assert {place.module for place in plan.places} == {"up", "down"}
    for name in ("up", "down"):
        assert inspect.signature(part.get_submodule(name).forward) == inspect.signature(nn.Linear.forward.__get__(part))


def test_insertions_are_the_instances_own(tmp_path):
    one, other = Bare(), Bare()
    perturb(one), perturb(other)
    code = Bare.forward.__code__
    line = code.co_firstlineno + 2
    column = 8 + len("return layer_norm(")
    vars(one)["_axisplit"] = {"sum": lambda y: y * 0}
    insert_calls(one, [Insertion("sum", code.co_qualname, (line, line, column, column + len("x + y")), -1)])
    x = torch.randn(2, 16)
    assert one(x).abs().max() == 0
    assert other(x).abs().max() > 0
    with pytest.raises(axisplit.errors.LoweringError, match=r"Bare has no method Bare\.absent to change"):
        insert_calls(one, [Insertion("sum", "Bare.absent", (1, 1, 1, 1), -1)])


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x, mask=None):
        return x + self.attention(x, x, x, key_padding_mask=mask, need_weights=False)[0]


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_captured_program_holds_for_other_sizes_and_refuses_other_calls(ranks):
    model = perturb(Outer()).eval()
    plan, _ = planned(model, 32, ranks)
    assert plan.tiers["attention"] == "captured"
    assert plan.captured_fraction == 1.0
    for batch, length in ((2, 5), (1, 9), (4, 1)):
        assert_equal_on_ranks(plan, model, torch.randn(batch, length, 32))
    mask = torch.zeros(2, 5, dtype=torch.bool)
    with pytest.raises(axisplit.errors.LoweringError, match="attention"):
        assert_equal_on_ranks(plan, model, torch.randn(2, 5, 32), mask)
    model.train()
    with pytest.raises(axisplit.errors.LoweringError, match=r"(?s)got: in training.*needed: in evaluation"):
        assert_equal_on_ranks(plan, model, torch.randn(2, 5, 32))


class LeavesOut(Outer):
    """Keeps a mask that hides nothing only where its values cannot be seen, as transformers does."""

    def forward(self, x, mask=None):
        hidden = torch.zeros(x.shape[:2], dtype=torch.bool) if mask is None else mask
        seen = not isinstance(hidden, FakeTensor) and not hidden.any()
        return super().forward(x, None if seen else hidden)


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_captured_program_is_that_of_the_call_as_it_is_made(ranks, tmp_path):
    model = perturb(LeavesOut()).eval()
    x = torch.randn(2, 5, 32)
    plan = axisplit.plan(model, x, ranks=ranks)
    assert (plan.on_values, plan.tiers["attention"], plan.captured_fraction) == (True, "captured", 1.0)
    for batch, length in ((2, 5), (1, 9)):
        assert_equal_on_ranks(plan, model, torch.randn(batch, length, 32))
    with pytest.raises(axisplit.errors.LoweringError, match="attention"):
        assert_equal_on_ranks(plan, model, x, torch.ones(2, 5, dtype=torch.bool).tril(-1))
    model = model.float()
    plan.save(tmp_path / "plan.json")
    plan = axisplit.Plan.load(tmp_path / "plan.json")
    assert axisplit.verify(model, x, plan).equal
    assert verify_plan(model, (x,), plan, captured=capture(model, x)).equal
    masked = {"x": x, "mask": torch.ones(2, 5, dtype=torch.bool).tril(-1)}
    assert not axisplit.plan(model, masked, ranks=ranks).on_values


class Forks(Bare):
    """The same ops, but from another line, where values can be seen."""

    def forward(self, x):
        if isinstance(x, FakeTensor):
            return layer_norm(x + linear(gelu(linear(x, self.up)), self.down), (16,))
        return layer_norm(x + linear(gelu(linear(x, self.up)), self.down), (16,))


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_path_that_is_taken_on_values_only_is_planned(ranks):
    model, x = perturb(Forks()).eval(), torch.randn(2, 5, 16)
    plan = axisplit.plan(model, x, ranks=ranks)
    assert plan.on_values
    assert plan.split_fraction == 1.0
    assert_equal_on_ranks(plan, model, torch.randn(3, 4, 16))
    model = model.float()
    assert axisplit.verify(model, x, plan).equal
    assert not axisplit.plan(model.to("meta"), x.to("meta"), ranks=ranks).on_values


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(Forks()) for _ in range(8))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_path_on_values_is_folded_as_the_trace_is():
    model, x = perturb(Deep()).eval(), torch.randn(2, 5, 16)
    plan = axisplit.plan(model, x, ranks=2)
    assert plan.on_values
    assert any("8 blocks, 4 of them traced" in text for text in plan.assumed)
    assert axisplit.verify(model, x, plan).equal


def test_a_plan_that_holds_on_both_paths_is_kept():
    class Beside(Bare):
        def forward(self, x):
            y = x if isinstance(x, FakeTensor) else x * 1.0
            return super().forward(y)

    plan = axisplit.plan(perturb(Beside()).eval(), torch.randn(2, 5, 16), ranks=2)
    assert not plan.on_values
    assert plan.assumed == ()


def test_what_does_not_run_on_values_is_assumed_to_take_the_path_that_was_traced():
    class Picky(Bare):
        def forward(self, x):
            if not isinstance(x, FakeTensor) and x.sum() != 0:
                raise ValueError("zeros only")
            return super().forward(x)

    model = perturb(Picky()).eval()
    (assumed,) = axisplit.plan(model, torch.ones(2, 5, 16), ranks=2).assumed
    path = "not run on the inputs' values, which may take another path than the trace"
    assert assumed == f"{path}: ValueError: zeros only"
    assert axisplit.plan(model, torch.zeros(2, 5, 16), ranks=2).assumed == ()


def test_a_shard_does_not_keep_the_whole_alive():
    model = perturb(Attention()).eval()
    plan, _ = planned(model, 32)
    by_name = {p.name: p for p in plan.parameters}
    part = shadow_copy(model, lambda name, tensor: take_shard(by_name[name], tensor, 1), None)
    assert part.q.weight.untyped_storage().nbytes() == model.q.weight.untyped_storage().nbytes() // 2
    assert torch.equal(part.q.weight, model.q.weight[16:])
    assert torch.equal(part.o.weight, model.o.weight[:, 16:])
    assert not part.o.bias.any()


class Sum(nn.Module):
    def forward(self, x, y):
        z = x * 2
        z += y
        return z


@pytest.mark.parametrize(("operand", "made"), [(-1, 3 * (2 * 5 + 7)), (0, 3 * 2 * 5 + 7), (1, 2 * 5 + 3 * 7)])
def test_augmented_assignments(operand, made):
    model, code = Sum(), Sum.forward.__code__
    line = code.co_firstlineno + 2
    vars(model)["_axisplit"] = {"triple": lambda y: 3 * y}
    insert_calls(model, [Insertion("triple", code.co_qualname, (line, line, 8, 14), operand)])
    assert model(torch.tensor(5), torch.tensor(7)) == made


class Calls(nn.Module):
    def forward(self, x, y):
        return (
            torch.cat((x, y), dim=0),
            torch.einsum("i,i->i", [x, y]),
            torch.gather(x, -1, y),
            2 - x,
        )


@pytest.mark.parametrize(
    ("line", "operand", "made"),
    [
        (0, 1, lambda x, y: torch.cat((x, 3 * y))),
        (1, 0, lambda x, y: 3 * x * y),
        (2, 1, lambda x, y: x.gather(0, 3 * y)),
        (3, 0, lambda x, y: 2 - 3 * x),
    ],
)
def test_operands_are_counted_as_the_op_has_its_tensors(line, operand, made):
    model, code = Calls(), Calls.forward.__code__
    expression = definition_of(code).body[0].value.elts[line]
    place = (expression.lineno, expression.end_lineno, expression.col_offset, expression.end_col_offset)
    vars(model)["_axisplit"] = {"triple": lambda y: 3 * y}
    insert_calls(model, [Insertion("triple", code.co_qualname, place, operand)])
    x, y = torch.tensor([5, 7, 11, 13]), torch.tensor([0, 1, 1, 0])
    assert model(x, y)[line].equal(made(x, y))


class Reads(nn.Module):
    """A sum that the caller reads, and that a head of the model's own reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.head = nn.Linear(16, 48), nn.Linear(48, 16), nn.Linear(16, 32)

    def forward(self, x):
        y = self.down(gelu(self.up(x)))
        return y, self.head(y)


@pytest.mark.parametrize("ranks", [2, 3])
def test_what_is_read_inside_and_outside_is_reduced_once(ranks):
    model = perturb(Reads())
    plan, inputs = planned(model, 16, ranks)
    assert [c.count for c in plan.collectives if (c.kind, c.phase) == ("all_reduce", "forward")] == [1]
    assert axisplit.verify(model, inputs, plan, gradients=True).equal


def test_steps_of_conversions(monkeypatch):
    finder, layout = object.__new__(Finder), Layout(0, 4, (((0, 2),), ((2, 4),)))
    finder.converted = defaultdict(set)
    splits = {name: SimpleNamespace(name=name, follows=name == "f") for name in "tuf"}
    finder.decision = SimpleNamespace(
        layout=lambda value, state: layout, split=lambda state: splits[state[2:]], search=SimpleNamespace(splits=splits)
    )
    monkeypatch.setattr(Finder, "_weights", lambda self, value, state: (0.75, 0.25))

    def chain(source, target):
        sites = finder.steps("here", 0, source, target)
        twins = [twin_of(site) for site in reversed(sites)]
        return " ".join(site.kind for site in sites), " ".join("-" if twin is None else twin.kind for twin in twins)

    assert {(a, b): chain(a, b) for a, b in CONVERSIONS} == CONVERSIONS
    assert finder.converted["here:sum"] == {(0, a, b) for a, b in CONVERSIONS if a[0] in "PM" and b != "S:f"}
    assert [site.follows for site in finder.steps("here", 0, "S:f", "S:t")] == ["f", ""]
    assert [site.follows for site in finder.steps("here", 0, "P", "S:f")] == ["f"]


# (made, wanted) -> what forward does, what backward does in turn. R whole, V whole with a partial cotangent (DESIGN 5)
CONVERSIONS = {
    ("P", "R"): ("all_reduce", "-"),
    ("P", "V"): ("all_reduce", "all_reduce"),
    ("P", "S:t"): ("all_reduce take", "all_gather -"),
    ("P", "S:f"): ("reduce_scatter", "all_gather"),
    ("S:f", "V"): ("all_gather", "reduce_scatter"),
    ("M:t", "R"): ("scale all_reduce", "- scale"),
    ("M:t", "V"): ("scale all_reduce", "all_reduce scale"),
    ("S:t", "R"): ("all_gather", "keep"),
    ("S:t", "V"): ("all_gather", "reduce_scatter"),
    ("S:t", "P"): ("pad", "keep"),
    ("S:t", "S:u"): ("all_gather take", "all_gather keep"),
    ("R", "S:t"): ("take", "all_gather"),
    ("V", "S:t"): ("take", "embed"),
    ("R", "P"): ("only_first", "-"),
    ("V", "P"): ("only_first", "only_first"),
    ("R", "V"): ("enter", "all_reduce"),
    ("V", "R"): ("leave", "only_first"),
}


def test_a_table_in_several_ranges():
    layout = Layout(0, 8, (((0, 2), (6, 8)), ((2, 6),)))
    with registered("tables", CollectiveContext(FakeGroup(0, 2), [Site("table", "lookup", layout)])):
        ids = torch.tensor([0, 7, 2, 6])
        assert localize(ids, "tables/table").tolist() == [0, 3, 0, 2]
        assert mask_rows(torch.ones(4, 1), ids, "tables/table").flatten().tolist() == [1, 1, 0, 1]


class Padded(nn.Module):
    """Without gradients torch runs such an encoder on nested tensors, and what it makes of padding is zero."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(32))

    def forward(self, x, padding):
        return self.encoder(x, src_key_padding_mask=padding)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("padded", [[[2, 0]], [[2, 3], [2, 4]]], ids=["anywhere", "at the end"])
def test_an_encoder_that_torch_would_run_fused(padded):
    model = perturb(Padded()).eval()
    x, padding = torch.randn(3, 5, 32), torch.zeros(3, 5, dtype=torch.bool)
    for row, position in padded:
        padding[row, position] = True
    plan = axisplit.plan(model, (x, padding), ranks=2)
    assert plan.split_fraction > 0.95
    assert axisplit.verify(model, (x, padding), plan).equal
    with torch.no_grad():
        whole = model(x, padding)
        for part, _ in on_ranks(plan, model, lambda m: m(x, padding)):
            torch.testing.assert_close(part, whole, rtol=0, atol=1e-5)
