"""Rules found by trial, rules that users state, and models that run through ops of other libraries."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import axisplit
from axes import custom_ops
from axes.law_cases import Make, f, s
from axes.law_check import failures, roles, trace
from axisplit.axes import discover, register, remember, trial
from axisplit.axes.derive import derive_axes
from axisplit.errors import CaptureError, InputError
from models_zoo.tiny import perturb

ops = torch.ops.trial


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known from elsewhere, nothing is left behind."""
    monkeypatch.setenv("AXISPLIT_CACHE", str(tmp_path))
    monkeypatch.setattr(remember, "_in_memory", type(remember._in_memory)())
    monkeypatch.setattr(remember, "_files", {})
    monkeypatch.setattr(register, "_stated", {})


def law_of(run: Callable[..., Any], *operands: Make) -> Any:
    """The law of the one op that a function of small tensors issues; every claim it makes is run on parts."""
    traced = trace(run, [make(torch.Generator().manual_seed(0)) for make in operands])
    assert list(failures(traced)) == []
    return traced.derived.laws[0], roles(traced)


FOUND = [
    ("scaled", lambda x, w: ops.scaled(x, w, 0.3), (f(2, 16), f(32, 16)), "pr pr | P. .P"),
    ("scaled, square", lambda x, w: ops.scaled(x, w, 0.5), (f(16, 16), f(16, 16)), "pr pr | P. .P"),
    ("scaled, float32", lambda x, w: ops.scaled(x, w, 1.0), (s(6, 16), s(32, 16)), "pr pr | P. .P"),
    ("biased", ops.biased, (f(2, 3, 16), f(16, 16), f(16)), "ppr pr p | P.P .PP"),
    ("row_softmax", ops.row_softmax, (f(2, 5, 8),), "pp."),
    ("nearly_rowwise", ops.nearly_rowwise, (f(6, 8),), ".p"),
    ("over_length", ops.over_length, (f(4, 16), f(6, 16)), "p. p."),
    ("positions", ops.positions, (f(4, 6),), "p."),
    ("of_size", lambda x: ops.of_size(x, 16), (f(4, 16),), "pp | P"),
    ("of_size, square", lambda x: ops.of_size(x, 16), (f(16, 16),), "pp | P"),
    ("gelu of another library", ops.gelu, (f(4, 6),), "p. | P"),
    ("contiguous of another library", ops.contiguous, (f(4, 6),), "pp | P"),
    ("ends", ops.ends, (f(4, 6),), "p."),
    ("linalg_inv", torch.linalg.inv, (lambda rng: torch.eye(4, dtype=torch.float64).repeat(3, 1, 1),), "p.."),
]


@pytest.mark.parametrize(("run", "operands", "expected"), [case[1:] for case in FOUND], ids=[c[0] for c in FOUND])
def test_discovered(run: Any, operands: tuple[Make, ...], expected: str) -> None:
    law, found = law_of(run, *operands)
    assert found == expected
    assert law.family == "discovered"
    assert "rule discovered by trial on integers: " in law.assumption


def test_sizes_among_the_arguments_follow_the_parts() -> None:
    traced = trace(lambda x: ops.blocks(x, [4, 3, 2]), [f(4, 6)(torch.Generator())])
    law, axes = traced.derived.laws[0], traced.derived.dims[0]
    assert roles(traced) == "p."
    assert law.rewrites[1](lambda axis: 2 if axis is axes[0] else axis.size) == [2, 3, 2]


WHOLE = [
    (ops.noisy, f(4, 6), "it draws random numbers"),
    (lambda x: ops.spread(x, 6), f(6), "its argument n holds a dim's size and would have to change"),
    (torch.cov, f(4, 6), "its parts do not sum up"),
]


@pytest.mark.parametrize(("run", "operand", "why"), WHOLE, ids=["random", "sizes", "relates all"])
def test_whole_with_the_reason(run: Any, operand: Make, why: str) -> None:
    traced = trace(run, [operand(torch.Generator())])
    (law,) = traced.derived.laws
    assert (law.family, law.assumption) == ("unknown", law.reason)
    assert why in law.reason
    assert set(roles(traced)) == {"."}


def test_the_random_state_stays_what_it_was() -> None:
    traced = trace(ops.noisy, [torch.ones(4, 6)])
    remember._in_memory.clear()
    before = torch.get_rng_state()
    derive_axes(traced.graph)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_op_that_takes_too_long_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discover, "TIME_LIMIT_S", -1.0)
    assert "takes more than" in trace(ops.positions, [torch.ones(4, 6)]).derived.laws[0].reason


