"""The exercise's answers, by hand; every expression's ways against axisplit.plan, whole values and learners' Python."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

import axisplit
from axisplit.errors import InputError
from axisplit.lesson.compare import Comparison, Strategy
from axisplit.lesson.formula import MOST_OPS, parse_formula
from axisplit.lesson.setting import Fault
from axisplit.lesson.ways import Compute

EXERCISE = "gelu(X @ W1) @ W2"
SQUARE = {"X": (2, 4), "W1": (4, 4), "W2": (4, 4)}
GATHERS = "column-wise-split -> distributed-matmul -> all-gather"
SUMS = "row-wise-parallel-split -> distributed-matmul -> all-reduce"
ANSWERS = (
    f"{GATHERS} -> gelu -> {GATHERS}",
    f"{SUMS} -> gelu -> {SUMS}",
    "column-wise-split -> distributed-matmul -> gelu -> distributed-matmul -> all-reduce",
    "row-wise-split -> distributed-matmul -> gelu -> distributed-matmul -> all-gather",
)
EXPRESSIONS = (
    (EXERCISE, {"X": (2, 4), "W1": (4, 6), "W2": (6, 5)}),
    ("gelu(X @ W1 + b1) @ W2 + b2", {"X": (3, 5), "W1": (5, 9), "b1": (9,), "W2": (9, 5), "b2": (5,)}),
    ("y = (silu(X @ W1) * (X @ W3)) @ W2", {"X": (4, 6), "W1": (6, 7), "W3": (6, 7), "W2": (7, 6)}),
    ("layer_norm(X + relu(X @ W1) @ W2) @ W3", {"X": (2, 6), "W1": (6, 12), "W2": (12, 6), "W3": (6, 4)}),
    ("softmax(Q @ K.T / 2) @ V", {"Q": (5, 4), "K": (7, 4), "V": (7, 6)}),
    ("tanh(tanh(X @ W1) @ W2) @ W3 * 0.5", {"X": (3, 4), "W1": (4, 8), "W2": (8, 4), "W3": (4, 8)}),
    ("-(B @ W) - 2 * B", {"B": (2, 3, 5), "W": (5, 5)}),
)


def answers(sizes: dict[str, tuple[int, ...]] = SQUARE, ranks: int = 2) -> Comparison:
    return axisplit.compare(EXERCISE, sizes, ranks, strategies=ANSWERS, seed=42)


def test_the_exercise_is_judged_as_by_hand() -> None:
    """[2, 4] of float32 is S = 32 bytes: an all-reduce over 2 ranks sends S, an all-gather S / 2."""
    found = answers()
    assert [s.valid for s in found.strategies] == [True, True, True, False]
    assert [s.comm_bytes for s in found.strategies] == [32, 64, 32, 16]
    assert [[c["kind"] for c in s.collectives] for s in found.strategies] == [
        ["all_gather", "all_gather"],
        ["all_reduce", "all_reduce"],
        ["all_reduce"],
        ["all_gather"],
    ]
    assert found.best is found.strategies[2]
    errors = [s.judged.max_error for s in found.strategies]
    assert max(e for e in errors[:3] if e is not None) < 1e-5
    assert errors[3] is not None
    assert errors[3] > 1


def test_the_seed_draws_the_exercises_tensors() -> None:
    torch.manual_seed(42)
    x, w1, w2 = torch.randn(2, 4), torch.randn(4, 4), torch.randn(4, 4)
    found = answers()
    assert found.result is not None
    assert torch.equal(found.result, torch.nn.functional.gelu(x @ w1) @ w2)
    printed = [[-1.5733, 0.9400, -0.9233, 0.3600], [-5.5034, 2.8632, -2.8932, -2.0718]]
    assert torch.allclose(found.result, torch.tensor(printed), atol=5e-5)
    assert "y = tensor([[-1.5733,  0.9400, -0.9233,  0.3600]," in str(found)


@pytest.mark.parametrize(("hidden", "ratio"), [(4, 1.0), (16, 2.5), (2, 0.75)])
def test_two_gathers_cost_more_where_the_hidden_size_is_larger(hidden: int, ratio: float) -> None:
    found = answers({"X": (2, 4), "W1": (4, hidden), "W2": (hidden, 4)})
    first, _, third, _ = found.strategies
    assert first.comm_bytes == ratio * third.comm_bytes
    assert found.best is (third if ratio >= 1 else first)
    beside = f"{ratio:.3g} times the bytes of the best, in 2" if ratio != 1 else "as many bytes as the best, in 2"
    if ratio >= 1:
        assert beside in first.reason
        assert "more where c > d (2.5 times as much at c = 4 d), less where c < d" in first.reason


def test_an_illegal_way_names_the_two_numbers_that_differ() -> None:
    wrong = answers().strategies[3]
    torch.manual_seed(42)
    x, w1 = torch.randn(2, 4), torch.randn(4, 4)
    a, b = (x[1, :2] @ w1[:2, 0]).item(), (x[1, 2:] @ w1[2:, 0]).item()
    gelu = torch.nn.functional.gelu
    apart, together = gelu(torch.tensor(a)) + gelu(torch.tensor(b)), gelu(torch.tensor(a + b))
    assert wrong.reason == (
        "gelu is not linear, and each rank has only its term of a sum: gelu(a) + gelu(b) ≠ gelu(a + b). "
        f"At [1, 0]: gelu({a:.4g}) + gelu({b:.4g}) = {apart:.4g}, gelu({a:.4g} + {b:.4g}) = {together:.4g}"
    )


@pytest.mark.parametrize(
    ("steps", "fault", "words"),
    [
        ("column-wise-split -> matmul -> gelu -> matmul", Fault.unfinished, "an all-reduce is missing"),
        ("column-wise-split -> matmul -> gelu -> matmul -> all-gather", Fault.joined, "to be added (all-reduce)"),
        ("column-wise-split -> matmul -> all-reduce -> gelu -> matmul", Fault.added, "side by side (all-gather)"),
        (
            "column-wise-split -> matmul -> all-gather -> all-reduce -> gelu -> matmul",
            Fault.repeated,
            "the sum is 2 times as much",
        ),
        (
            "column-wise-split -> matmul -> gelu -> column-wise-split -> matmul -> all-gather",
            Fault.missing,
            "needs other parts of what was computed before than the rank has",
        ),
    ],
)
def test_what_a_learner_gets_wrong_is_told(steps: str, fault: Fault, words: str) -> None:
    (found,) = axisplit.compare(EXERCISE, SQUARE, strategies=[steps]).strategies
    assert found.judged.fault is fault
    assert words in found.reason
    error = found.judged.max_error
    assert error is None or error > 0.1


def test_ops_that_need_a_whole_axis_and_sums_counted_twice_are_told() -> None:
    shapes = {"X": (3, 4), "W": (4, 6), "V": (6, 4)}
    parts = "column-wise-split -> matmul -> softmax -> matmul -> all-reduce"
    (found,) = axisplit.compare("softmax(X @ W) @ V", shapes, strategies=[parts]).strategies
    assert found.judged.fault is Fault.parts
    assert "softmax needs all of the axis" in found.reason
    counted = "relu -> row-wise-split -> matmul -> add -> all-reduce"
    shapes = {"X": (3, 4), "W": (4, 4)}
    (found,) = axisplit.compare("relu(X) + X @ W", shapes, strategies=[counted]).strategies
    assert found.judged.fault is Fault.counted
    assert "every rank adds to its partial sum what is to be added once: it counts 2 times" in found.reason
    (found,) = axisplit.compare("X + X @ W", shapes, strategies=[counted.removeprefix("relu -> ")]).strategies
    assert found.valid, "a tensor that is at hand can be added on one rank alone"


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(("text", "shapes"), EXPRESSIONS, ids=[text for text, _ in EXPRESSIONS])
def test_every_way_runs_as_the_learners_python_and_reads_back(
    text: str, shapes: dict[str, tuple[int, ...]], ranks: int
) -> None:
    found = axisplit.compare(text, shapes, ranks)
    assert len({s.name for s in found.strategies}) == len(found.strategies)
    assert any(s.valid and s.splits_every_weight for s in found.strategies)
    assert all(sum(bool(action.fault) for action in s.judged.way) <= 1 for s in found.strategies)
    for strategy in found.strategies:
        assert strategy.valid == (not any(action.fault for action in strategy.judged.way))
        assert run_code(found, strategy) == strategy.judged.max_error
        if strategy.valid:
            again = axisplit.compare(text, shapes, ranks, strategies=[" -> ".join(strategy.steps)])
            assert again.strategies[0].cost <= strategy.cost


def run_code(found: Comparison, strategy: Strategy) -> float | None:
    """The largest error of the statements of the trace, run as they are printed."""
    assert found.tensors is not None
    assert found.result is not None
    place: dict[str, object] = {"torch": torch, "F": torch.nn.functional, **found.tensors}
    for step in strategy.judged.steps:
        exec("\n".join(step.code), place)  # what a learner would paste
    got = place[f"{found.formula.result}_GPU0"]
    assert isinstance(got, torch.Tensor)
    return (got - found.result).abs().max().item()


MODULE = """
import torch
from torch.nn.functional import gelu, silu

