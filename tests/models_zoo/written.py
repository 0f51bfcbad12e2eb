"""Models as people write them by hand: loops, lambdas, complex numbers, transforms, tables; sizes divide by nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm


class MinimalGpt(nn.Module):
    """Widths read off tensors, an MLP in a lambda, tied tables, the loss computed inside."""

    class Block(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads, self.first, self.second = heads, nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.ModuleDict({"up": nn.Linear(width, 4 * width), "down": nn.Linear(4 * width, width)})
            mlp = self.mlp
            self.path = lambda x: mlp["down"](functional.gelu(mlp["up"](x)))

        def forward(self, x: Tensor) -> Tensor:
            batch, length, width = x.size()
            parts = self.qkv(self.first(x)).split(width, dim=2)
            q, k, v = (p.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for p in parts)
            scores = (q @ k.transpose(-2, -1)) / math.sqrt(k.size(-1))
            scores = scores.masked_fill(torch.ones(length, length).tril() == 0, float("-inf"))
            y = (scores.softmax(-1) @ v).transpose(1, 2).contiguous().view(batch, length, width)
            x = x + self.out(y)
            return x + self.path(self.second(x))

    def __init__(self, width: int = 60, heads: int = 5, vocab: int = 97) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(vocab, width), nn.Embedding(16, width)
        self.blocks = nn.ModuleList(self.Block(width, heads) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocab, bias=False)
        self.table.weight = self.head.weight

    def forward(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        x = self.table(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        scores = self.head(self.norm(x))
        return scores, functional.cross_entropy(scores.flatten(0, 1), targets.flatten())


class Windows(nn.Module):
    """Attention inside windows of an image: a bias for each head and offset; heads and widths in one line of sizes."""

    def __init__(self, width: int = 30, heads: int = 3, side: int = 4) -> None:
        super().__init__()
        self.heads, self.side, self.norm = heads, side, nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.offsets = nn.Parameter(torch.randn((2 * side - 1) ** 2, heads))
        grid = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        apart = grid[:, None] - grid[None] + side - 1
        self.register_buffer("which", apart[..., 0] * (2 * side - 1) + apart[..., 1])

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        s, n = self.side, self.side**2
        y = self.norm(x).view(B, H // s, s, W // s, s, C).transpose(2, 3).reshape(-1, n, C)
        q, k, v = self.qkv(y).reshape(-1, n, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.offsets[self.which.view(-1)].view(n, n, self.heads).permute(2, 0, 1)
        y = (q @ k.mT * (C // self.heads) ** -0.5 + bias).softmax(-1) @ v
        y = self.out(y.transpose(1, 2).reshape(-1, n, C)).view(B, H // s, W // s, s, s, C)
        return x + y.transpose(2, 3).reshape(B, H, W, C)


class ComplexRotary(nn.Module):
    """Attention whose rotary embedding multiplies complex numbers; keys and values repeated by expanding them."""

    def __init__(self, width: int = 72, heads: int = 6, groups: int = 3) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.q, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k, self.v = (nn.Linear(width, groups * self.size, bias=False) for _ in range(2))
        angles = torch.outer(torch.arange(64), 1e4 ** -(torch.arange(0, self.size, 2) / self.size))
        self.turns = torch.polar(torch.ones_like(angles), angles)

    def turned(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * self.turns[: x.shape[1], None]).flatten(3).type_as(x)

    def repeated(self, x: Tensor) -> Tensor:
        batch, length, groups, size = x.shape
        times = self.heads // self.groups
        return x[:, :, :, None].expand(batch, length, groups, times, size).reshape(batch, length, -1, size)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).view(*x.shape[:2], self.heads, self.size)
        k, v = (y(x).view(*x.shape[:2], self.groups, self.size) for y in (self.k, self.v))
        q, k, v = (y.transpose(1, 2) for y in (self.turned(q), self.repeated(self.turned(k)), self.repeated(v)))
        y = (q @ k.mT / self.size**0.5).softmax(-1) @ v
        return self.o(y.transpose(1, 2).flatten(2))


class FourierOperator(nn.Module):
    """A layer in the frequency domain with complex weights, written into a slice."""

    def __init__(self, width: int = 20, modes: int = 5) -> None:
        super().__init__()
        self.modes, self.into, self.local = modes, nn.Linear(2, width), nn.Conv1d(width, width, 1)
        self.weight = nn.Parameter(torch.randn(width, width, modes, dtype=torch.cfloat) * 0.1)
        self.out = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x).transpose(1, 2)
        found = torch.fft.rfft(x)
        kept = torch.zeros(x.shape[0], self.weight.shape[1], found.shape[-1], dtype=torch.cfloat, device=x.device)
        kept[:, :, : self.modes] = torch.einsum("bix,iox->box", found[:, :, : self.modes], self.weight)
        return self.out(functional.gelu(torch.fft.irfft(kept, n=x.shape[-1]) + self.local(x)).transpose(1, 2))


class LoopedGates(nn.Module):
    """A gated recurrence in a Python loop, its three gates packed into one matrix."""

    def __init__(self, inputs: int = 18, hidden: int = 30) -> None:
        super().__init__()
        self.hidden, self.out = hidden, nn.Linear(hidden, inputs)
        self.x, self.h = nn.Linear(inputs, 3 * hidden), nn.Linear(hidden, 3 * hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        state, found = x.new_zeros(x.shape[0], self.hidden), []
        for step in range(x.shape[1]):
            (r, z, n), (hr, hz, hn) = self.x(x[:, step]).chunk(3, -1), self.h(state).chunk(3, -1)
            keep = torch.sigmoid(z + hz)
            state = (1 - keep) * torch.tanh(n + torch.sigmoid(r + hr) * hn) + keep * state
            found.append(self.out(state))
        return torch.stack(found, 1)


class Clicks(nn.Module):
    """Tables of which bags are summed, a dot product of every pair, a network below and above."""

    def __init__(self, width: int = 17) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(n, width, mode="sum") for n in (103, 57, 211))
        self.below = nn.Sequential(nn.Linear(13, 50), nn.ReLU(), nn.Linear(50, width), nn.ReLU())
        self.above = nn.Sequential(nn.Linear(width + 6, 45), nn.ReLU(), nn.Linear(45, 1), nn.Sigmoid())

    def forward(self, dense: Tensor, ids: Tensor, starts: Tensor) -> Tensor:
        low = self.below(dense)
        bags = [table(ids[n], starts[n]) for n, table in enumerate(self.tables)]
        features = torch.stack([low, *bags], 1)
        i, j = torch.tril_indices(4, 4, -1)
        return self.above(torch.cat([low, (features @ features.mT)[:, i, j]], 1))


class Mapped(nn.Module):
    """Written for one sample, and for one query and one key, and mapped over them; the gate has no gradient."""

    def __init__(self, width: int = 18, hidden: int = 45) -> None:
        super().__init__()
        self.qk, self.up = nn.Linear(width, width), nn.Linear(width, hidden)
        self.down = nn.Parameter(torch.randn(hidden, width) / 10)

    def sample(self, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[0])
        seen = torch.vmap(torch.vmap(lambda q, k: q >= k, (None, 0)), (0, None))(place, place)
        weights = (self.qk(x) @ x.T).masked_fill(~seen, -torch.inf).softmax(-1)
        with torch.no_grad():
            gate = self.qk(weights @ x).sigmoid()
        return x + gate * (torch.relu(self.up(weights @ x)) @ self.down)

    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(self.sample)(x)


def upscaler() -> nn.Module:
    """Convolutions with normalised weights, gated channels, pixels made of channels."""
    return nn.Sequential(
        weight_norm(nn.Conv2d(3, 36, 3, padding=1)), nn.GLU(dim=1), weight_norm(nn.Conv2d(18, 44, 3, padding=1)),
        nn.PixelShuffle(2), nn.ChannelShuffle(1), nn.Conv2d(11, 3, 1),
    )  # fmt: skip
