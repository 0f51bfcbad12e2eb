"""Learners' solutions: the right ones are measured as by hand, the wrong ones get the hint that is theirs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import gelu

import axisplit
from axisplit.errors import InputError

SQUARE = {"X": (2, 4), "W1": (4, 4), "W2": (4, 4)}
COMPARISON = axisplit.compare("gelu(X @ W1) @ W2", SQUARE, seed=42)
Tensor = torch.Tensor


def best(X: Tensor, W1: Tensor, W2: Tensor) -> Tensor:
    W1_0, W1_1 = W1.chunk(2, dim=1)
    W2_0, W2_1 = W2.chunk(2, dim=0)
    y_GPU0 = gelu(X @ W1_0) @ W2_0
    y_GPU1 = gelu(X @ W1_1) @ W2_1
    return y_GPU0 + y_GPU1


def best_with_copies_and_lists(X: Tensor, W1: Tensor, W2: Tensor) -> Tensor:
    X_GPU0, X_GPU1 = X, X
    W1_GPU0, W1_GPU1 = W1[:, :2], W1[:, 2:]
    h_GPU0, h_GPU1 = gelu(X_GPU0 @ W1_GPU0), gelu(X_GPU1 @ W1_GPU1)
    pieces = list(W2.split(2))
    y_GPU0 = h_GPU0 @ pieces[0]
    y_GPU1 = h_GPU1 @ pieces[1]
    parts = [y for y in (y_GPU0, y_GPU1)]  # noqa: C416
    return sum(parts[1:], parts[0])


def best_in_one_line(X: Tensor, W1: Tensor, W2: Tensor) -> Tensor:
    X_GPU0, X_GPU1 = X, X
    return gelu(X_GPU0 @ W1[:, :2]) @ W2[:2] + gelu(X_GPU1 @ W1[:, 2:]) @ W2[2:]


def two_gathers(X: Tensor, W1: Tensor, W2: Tensor) -> Tensor:
    W1_0, W1_1 = W1.chunk(2, dim=1)
    y_GPU0 = X @ W1_0
    y_GPU1 = X @ W1_1
    y = gelu(torch.cat([y_GPU0, y_GPU1], dim=1))
    W2_0, W2_1 = W2.chunk(2, dim=1)
    y_GPU0 = y @ W2_0
    y_GPU1 = y @ W2_1
    return torch.cat([y_GPU0, y_GPU1], dim=1)


def gelu_on_terms(X: Tensor, W1: Tensor, W2: Tensor) -> Tensor:
    X_0, X_1 = X.chunk(2, dim=1)
    W1_0, W1_1 = W1.chunk(2, dim=0)
    W2_0, W2_1 = W2.chunk(2, dim=1)
    y_GPU0 = gelu(X_0 @ W1_0) @ W2_0
    y_GPU1 = gelu(X_1 @ W1_1) @ W2_1
    return torch.cat([y_GPU0, y_GPU1], dim=1)


def one_rank_only(X: Tensor, W1: Tensor, W2: Tensor) -> Tensor:
    W1_0, _ = W1.chunk(2, dim=1)
    W2_0, _ = W2.chunk(2, dim=0)
    y_GPU0 = gelu(X @ W1_0) @ W2_0
    return y_GPU0  # noqa: RET504


def terms_side_by_side(X: Tensor, W1: Tensor, W2: Tensor) -> Tensor:
    W1_0, W1_1 = W1.chunk(2, dim=1)
    W2_0, W2_1 = W2.chunk(2, dim=0)
    y_GPU0 = gelu(X @ W1_0) @ W2_0
    y_GPU1 = gelu(X @ W1_1) @ W2_1
    return torch.cat([y_GPU0, y_GPU1], dim=1)


def batch(X: Tensor, W1: Tensor, W2: Tensor) -> Tensor:
    X_GPU0, X_GPU1 = X.chunk(2, dim=0)
    y_GPU0 = gelu(X_GPU0 @ W1) @ W2
    y_GPU1 = gelu(X_GPU1 @ W1) @ W2
    return torch.cat([y_GPU0, y_GPU1], dim=0)


def copied(X: Tensor, W1: Tensor, W2: Tensor) -> Tensor:
    W1_0, W1_1 = W1.chunk(2, dim=1)
    W2_0, W2_1 = W2.chunk(2, dim=0)
    y_GPU0 = gelu(X @ W1_0)
    y_GPU1 = gelu(X @ W1_1)
    z_GPU1 = y_GPU0
    return z_GPU1 @ W2_0 + y_GPU1 @ W2_1


def alone(X: Tensor, W1: Tensor, W2: Tensor) -> Tensor:
    return gelu(X @ W1) @ W2


@pytest.mark.parametrize(
    ("solution", "right", "exchanges", "hint"),
    [
        (best, True, [("all_reduce", 32.0)], ""),
        (best_in_one_line, True, [("all_reduce", 32.0)], ""),
        (best_with_copies_and_lists, True, [("all_reduce", 32.0)], ""),
        (two_gathers, True, [("all_gather", 16.0)] * 2, "where 32 bytes in 1 would do: is there a split of the next"),
        (gelu_on_terms, False, [("all_gather", 16.0)], "gelu(a) + gelu(b) ≠ gelu(a + b)"),
        (one_rank_only, False, [], "an all-reduce is missing"),
        (terms_side_by_side, False, [("all_gather", 32.0)], "the shape is [2, 8] instead of [2, 4]"),
        (batch, True, [("all_gather", 16.0)], "a GPU reads W1 and W2 whole"),
        (copied, True, [("copy", 16.0)], "a GPU reads W2 whole"),
        (alone, True, [], "nothing is distributed yet"),
    ],
)
def test_solutions_are_measured_and_get_their_hint(
    solution: Callable[..., Tensor], right: bool, exchanges: list[tuple[str, float]], hint: str
) -> None:
    found = COMPARISON.check(solution)
    assert found.right is right, found
    assert [(e.kind, e.bytes) for e in found.exchanges] == exchanges
    assert hint in found.hint
    assert bool(hint) == bool(found.hint)


def test_a_sum_over_three_gpus_is_one_all_reduce() -> None:
    def solution(X: Tensor, W1: Tensor, W2: Tensor) -> Tensor:
        first, second = W1.split([2, 1, 1], dim=1), W2.split([2, 1, 1], dim=0)
        y_GPU0 = gelu(X @ first[0]) @ second[0]
        y_GPU1 = gelu(X @ first[1]) @ second[1]
        y_GPU2 = gelu(X @ first[2]) @ second[2]
        return y_GPU0 + y_GPU1 + y_GPU2

    found = axisplit.compare("gelu(X @ W1) @ W2", SQUARE, 3).check(solution)
    assert found.best, found
    assert [(e.kind, round(e.bytes, 3)) for e in found.exchanges] == [("all_reduce", 42.667)]


def test_what_does_not_run_is_told_with_its_line() -> None:
    def solution(X: Tensor, W1: Tensor, W2: Tensor) -> Tensor:
        y_GPU0 = X @ W1[:2]
        return y_GPU0  # noqa: RET504

    def other(X: Tensor) -> Tensor:
        return X

    with pytest.raises(InputError, match=r"line 2: y_GPU0 = X @ W1\[:2\]"):
        COMPARISON.check(solution)
    large = axisplit.compare("gelu(X @ W1) @ W2", {"X": (9, 4096), "W1": (4096, 4096), "W2": (4096, 4096)})
    with pytest.raises(InputError, match="too large to run a solution on"):
        large.check(solution)
    with pytest.raises(InputError, match=r"write def solution\(X, W1, W2\):"):
        COMPARISON.check(other)
