"""What must be split: every deep parameter that can be, with reasons for the rest."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

import axisplit
from axisplit.errors import MemoryBoundError
from axisplit.solve.build import share_bytes
from solve.small import WIDTH, Blocks, Mlp, Residual, decide, features, tokens


def deep_mlp() -> nn.Sequential:
    sizes = [WIDTH, 40, 32, 48, 40, 24]
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.GELU())]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_matrix_of_a_deep_mlp_is_split(ranks: int) -> None:
    search, choice = decide(deep_mlp(), features(), ranks)
    states = {name: choice.solution.state[search.ties.value[v]] for name, v in search.derived.graph.parameters.items()}
    assert [name for name, state in states.items() if "weight" in name and state[0] != "S"] == []
    assert choice.solution.unsplit == 0
    assert choice.whole_reasons == {}
    assert choice.solution.optimal


def test_what_a_rank_holds_of_a_split_matrix_is_less_than_all() -> None:
    search, choice = decide(deep_mlp(), features(), 2)
    for name, value in search.derived.graph.parameters.items():
        state = choice.solution.state[search.ties.value[value]]
        if "weight" in name:
            whole = search.derived.graph.values[value].bytes
            assert sum(share_bytes(search, value, state)) == whole
            assert max(share_bytes(search, value, state)) <= 0.75 * whole


def test_a_lone_key_head_stays_whole_and_says_why() -> None:
    search, choice = decide(Residual(), tokens(), 2)
    states = {name: choice.solution.state[search.ties.value[v]] for name, v in search.derived.graph.parameters.items()}
    assert states["attention.k_proj.weight"] == "R"
    assert "collective of its own" in choice.whole_reasons["attention.k_proj.weight"]
    for name in ("embed.weight", "attention.q_proj.weight", "attention.o_proj.weight", "head.weight"):
        assert states[name][0] == "S", name


def test_what_is_kept_is_whole() -> None:
    search, choice = decide(Blocks(2), features(), 2, keep=("*.up.weight",))
    graph = search.derived.graph
    states = {name: choice.solution.state[search.ties.value[v]] for name, v in graph.parameters.items()}
    assert states["layers.0.up.weight"] == states["layers.1.up.weight"] == "R"
    assert states["layers.0.down.weight"][0] == "S"
    assert "--keep '*.up.weight'" in choice.whole_reasons["layers.*.up.weight"]


def test_small_parameters_are_free() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp, self.gate = Mlp(inner=512), nn.Linear(WIDTH, 2, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.mlp(x) * self.gate(x).softmax(-1)[..., :1]

    _, choice = decide(Routed(), features(), 2)
    assert "small" in choice.whole_reasons["gate.weight"]


@pytest.mark.parametrize("fraction", [0.55, 0.8, 1.1])
def test_a_memory_bound_is_met_with_the_fewest_bytes(fraction: float) -> None:
    model = Blocks(2)
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    search, choice = decide(model, features(), 2, memory_per_rank=fraction * total)
    values, state = search.derived.graph.parameters.values(), choice.solution.state
    held = [0, 0]
    for value in values:
        key = search.ties.value[value]
        whole = search.derived.graph.values[value].bytes
        parts = share_bytes(search, value, state[key]) if state[key][0] == "S" else [whole, whole]
        held = [a + b for a, b in zip(held, parts, strict=True)]
    assert max(held) <= fraction * total
    assert (choice.solution.bytes == 0) == (fraction > 1)  # with room for all of it nothing needs to move


def test_a_memory_bound_that_cannot_be_met_is_an_error() -> None:
    with pytest.raises(MemoryBoundError, match="no plan fits") as error:
        axisplit.plan(Blocks(2), (features(),), ranks=2, memory_per_rank=1000)
    assert "1,000 bytes a rank" in str(error.value)
