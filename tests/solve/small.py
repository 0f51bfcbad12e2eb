"""Small models for the solver's tests, and the way to a decision about one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from axisplit.capture.trace import capture
from axisplit.lower.planning import begin_search
from axisplit.solve.build import Search
from axisplit.solve.policy import Choice, choose

WIDTH, TOKENS = 16, 6


class Mlp(nn.Module):
    def __init__(self, width: int = WIDTH, inner: int = 32) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(x)))


class Blocks(nn.Module):
    """Equal residual blocks, and one that is activated otherwise."""

    def __init__(self, count: int, odd: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Mlp() for _ in range(count))
        if odd:
            self.layers.append(nn.Sequential(nn.Linear(WIDTH, 24), nn.ReLU(), nn.Linear(24, WIDTH)))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(functional.layer_norm(x, (WIDTH,)))
        return x


class Parallel(nn.Module):
    """Two branches of partial sums that meet: x + a(x) + b(x)."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Mlp(), Mlp(inner=48)

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x + self.left(x) + self.right(x), (WIDTH,))


class Narrowing(nn.Module):
    """A wide partial sum that a linear op makes narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(WIDTH, 64, bias=False), nn.Linear(64, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.wide(x))


class Chain(nn.Module):
    """Equal convolutions one after the other, each in a block of its own: no residual, nothing that needs all channels;
    with `depthwise`, one for each channel between them; with `normed`, a norm over the channels after each.
    """

    def __init__(self, count: int, depthwise: bool = False, normed: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(count):
            self.layers.append(ConvBlock(1, normed))
            if depthwise:
                self.layers.append(ConvBlock(WIDTH, normed))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class ConvBlock(nn.Module):
    """x [B, C, T] -> [B, C, T], C = WIDTH."""

    def __init__(self, groups: int, normed: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=groups)
        self.norm = nn.LayerNorm(WIDTH) if normed else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return functional.gelu(x)


class MultiQuery(nn.Module):
    """Four query heads on one key head and one value head."""

    def __init__(self, heads: int = 4, size: int = 8) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.q_proj, self.o_proj = nn.Linear(WIDTH, heads * size), nn.Linear(heads * size, WIDTH)
        self.k_proj, self.v_proj = nn.Linear(WIDTH, size), nn.Linear(WIDTH, size)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        x = functional.layer_norm(x, (WIDTH,))
        q = self.q_proj(x).view(batch, tokens, self.heads, self.size).transpose(1, 2)
        k, v = (p(x).view(batch, tokens, 1, self.size).transpose(1, 2) for p in (self.k_proj, self.v_proj))
        scores = (q @ k.transpose(-1, -2)).softmax(-1)
        return self.o_proj((scores @ v).transpose(1, 2).reshape(batch, tokens, -1))


class Residual(nn.Module):
    """Embedding, attention on one key head, logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Embedding(40, WIDTH), MultiQuery()
        self.head = nn.Linear(WIDTH, 40, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(functional.layer_norm(x + self.attention(x), (WIDTH,)))


def tokens() -> Tensor:
    return torch.zeros(2, TOKENS, dtype=torch.long)


def features() -> Tensor:
    return torch.zeros(2, TOKENS, WIDTH)


def signals() -> Tensor:
    return torch.randn(2, WIDTH, TOKENS, generator=torch.Generator().manual_seed(0))


def search_of(model: nn.Module, inputs: Tensor, ranks: int, uneven: bool = True) -> Search:
    return begin_search(capture(model, (inputs,)), ranks, uneven)


def decide(model: nn.Module, inputs: Tensor, ranks: int, **wishes: object) -> tuple[Search, Choice]:
    search = search_of(model, inputs, ranks)
    choice = choose(search, **wishes)  # type: ignore[arg-type]
    assert choice is not None
    return search, choice