def test_kernels_that_may_not_check_shapes_get_none_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discover, "checks_shapes", lambda op: False)
    square = [torch.ones(16, 16), torch.ones(16, 16)]
    assert roles(trace(lambda x, w: ops.scaled(x, w, 0.5), square)) == ".. .. | P. .P"


def test_a_tolerance_would_accept_what_integers_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    def near(found: torch.Tensor, wanted: torch.Tensor, *_: Any) -> bool:
        return found.shape == wanted.shape and torch.allclose(found, wanted)

    monkeypatch.setattr(trial, "same", near)
    assert roles(trace(ops.nearly_rowwise, [torch.randn(6, 8, dtype=torch.float64)])) == "pp | P"


# --- what was found is kept ---------------------------------------------------------------------------------------


def tries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ops that are tried from here on."""
    found: list[str] = []
    right = discover._try
    monkeypatch.setattr(discover, "_try", lambda node, *rest: found.append(node.name) or right(node, *rest))
    return found


def test_each_kind_of_call_is_tried_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = tries(monkeypatch)
    for shape in ((4, 6), (6, 8), (8, 4)):  # of one kind
        trace(lambda x: torch.cov(ops.positions(x)), [torch.ones(shape)])
    assert tried == ["trial.positions.default", "aten.cov.default"]
    trace(ops.positions, [torch.ones(4, 4)])  # dims of one size are another kind
    assert len(tried) == 3
    remember._in_memory.clear()
    remember._files.clear()
    trace(lambda x: torch.cov(ops.positions(x)), [torch.ones(4, 6)])  # as in another process: code may have changed
    assert tried[3:] == ["trial.positions.default"]
    (file,) = (tmp_path / "rules").iterdir()
    assert [name.partition(" ")[0] for name in json.loads(file.read_text())] == ["aten.cov.default"]


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"aten.cov.default": {"pattern": {"operands": 3}, "reason": ""}}'])
def test_a_damaged_file_is_ignored_with_a_warning(damage: str) -> None:
    path = remember._path()
    path.parent.mkdir()
    path.write_text(damage)
    with pytest.warns(UserWarning, match="is damaged and not used"):
        law = trace(torch.linalg.inv, [torch.eye(4).repeat(3, 1, 1)]).derived.laws[0]
    assert law.family == "discovered"
    assert [key.partition(" ")[0] for key in json.loads(path.read_text())] == ["aten.linalg_inv.default"]


# --- rules that users state ---------------------------------------------------------------------------------------


def test_a_registered_rule_is_stated() -> None:
    axisplit.register_rule("trial::biased", "... i, o i, o -> ... o", added=(2,), linear=((0, 2), (1, 2)), check=True)
    law, found = law_of(ops.biased, f(2, 3, 16), f(32, 16), f(32))
    assert found == "ppr pr p | P.P .PP"
    assert (law.family, law.assumption) == ("registered", "")


def test_registered_sizes_follow_the_parts() -> None:
    axisplit.register_rule(custom_ops.of_size, "a b -> a b", sizes={"n": "b"}, linear=(0,), check=True)
    assert law_of(lambda x: ops.of_size(x, 16), f(16, 16))[1] == "pp | P"


def test_rules_for_other_dims_stand_beside_each_other_and_the_last_one_counts() -> None:
    for spec, whole in (("a b -> a b", ""), ("a b c -> a b c", "c"), ("a b -> a b", "b")):
        axisplit.register_rule("trial::row_softmax", spec, whole=whole)
    assert [law_of(ops.row_softmax, f(*shape))[1] for shape in ((4, 6), (2, 4, 6))] == ["p.", "pp."]


FALSE = [
    (ops.row_softmax, "a b -> a b", {}, "b does not pass: its parts are not the parts of the whole result"),
    (ops.over_length, "a i, o i -> a o", {}, "i is not summed over: its parts do not sum up to the whole result"),
    (ops.positions, "a b -> a b", {"whole": "b", "linear": (0,)}, "not linear in operand 0"),
]


@pytest.mark.parametrize(("op", "spec", "claims", "said"), FALSE)
def test_a_false_rule_is_refused_when_it_is_checked(op: Any, spec: str, claims: dict[str, Any], said: str) -> None:
    axisplit.register_rule(op, spec, **claims, check=True)
    with pytest.raises(InputError, match=said):
        trace(op, [torch.ones(4, 6)] * (spec.count(",") + 1))


UNREADABLE = [
    ("trial::absent", "a -> a", {}, "no op to register a rule for"),
    ("aten::mm", "a b, b c -> a c", {}, "has a rule built in"),
    ("trial::positions", "a b", {}, "not exactly one '->'"),
    ("trial::positions", "a a -> a", {}, "a stands twice in 'a a'"),
    ("trial::positions", "a b -> a c", {}, "c only stands on the right"),
    ("trial::positions", "a ... -> a ...", {}, "is not in front"),
    ("trial::positions", "a-b -> a", {}, "'a-b' is no letter"),
    ("trial::positions", "a, b -> a", {}, "2 operands, the op has 1"),
    ("trial::positions", "a -> a, a", {}, "2 outputs, the op has 1"),
    ("trial::positions", "a -> a", {"whole": "c"}, "whole= names c"),
    ("trial::positions", "a -> a", {"linear": (1,)}, "there is no operand 1"),
    ("trial::of_size", "a -> a", {"sizes": {"x": "a"}}, "sizes= names x, which is no integer argument"),
]


@pytest.mark.parametrize(("op", "spec", "claims", "said"), UNREADABLE)
def test_rules_that_cannot_be_read(op: str, spec: str, claims: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        axisplit.register_rule(op, spec, **claims)


def test_a_rule_that_does_not_describe_a_call() -> None:
    axisplit.register_rule("trial::scaled", "a i, i o -> a o")
    with pytest.raises(InputError) as caught:
        trace(lambda x, w: ops.scaled(x, w, 1.0), [torch.ones(4, 6), torch.ones(8, 6)])
    assert "operands [[4, 6], [8, 6]], outputs [[4, 8]]" in str(caught.value)
    assert "'a i, i o -> a o': i is 8 in operand 1, and 6 before" in str(caught.value)


# --- models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_model_is_split_through_custom_ops(ranks: int) -> None:
    model, inputs = perturb(custom_ops.CustomMlp()), (torch.randn(4, 16, generator=torch.Generator().manual_seed(0)),)
    plan = axisplit.plan(model, inputs, ranks)
    verdict = axisplit.verify(model, inputs, plan)
    assert [p.held for p in plan.parameters] == ["split", "split"]
    assert [c.kind for c in plan.collectives if c.phase == "forward"] == ["all_reduce"]
    assert (verdict.equal, verdict.control_caught, verdict.mismatches) == (True, True, ())
    assert (verdict.proof.ops, verdict.proof.proved) == (4, 1)
    assert verdict.proof.assumed == plan.assumed
    assert [text.partition(": ")[0] for text in plan.assumed] == ["trial.row_softmax.default", "trial.scaled.default"]


def test_a_model_of_registered_ops_assumes_nothing() -> None:
    axisplit.register_rule("trial::scaled", "a i, o i -> a o", linear=(0, 1), check=True)
    axisplit.register_rule("trial::row_softmax", "a b -> a b", whole="b", check=True)
    model, inputs = perturb(custom_ops.CustomMlp()), (torch.randn(4, 16, generator=torch.Generator().manual_seed(0)),)
    plan = axisplit.plan(model, inputs, 2)
    verdict = axisplit.verify(model, inputs, plan)
    assert (verdict.equal, verdict.proof.proved, verdict.proof.assumed) == (True, 4, ())


def test_gradients_of_an_op_without_a_backward() -> None:
    model, inputs = perturb(custom_ops.CustomMlp()), (torch.randn(4, 16),)
    plan = axisplit.plan(model, inputs, 2)
    with pytest.raises(InputError, match="no autograd formula was registered"):
        axisplit.verify(model, inputs, plan, gradients=True)


class Applied(nn.Module):
    def __init__(self, op: Callable[..., Any]) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.op(x)
        return x if made is None else made


@pytest.mark.parametrize(
    ("op", "said"),
    [
        (ops.shapeless, "the op trial.shapeless.default has no shape function"),
        (ops.relu_, "cannot make the in-place op trial.relu_.default functional"),
    ],
)
def test_ops_that_cannot_be_captured(op: Any, said: str) -> None:
    with pytest.raises(CaptureError, match=said):
        axisplit.plan(Applied(op), (torch.ones(4, 6),), 2)
