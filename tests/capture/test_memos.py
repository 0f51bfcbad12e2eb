"""A function that keeps its results by value does not mix up layers whose sizes are equal."""

from __future__ import annotations

import sys
import types
from functools import lru_cache

import torch
from torch import Tensor, nn

import axisplit
from axisplit.capture.memos import memos_aside
from axisplit.capture.provenance import Attribute
from axisplit.capture.trace import capture


@lru_cache
def sizes(width: int, heads: int) -> list[int]:
    return [heads, width // heads]


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.proj = 3, nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).unflatten(-1, sizes(x.shape[-1], self.heads)).sum(-2).repeat(1, 3)


def test_each_layers_sizes_are_its_own():
    sizes(12, 3)  # kept before the model is traced
    graph = capture(nn.Sequential(Heads(), Heads()), (torch.randn(2, 12),)).graph
    found = [node for node in graph.nodes if "unflatten" in str(node.op)]
    assert [dict(node.traced)[1] for node in found] == [Attribute("0", "heads"), Attribute("1", "heads")]
    kept = sizes.cache_info()
    assert (kept.hits, kept.misses) == (0, 1), "nothing of a trace is kept"


def test_a_function_does_not_stand_in_for_itself(monkeypatch):
    model, x = Positions(), torch.randn(2, 12)
    capture(model, (x,))
    monkeypatch.setitem(sys.modules, "another", types.ModuleType("another"))  # functions are looked for anew
    assert capture(model, (x,)).graph.nodes


def test_plain_calls_are_kept_meanwhile_and_functions_come_back():
    kept = sizes
    with memos_aside():
        assert sizes is not kept
        assert sizes(20, 5) is sizes(20, 5)
        with memos_aside():
            pass
        assert sizes is not kept, "another trace is not over yet"
    assert sizes is kept


def keeping(function):
    memo = lru_cache(function)
    return lambda *args: memo(*args)


class Positions(nn.Module):
    """Tables by shape and dtype, kept by a static method, behind a decorator, and by a method."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(12, 12)

    @staticmethod
    @lru_cache
    def first(shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return torch.arange(shape[1], dtype=dtype).cos()

    @staticmethod
    @keeping
    def second(shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return torch.arange(shape[1], dtype=dtype).sin()

    @lru_cache  # noqa: B019
    def third(self, dtype: torch.dtype) -> Tensor:
        return torch.ones(12, dtype=dtype).tanh()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        table = self.first(x.shape, x.dtype) + self.second(x.shape, x.dtype) + self.third(x.dtype)
        return self.proj(x * table), table


def test_tables_that_are_kept_are_made_anew_in_a_trace():
    model, x = Positions(), torch.randn(2, 12)
    for before in (False, True):  # the second time, they are known from a call
        graph = capture(model, (x,)).graph
        assert [n.op._opname for n in graph.nodes].count("arange") == 2
        assert not [value for _, value in graph.outputs if graph.values[value].origin == "constant"]
        kept = Positions.first.cache_info(), Positions.third.cache_info()
        assert [info.currsize for info in kept] == [int(before), int(before)]
        for tensor in model(x):
            assert type(tensor.detach()) is Tensor, "no fake tensors are left behind"
    plan = axisplit.plan(model, (x,), ranks=2)
    assert axisplit.verify(model, (x,), plan).equal
