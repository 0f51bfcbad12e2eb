"""What must be split: every deep parameter that can be, with reasons for the rest."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

import axisplit
from axisplit.errors import MemoryBoundError
from axisplit.solve.build import share_bytes
from solve.small import (
    TOKENS,
    WIDTH,
    Blocks,
    Chain,
    ConvBlock,
    Mlp,
    MultiQuery,
    Residual,
    decide,
    features,
    signals,
    tokens,
)


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


def test_a_lone_key_head_beside_larger_ones_stays_whole_at_any_size() -> None:
    _, choice = decide(nn.Sequential(nn.Linear(WIDTH, WIDTH), MultiQuery(heads=2)), features(), 2)
    assert "collective of its own" in choice.whole_reasons["1.k_proj.weight"]


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


class Tail(nn.Module):
    """An MLP, then a normed convolution on every so many positions."""

    def __init__(self, inner: int, stride: int) -> None:
        super().__init__()
        self.mlp, self.block, self.stride = Mlp(inner=inner), ConvBlock(1, normed=True), stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.layer_norm(self.mlp(x.transpose(1, 2)), (WIDTH,))
        return self.block(x.transpose(1, 2)[..., :: self.stride])


class Square(nn.Module):
    """A residual around a square matrix, normed: its rows and columns meet in the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.dense = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.layer_norm(self.up(x), (WIDTH,))
        return nn.functional.layer_norm(x + self.dense(x), (WIDTH,))


def equal_and_split(model: nn.Module, inputs: torch.Tensor, ranks: int) -> tuple[axisplit.Plan, float]:
    """The plan, after it was verified, and the share of the weights that is split."""
    plan = axisplit.plan(model, (inputs,), ranks=ranks)
    assert axisplit.verify(model, (inputs,), plan).equal
    return plan, plan.split_fraction


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(("depthwise", "normed"), [(False, False), (True, False), (False, True)])
def test_a_chain_of_convolutions_is_split(ranks: int, depthwise: bool, normed: bool) -> None:
    """Outputs, then inputs, in turn; where a norm needs all channels, outputs each time."""
    plan, fraction = equal_and_split(Chain(4, depthwise, normed), signals(), ranks)
    assert fraction > 0.9
    kinds = [c.kind for c in plan.collectives if c.phase == plan.collectives[0].phase]
    sums, gathers = kinds.count("all_reduce"), kinds.count("all_gather")
    assert 2 * sums + gathers == 4
    assert not (normed and sums)


def test_a_lone_convolution_stays_whole_unless_a_tenth_would_be() -> None:
    _, choice = decide(Tail(256, 1), signals(), 2)
    assert "collective of its own" in choice.whole_reasons["block.conv.weight"]
    _, choice = decide(Tail(64, 1), signals(), 2)  # the bytes that it moves are as many, for over a tenth of all
    assert choice.whole_reasons == {}


def test_a_lone_convolution_is_split_at_the_rate_of_the_others() -> None:
    _, choice = decide(Tail(256, TOKENS), signals(), 2)  # on one position: few bytes move for each that is split
    assert choice.whole_reasons == {}


def test_a_square_matrix_inside_a_residual_is_split() -> None:
    _, fraction = equal_and_split(Square(), features() + torch.arange(WIDTH), 2)
    assert fraction > 0.9
