"""Plain modules, each with one difficulty, that trace and plan in a tenth of a second."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, gelu, scaled_dot_product_attention


class Mlp(nn.Module):
    """The question that axisplit began with, with biases."""

    def __init__(self, width: int = 16, ffn: int = 48) -> None:
        super().__init__()
        self.up = nn.Linear(width, ffn)
        self.down = nn.Linear(ffn, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(gelu(self.up(x)))


class Branches(Mlp):
    """What is done with the hidden units is the caller's choice."""

    def forward(self, x: Tensor, how: str = "", offset: Tensor | float | None = None) -> Tensor:
        hidden = self.up(x)
        if how == "hidden":
            return hidden
        if how == "normed":
            hidden = hidden.softmax(-1)
        if how == "swapped":
            hidden = hidden.flip(-1)
        if how == "noisy":
            hidden = dropout(hidden, 0.1, self.training)
        if how == "in order" and hidden.amin() < 0:
            hidden = hidden.abs()
        if offset is not None:
            hidden = hidden * (1 + offset)
        y = self.down(hidden.tanh().square())
        return y.sigmoid() if how == "squashed" else y


class Attention(nn.Module):
    """Self-attention over `num_heads` heads that views by attributes."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.num_heads, self.head_dim).transpose(1, 2)

    def bias(self, scores: Tensor) -> Tensor:
        return scores

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))
        scores = self.bias(q @ k.transpose(2, 3) * self.head_dim**-0.5)
        y = (scores.softmax(-1) @ v).transpose(1, 2)
        return self.o(y.reshape(x.shape[0], x.shape[1], self.num_heads * self.head_dim))


class Slopes(Attention):
    """ALiBi: each head its own slope; `slopes` counts them apart from `num_heads`."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__(width, heads)
        self.slopes = heads

    def bias(self, scores: Tensor) -> Tensor:
        slopes = 2.0 ** -(torch.arange(self.slopes) + 1.0)
        return scores - slopes[:, None, None] * torch.arange(scores.shape[-1])


class SharedSlopes(Attention):
    """ALiBi by the same attribute that the views use, in two ways: how many slopes, and how steep they are."""

    def bias(self, scores: Tensor) -> Tensor:
        slopes = 2.0 ** -((torch.arange(self.num_heads) + 1) * 8 / self.num_heads)
        return scores - slopes[:, None, None] * torch.arange(scores.shape[-1])


class SharedScale(Attention):
    """The number of heads also scales the result."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.num_heads**-0.5


class Fused(nn.Module):
    """Packed q, k, v and torch's own attention kernel; grouped heads where `kv_heads` is less than `num_heads`."""

    def __init__(self, width: int = 48, heads: int = 6, kv_heads: int = 3) -> None:
        super().__init__()
        self.num_heads, self.kv_heads, self.head_dim = heads, kv_heads, width // heads
        self.qkv = nn.Linear(width, (heads + 2 * kv_heads) * self.head_dim)
        self.o = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        sizes = [self.num_heads * self.head_dim, self.kv_heads * self.head_dim, self.kv_heads * self.head_dim]
        q, k, v = self.qkv(x).split(sizes, dim=-1)
        q = q.view(batch, length, self.num_heads, self.head_dim).transpose(1, 2)
        k = k.view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        v = v.view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        y = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o(y.transpose(1, 2).reshape(batch, length, self.num_heads * self.head_dim))


class HandWritten(nn.Module):
    """Attention as it is written by hand: one number is the heads of a rank here and divides the whole width there, and
    the width, read off the input, is the whole one here and that of a rank's heads there.
    """

    def __init__(self, width: int = 40, heads: int = 5) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.o = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def thirds(self, x: Tensor, width: int) -> tuple[Tensor, ...]:
        return x.chunk(3, -1)

    def heads(self, x: Tensor, width: int) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.num_heads, width // self.num_heads)

    def split(self, x: Tensor, width: int) -> Iterable[Tensor]:
        return [self.heads(part, width) for part in self.thirds(x, width)]

    def merged(self, y: Tensor, width: int) -> Tensor:
        return y.reshape(y.shape[0], y.shape[1], width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in self.split(self.qkv(x), x.shape[2]))
        y = (q @ k.transpose(2, 3) * self.scale).softmax(-1) @ v
        return self.o(self.merged(y.transpose(1, 2), x.shape[2]))