class Module(torch.nn.Module):
    def __init__(self, shapes):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, torch.nn.Parameter(torch.randn(shape)))

    def forward(self, X):
        {names} = {held}
        y = {text}
        return y
"""


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(("text", "shapes"), EXPRESSIONS[:3], ids=[text for text, _ in EXPRESSIONS[:3]])
def test_the_best_way_is_what_plan_finds_for_the_same_module(
    text: str, shapes: dict[str, tuple[int, ...]], ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name for name in shapes if name != "X"]
    held = ", ".join(f"self.{name}" for name in names)
    source = MODULE.format(names=", ".join(names), held=held, text=text.removeprefix("y = "))
    (tmp_path / "written.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "written", raising=False)
    module = importlib.import_module("written").Module({name: shapes[name] for name in names})
    plan = axisplit.plan(module, (torch.randn(shapes["X"]),), ranks=ranks)
    found = axisplit.compare(text, shapes, ranks)
    assert found.best is not None
    assert found.best.comm_bytes == pytest.approx(plan.comm_bytes_per_rank)


def test_biases_are_no_weights_and_a_weight_that_is_used_in_two_ways_is_whole() -> None:
    """Columns in one product and rows in another: a rank would hold both."""
    text, shapes = EXPRESSIONS[1]
    assert axisplit.compare(text, shapes).setting.weights == ("W1", "W2")
    twice = axisplit.compare("gelu(X @ W) @ W.T", {"X": (2, 4), "W": (4, 6)})
    assert twice.best is not None
    assert twice.best.cost == (32, 1)
    for strategy in twice.strategies:
        steps = [action for action in strategy.judged.way if isinstance(action, Compute)]
        read = {steps[0].run.inputs[1], next(step.run.inputs[0] for step in steps if step.op == 2)}
        assert strategy.splits_every_weight == (len(read) == 1 and read != {"R"})


def test_as_little_as_possible_is_read_into_words() -> None:
    """Nothing is said of W1, so it is whole, though columns of it would do as well."""
    steps = "matmul -> column-wise-split -> gelu -> distributed-matmul -> all-reduce"
    (found,) = axisplit.compare(EXERCISE, SQUARE, strategies=[steps]).strategies
    assert found.valid
    assert dict(found.layout)["W1"] == "R"
    steps = "matmul -> gelu -> all-reduce"  # as wrong with rows of W split, of which nothing is said either
    (found,) = axisplit.compare("gelu(X @ W)", {"X": (2, 4), "W": (4, 4)}, strategies=[steps]).strategies
    assert found.judged.fault is Fault.repeated


def test_other_sizes_are_told_where_they_decide() -> None:
    named = {s.name: s for s in axisplit.compare(EXERCISE, SQUARE).strategies}
    assert named["row-wise W1, column-wise W2"].reason.endswith(
        "1.5 times the bytes of the best, in 2 collectives instead of 1; more where c > 0.5 d (4.5 times as much at "
        "c = 4 d), less where c < 0.5 d"
    )
    assert "; more where" not in named["row-wise W1, row-wise W2"].reason


def test_one_layer_says_where_the_activation_may_stand() -> None:
    found = axisplit.compare("gelu(X @ W)", {"X": (2, 4), "W": (4, 4)})
    split = [s for s in found.strategies if s.splits_every_weight]
    assert [(s.valid, s.comm_bytes, s.steps) for s in split] == [
        (True, 16, ("column-wise-split", "distributed-matmul", "gelu", "all-gather")),
        (True, 16, ("column-wise-split", "distributed-matmul", "all-gather", "gelu")),
        (True, 32, ("row-wise-split", "distributed-matmul", "all-reduce", "gelu")),
        (False, 32, ("row-wise-split", "distributed-matmul", "gelu", "all-reduce")),
    ]


def test_data_parallelism_and_repetition_are_listed_as_what_they_are() -> None:
    found = axisplit.compare(EXERCISE, SQUARE)
    named = {s.name.partition(";")[0]: s for s in reversed(found.strategies)}
    assert named["data parallelism: rows of X"].comm_bytes == 16
    assert "every rank holds W1 and W2 whole" in named["data parallelism: rows of X"].reason
    assert named["everything on every rank"].comm_bytes == 0
    assert found.best is not None
    assert found.best.name == "column-wise W1, row-wise W2"


def test_what_is_too_large_to_run_is_judged_by_the_rules() -> None:
    found = answers({"X": (4096, 8192), "W1": (8192, 32768), "W2": (32768, 8192)}, ranks=8)
    assert found.tensors is None
    assert [s.valid for s in found.strategies] == [True, True, True, False]
    assert found.strategies[0].comm_bytes == 2.5 * found.strategies[2].comm_bytes
    assert "too large to be run here" in str(found)


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("__import__('os').system('true')", "__import__('os').system('true')"),
        ("X @ W.data", "W.data"),
        ("[X for X in W]", "[X for X in W]"),
        ("exp(X @ W)", "exp(…)"),
        ("X @ 2", "X @ 2"),
        ("gelu(X, W)", "gelu(X, W)"),
        ("X", "nothing is computed"),
        ("X @", "invalid syntax"),
        ("-" * (MOST_OPS + 1) + "X", "too many operations"),
        ("(" * 300 + "X" + ")" * 300, "too many nested parentheses"),
        ("X @ W; Y @ W", "2 statements"),
        ("X = X @ W", "X"),
    ],
)
def test_what_is_no_expression_is_refused_and_never_run(text: str, got: str) -> None:
    with pytest.raises(InputError, match="this is not an expression that can be compared") as caught:
        parse_formula(text)
    assert caught.value.got == got


@pytest.mark.parametrize(
    ("change", "what", "got"),
    [
        ({"shapes": {"X": (2, 4)}}, "every tensor of the expression needs a shape", "W1 has none, W2 has none"),
        ({"shapes": {**SQUARE, "W3": (2, 2)}}, "every tensor of the expression needs a shape", "W3 does not occur"),
        ({"shapes": {**SQUARE, "W2": (5, 4)}}, "the shapes do not fit together", "[2, 4] and [5, 4]: "),
        ({"ranks": 1}, "there is nothing to distribute", "1 ranks"),
        ({"inputs": ["Y"]}, "no such tensor in the expression", "Y"),
        ({"strategies": ["matmul -> gelu"]}, "the strategy does not compute the expression", "matmul, gelu"),
        ({"strategies": ["matmul -> gelu -> matmul -> column-wise-split"]}, "nothing is left for this split", "column"),
        ({"strategies": ["all-reduce -> matmul -> gelu -> matmul"]}, "a collective needs something", "all-reduce as"),
        ({"strategies": ["split -> matmul -> gelu -> matmul"]}, "this step of the strategy is not known", None),
    ],
)
def test_bad_requests_say_what_was_needed(change: dict[str, object], what: str, got: str | None) -> None:
    with pytest.raises(InputError) as caught:
        axisplit.compare(EXERCISE, **{"shapes": SQUARE, **change})  # type: ignore[arg-type]
    assert caught.value.what.startswith(what)
    assert got is None or (caught.value.got or "").startswith(got)
