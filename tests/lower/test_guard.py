"""Calls of a running model: known ones pass, others are proved or refused, and nothing is silently local."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import torch
from torch import nn

import axisplit
from axisplit.api import bind
from axisplit.capture.calls import CallText
from axisplit.capture.trace import normalize_inputs
from axisplit.errors import ForgottenStateWarning, ProofError, UnprovedCallWarning
from axisplit.lower.apply import make_rank
from axisplit.lower.guard import Guard
from axisplit.runtime.groups import FakeGroup, Group
from axisplit.runtime.simulate import simulate
from axisplit.runtime.sites import unregister
from lower.test_edits import planned
from models_zoo import real
from models_zoo.small import Branches, Mlp, Slopes
from models_zoo.tiny import ZOO, build, ids, perturb

T = TypeVar("T")


def on_guarded_ranks(plan: axisplit.Plan, model: nn.Module, fn: Callable[[nn.Module, Guard], T]) -> list[T]:
    """`fn` of its part and its guard, for every simulated rank."""

    def rank(group: Group) -> T:
        guard = Guard(model, plan)
        part, _ = make_rank(model, plan, group, "guarded")
        guard.attach(part)
        try:
            with torch.no_grad():
                return fn(part, guard)
        finally:
            unregister("guarded")

    return simulate(plan.ranks, rank)


def refusal(model: nn.Module, *args: Any, **kwargs: Any) -> str:
    try:
        model(*args, **kwargs)
    except ProofError as error:
        return str(error)
    return "not refused"


@pytest.fixture(scope="module")
def llama():
    """(a tiny llama, its plan for calls with `input_ids` alone)."""
    model = build("llama")
    return model, axisplit.plan(model, {"input_ids": ids(2, 9)}, ranks=2)


def whole_and_parts(llama, call: Callable[[nn.Module], torch.Tensor]) -> list[set[str]]:
    """Calls that were proved on the way, on each rank; what comes out is the whole model's."""
    model, plan = llama
    with torch.no_grad():
        whole = call(model)

    def part(part: nn.Module, guard: Guard) -> set[str]:
        torch.testing.assert_close(call(part), whole, rtol=0, atol=1e-4)
        return guard.proved - set(plan.calls)

    return on_guarded_ranks(plan, model, part)


@pytest.mark.parametrize(
    "arguments",
    [
        {"input_ids": ids(3, 5)},
        {"input_ids": ids(1, 4), "use_cache": True, "return_dict": True, "labels": None},
        {"input_ids": ids(2, 6), "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])},
    ],
)
def test_traced_calls_are_not_traced_again(llama, arguments, monkeypatch):
    monkeypatch.setattr(Guard, "_decide", None)
    assert whole_and_parts(llama, lambda m: m(**arguments).logits) == [set(), set()]
    assert whole_and_parts(llama, lambda m: m(ids(2, 9), use_cache=True).logits) == [set(), set()]


def test_positions_are_proved_when_they_come(llama):
    """And the step after, by the way."""
    text = "input_ids=int[2], position_ids=int[2]; eval"
    step = "cache=DynamicCache, input_ids=int[2], position_ids=int[2]; eval"
    positions = torch.arange(3, 12).expand(2, 9)
    assert whole_and_parts(llama, lambda m: m(ids(2, 9), position_ids=positions).logits) == [{text, step}] * 2


def test_generate_is_proved_in_both_phases(llama):
    """Two passes of one kind: a prompt with an empty cache, and steps that go on from it."""
    found = whole_and_parts(llama, lambda m: m.generate(ids(2, 9), do_sample=False, max_new_tokens=4))
    text = "cache=DynamicCache, input_ids=int[2], logits_to_keep=int, position_ids=int[2]; eval"
    assert found == [{text}] * 2


def test_a_step_from_a_filled_cache_is_traced_from_a_prompt(llama):
    def two_steps(model: nn.Module) -> torch.Tensor:
        state = model(ids(2, 9)).cache
        mask, positions = torch.ones(2, 10, dtype=torch.long), torch.full((2, 1), 9)
        step = {"attention_mask": mask, "position_ids": positions, "cache": state}
        return model(ids(2, 1), **step).logits

    (found, _) = whole_and_parts(llama, two_steps)
    assert "attention_mask=int[2], cache=DynamicCache, input_ids=int[2], position_ids=int[2]; eval" in found


def test_a_mode_that_was_not_traced(llama):
    for found in whole_and_parts(llama, lambda m: m.train()(ids(2, 9)).logits):
        assert "input_ids=int[2]; train" in found
    llama[0].eval()
    for found in whole_and_parts(llama, autocast_logits):
        assert "input_ids=int[2]; eval, autocast=bfloat16" in found


def autocast_logits(model: nn.Module) -> torch.Tensor:
    """All zeros: how far bfloat16 is off is not what is asked here."""
    with torch.autocast("cpu", torch.bfloat16):
        return 0 * model(ids(2, 9)).logits.float()


def test_local_attentions_are_refused():
    model = build("llama")
    model.set_attn_implementation("eager")
    plan = axisplit.plan(model, {"input_ids": ids(2, 9)}, ranks=2)
    found = on_guarded_ranks(plan, model, lambda part, _: refusal(part, ids(2, 9), output_attentions=True))
    assert found[0] == found[1]
    assert found[0].startswith("this call is outside what the plan was proved for")
    assert "got: input_ids=int[2], output_attentions=True; eval" in found[0]
    assert "output prefill:attentions.0 is not the whole value" in found[0]
    assert "do: plan with inputs of this kind" in found[0]


def test_parallelize_guards(two_ranks, tmp_path):
    _, plan, x = branches(2)
    plan.save(tmp_path / "plan.json")
    for error, said in two_ranks.run(real.branch_asked_for, str(tmp_path / "plan.json"), x):
        assert error < 1e-5
        assert "output forward:0 is not the whole value" in said


def branches(ranks: int = 3):
    model = perturb(Branches()).eval()
    plan, (x,) = planned(model, 16, ranks)
    assert plan.calls == ("x=float[3]; eval",)
    return model, plan, x


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"how": "hidden"}, "output forward:0 is not the whole value"),
        ({"how": "normed"}, "aten.softmax.int in the model reads"),
        ({"how": "swapped"}, "aten.flip.default in the model reads"),
        ({"offset": torch.ones(48)}, "does not run"),
    ],
)
def test_branches_that_the_ranks_cannot_take(arguments, said):
    model, plan, x = branches()

    def twice(part: nn.Module, guard: Guard) -> str:
        first = refusal(part, x, **arguments)
        assert refusal(part, x, **arguments) == first
        assert len(guard.refused) == 1
        return first

    texts = on_guarded_ranks(plan, model, twice)
    assert len(set(texts)) == 1, "all ranks decide alike"
    assert said in texts[0]


