"""The exercise as people see it, letter by letter; rounding errors aside, which other processors may make otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable

import axisplit

SQUARE = {"X": (2, 4), "W1": (4, 4), "W2": (4, 4)}
BEST = "column-wise-split -> distributed-matmul -> gelu -> distributed-matmul -> all-reduce"
WRONG = "row-wise-split -> distributed-matmul -> gelu -> distributed-matmul -> all-gather"
Golden = Callable[[str, str], None]


def steady(text: str) -> str:
    return re.sub(r"\d\.\de-\d\d", "tiny   ", text)


def test_every_way(golden: Golden) -> None:
    golden("compare_ways", steady(str(axisplit.compare("gelu(X @ W1) @ W2", SQUARE, seed=42))))


def test_strategies_in_the_order_given(golden: Golden) -> None:
    found = axisplit.compare("gelu(X @ W1) @ W2", SQUARE, seed=42, strategies=[WRONG, BEST])
    golden("compare_strategies", steady(str(found)))


def test_a_trace_is_python_and_every_ranks_values(golden: Golden) -> None:
    found = axisplit.compare("y = X @ W + b", {"X": (2, 3), "W": (3, 5), "b": (5,)}, 3, seed=1)
    assert found.best is not None
    best = axisplit.compare(found.formula.text, found.tensors or {}, 3, strategies=[" -> ".join(found.best.steps)])
    golden("compare_trace", best.trace())


def test_names_are_shown_without_control_characters() -> None:
    """Names come through Python's grammar, which has identifiers that look like others, but none that hide text."""
    found = axisplit.compare("X @ Ŵ", {"X": (2, 4), "Ŵ": (4, 4)})
    assert "column-wise Ŵ" in str(found)
