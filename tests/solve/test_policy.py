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


class Normed(nn.Module):
    """A gated block whose inner axis is normalised over before it is summed over (bitnet), and, at the width of a
    `bottleneck`, two low-rank matrices in front of norms of their own (as attention on latents has them).
    """

    def __init__(self, inner: int = 48, bottleneck: int = 0) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, WIDTH)
        self.gate, self.up = nn.Linear(WIDTH, inner, bias=False), nn.Linear(WIDTH, inner, bias=False)
        self.down, self.head = nn.Linear(inner, WIDTH, bias=False), nn.Linear(WIDTH, 40, bias=False)
        self.low = nn.ModuleList(nn.Linear(WIDTH, bottleneck, bias=False) for _ in range(2 if bottleneck else 0))
        self.high = nn.ModuleList(nn.Linear(bottleneck, inner, bias=False) for _ in range(2 if bottleneck else 0))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        y = nn.functional.layer_norm(x, (WIDTH,))
        inner = self.gate(y).relu() * self.up(y)
        for low, high in zip(self.low, self.high, strict=True):
            z = low(y)
            inner = inner * high(z * z.square().mean(-1, keepdim=True).add(1.0).rsqrt())
        inner = inner * inner.square().mean(-1, keepdim=True).add(1.0).rsqrt()
        y = x + self.down(inner)
        return self.head(nn.functional.layer_norm(y, (WIDTH,)))


@pytest.mark.parametrize("inner", [32, 48])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_block_that_is_normalised_over_shares_one_reduction(ranks: int, inner: int) -> None:
    """Its matrices one by one cost a collective each, all together one and that of the statistics."""
    choice = decide(Normed(inner), tokens(), ranks)[1]
    assert choice.whole_reasons == {}
    assert choice.solution.unsplit == 0
    rows = 2 * TOKENS * 4  # bytes of one number a token
    moved = (WIDTH + 2 * (WIDTH + 1) + 40) * rows * (ranks - 1) / ranks  # embedding, block and its mean, logits
    assert moved <= choice.solution.bytes <= 1.06 * moved  # 16 and 40 are not even on 3 ranks


@pytest.mark.parametrize("inner", [32, 48])
def test_what_only_the_width_has_in_common_stays_whole(inner: int) -> None:
    """That all matrices have an axis makes two that cost a collective each no cheaper."""
    _, choice = decide(Normed(inner, bottleneck=12), tokens(), 2)
    assert sorted(choice.whole_reasons) == ["low.0.weight", "low.1.weight"]
    assert all("collective of its own" in reason for reason in choice.whole_reasons.values())


class Quantised(nn.Linear):
    """Its weight is rounded to -1, 0 and 1 times the mean of its absolute values (BitNet b1.58)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = 1.0 / self.weight.abs().mean().clamp(min=1e-5)
        return nn.functional.linear(x, (self.weight * scale).round().clamp(-1, 1) / scale)


@pytest.mark.parametrize("ranks", [2, 3])
def test_weights_quantised_by_one_statistic_are_split(ranks: int) -> None:
    """The statistic is one number, a mean of parts' means: reducing it costs next to nothing."""
    torch.manual_seed(0)
    up, down = Quantised(WIDTH, 40, bias=False), Quantised(40, WIDTH, bias=False)
    model = nn.Sequential(nn.Embedding(30, WIDTH), up, nn.ReLU(), down, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 30))
    ids = torch.randint(0, 30, (2, TOKENS))
    plan = axisplit.plan(model, (ids,), ranks=ranks)
    assert {p.name for p in plan.parameters if p.held != "split"} <= {"4.weight", "4.bias"}
    assert sum(c.bytes / c.count for c in plan.collectives if c.where in ("1", "3") and c.bytes < 20) > 0
    verdict = axisplit.verify(model, (ids,), plan, gradients=True)
    assert verdict.equal, str(verdict)
    assert not verdict.could_not, str(verdict)


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