@pytest.mark.parametrize("arguments", [{"how": "squashed"}, {"offset": torch.ones(1)}, {"offset": 0.5}])
def test_branches_that_the_ranks_can_take(arguments):
    """Ops that nothing was decided for; parts of 16 of 48, and of 24."""
    for ranks in (2, 3):
        model, plan, x = branches(ranks)
        whole = model(x, **arguments)
        for found in on_guarded_ranks(plan, model, lambda part, _, x=x: (part(x, **arguments), part(x=x, **arguments))):
            for y in found:
                torch.testing.assert_close(y, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "ranks"), [("olmo2", 2), ("mamba", 3), ("encoder layer", 3), ("mpt", 2), ("bloom", 3)]
)
def test_what_a_plan_decided_is_inferred(name, ranks):
    """With no call known beforehand: weighted means, scans, captured programs, no cache by default, slopes of heads."""
    model, inputs = build(name), ZOO[name].inputs(2, 9)
    guard = Guard(model, replace(axisplit.plan(model, inputs, ranks=ranks), calls=()))
    args, kwargs = normalize_inputs(inputs)
    text = CallText(model).of(args, kwargs, training=False)
    guard._decide(text, model, args, kwargs)
    assert guard.refused == {}
    assert text in guard.proved


def test_dropout_that_was_off_is_refused():
    model, plan, x = branches()
    model(x, "noisy")
    assert on_guarded_ranks(plan, model, lambda part, _: refusal(part, x, "noisy")) == ["not refused"] * 3
    texts = on_guarded_ranks(plan, model, lambda part, _: refusal(part.train(), x, "noisy"))
    assert "aten.dropout.default in the model draws numbers, which differ from rank to rank" in texts[1]


class Continues(Mlp):
    """Keeps its last hidden state in an attribute, of the whole width."""

    def __init__(self) -> None:
        super().__init__()
        self.state: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, begin: bool = True) -> torch.Tensor:
        hidden = self.up(x).relu()
        if begin or self.state is None:
            self.state = torch.zeros_like(hidden)
        self.state = self.state * 0.5 + hidden
        return self.down(self.state)


@pytest.mark.parametrize("used", [False, True])
def test_state_that_a_module_kept_from_the_whole_model_is_forgotten(used):
    model, x = perturb(Continues()), torch.randn(3, 16)
    plan = axisplit.plan(model, (x,), ranks=3)
    whole = [y.detach() for y in (model(x), model(x, False), model(2 * x, False))]
    if used:  # by a call that does not read what is there
        plan = axisplit.plan(model, (x,), ranks=3)
    assert plan.states == ("state",)
    parts = on_guarded_ranks(plan, model, lambda part, _: [part(x, False), part(x, False), part(2 * x, False)])
    assert all(torch.allclose(y, wanted, atol=1e-5) for ys in parts for y, wanted in zip(ys, whole, strict=True))
    with pytest.warns(ForgottenStateWarning, match="is forgotten: state"):
        bind(model, plan, FakeGroup(0, 3))
    assert model.state is None


