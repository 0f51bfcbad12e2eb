"""A function that keeps its results by value does not mix up layers whose sizes are equal."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

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


def test_plain_calls_are_kept_meanwhile_and_functions_come_back():
    kept = sizes
    with memos_aside():
        assert sizes is not kept
        assert sizes(20, 5) is sizes(20, 5)
    assert sizes is kept