def test_python_that_looks_at_values_is_warned_of_once():
    model, plan, x = branches()

    def calls(part: nn.Module, guard: Guard) -> str:
        with pytest.warns(UnprovedCallWarning, match="this call was not proved: how='in order', x=float"):
            part(x, "in order")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            part(x, "in order")
        return refusal(part, x, "hidden")

    assert all("not the whole value" in said for said in on_guarded_ranks(plan, model, calls))


def test_layouts_are_compared_where_shapes_agree():
    """Slices of other ranks' heads: the same ops and shapes, so only what a site says tells."""
    model = perturb(Slopes()).eval()
    plan, (x,) = planned(model, 32)
    (take,) = [place for place in plan.places if place.steps[0].kind == "take"]
    swapped = replace(take, steps=(replace(take.steps[0], ranges=take.steps[0].ranges[::-1]),))
    others = tuple(place for place in plan.places if place is not take)
    for places, said in (
        (plan.places, "not refused"),
        ((*others, swapped), "in the model reads no value of the split program"),
    ):
        unknown = replace(plan, calls=(), places=places)
        assert all(said in text for text in on_guarded_ranks(unknown, model, lambda part, _: refusal(part, x)))


def test_ranges_are_compared_where_shapes_agree():
    """The two ranks' rows of one matrix exchanged."""
    model = perturb(Mlp()).eval()
    plan, (x,) = planned(model, 16)
    swapped = tuple(replace(p, ranges=p.ranges[::-1]) if p.name == "up.weight" else p for p in plan.parameters)
    for parameters, said in ((plan.parameters, "not refused"), (swapped, "aten.linear.default in up reads")):
        unknown = replace(plan, calls=(), parameters=parameters)
        assert all(said in text for text in on_guarded_ranks(unknown, model, lambda part, _: refusal(part, x)))


def test_the_text_of_a_call():
    class Config:
        def __init__(self):
            self.use_cache, self.scores, self.depth = True, False, 3

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = Config()

        def forward(self, x, mask=None, scale=1.0, use_cache=None, *more, **rest):
            raise NotImplementedError

    text, x = CallText(Model()), torch.ones(2, 3)

    def of(*args, **kwargs):
        return text.of(args, kwargs, training=False)

    assert of(x, x > 0) == of(mask=x > 0, x=x) == "mask=bool[2], x=float[2]; eval"
    assert of(x, None, 1.0, True, scores=False) == of(x) == of(x, use_cache=True) == "x=float[2]; eval"
    assert of(x, scale=None, use_cache=False) == "scale=None, use_cache=False, x=float[2]; eval"
    assert of(x, scale=2.0, depth=3, scores=True) == "depth=int, scale=float, scores=True, x=float[2]; eval"
    assert of(x, None, 1.0, None, x.long()) == "*0=int[2], x=float[2]; eval"
    assert of((x, None), mask={"full": x > 0}, how="fast") == (
        "how='fast', mask={full: bool[2]}, x=(float[2], None); eval"
    )
    assert of(x, cache=Config()) == "cache=Config, x=float[2]; eval"
    assert text.of((x,), {}, training=True) == "x=float[2]; train"


def test_calls_of_one_key_have_one_text():
    """And a key does not depend on what a text leaves out."""

    class Model(nn.Module):
        def forward(self, x, mask=None, scale=1.0, how="fast", state=None):
            raise NotImplementedError

    class State:
        pass

    text, x = CallText(Model()), torch.ones(2, 3)
    tensors = [x, 2 * x[:1], x.double(), x[0], x.long(), nn.Parameter(x), (x, x), [x], {"a": x}, {"b": x}]
    beside = {
        "mask": [None],
        "scale": [1.0, 2.0, 3.0, 1, 2, True, None],
        "how": ["fast", "slow"],
        "state": [State(), Model()],
    }
    calls = [{"x": tensor} for tensor in tensors]
    calls += [{"x": x, name: value} for name, values in beside.items() for value in values]
    texts = [text.of((), call, False) for call in calls]  # after which the classes of states are known
    found: dict[object, str] = {}
    for call, said in zip(calls, texts, strict=True):
        key = text.key((), call, False)
        assert found.setdefault(key, said) == said or key is None
    assert text.key((), {"x": x}, False) == text.key((), {"x": 3 * x}, False) != text.key((), {"x": x}, True)
    assert [text.key((), call, False) is None for call in calls].count(True) == 5  # a parameter, and containers
    assert text.key((x,), {}, False) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert text.key((), {"x": x}, False) not in found
    assert CallText(Model()).key((), {"x": x, "state": State()}, False) is None  # a class of which nothing is known yet


def test_calls_that_are_known_by_their_key_are_not_written_out(llama, monkeypatch):
    def calls(part: nn.Module, guard: Guard) -> None:
        part(input_ids=ids(2, 9))
        monkeypatch.setattr(CallText, "of", None)
        part(input_ids=ids(1, 4))

    model, _ = llama
    single = axisplit.plan(model, {"input_ids": ids(2, 9)}, ranks=1)
    on_guarded_ranks(single, model, calls)
    with pytest.raises(TypeError):
        on_guarded_ranks(single, model, lambda part, _: part(input_ids=ids(1, 4), labels=ids(1, 4)))
