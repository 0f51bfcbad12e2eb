"""Ops of a library that axisplit has no rules for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def custom_op(function: Callable[..., Any]) -> Any:
    """A function as an op `trial::<its name>`, its own shape function."""
    made = torch.library.custom_op(f"trial::{function.__name__}", function, mutates_args=())
    made.register_fake(function)
    return made


@custom_op
def scaled(x: Tensor, w: Tensor, scale: float) -> Tensor:
    return scale * (x @ w.T)


@custom_op
def biased(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return x @ w.T + b


@custom_op
def row_softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, -1) * torch.arange(x.shape[-1], dtype=x.dtype)


@custom_op
def nearly_rowwise(x: Tensor) -> Tensor:
    """Every row hears of the others, by less than any tolerance."""
    return x - 1e-15 * x.mean(0, keepdim=True)


@custom_op
def over_length(x: Tensor, w: Tensor) -> Tensor:
    """Looks like a sum over parts, and divides by the length of the part."""
    return x @ w.T / x.shape[-1]


@custom_op
def positions(x: Tensor) -> Tensor:
    """Counts its columns from 0, on every rank."""
    return x + torch.arange(x.shape[-1], dtype=x.dtype)


@custom_op
def of_size(x: Tensor, n: int) -> Tensor:
    if x.shape[-1] != n:
        raise ValueError(f"{x.shape[-1]} columns, not {n}")
    return 2 * x


@custom_op
def blocks(x: Tensor, sizes: list[int]) -> Tensor:
    return (x.reshape(sizes) + 1).flatten(-2)


@custom_op
def spread(x: Tensor, n: int) -> Tensor:
    """Of one vector whose length it is told."""
    if x.shape[-1] != n:
        raise ValueError(f"{x.shape[-1]} numbers, not {n}")
    return x * x.amax()


@custom_op
def noisy(x: Tensor) -> Tensor:
    return x + torch.rand_like(x)


@custom_op
def gelu(x: Tensor) -> Tensor:
    """Named like an op that has a rule, and no such op."""
    return x.cumsum(-1)


@custom_op
def contiguous(x: Tensor) -> Tensor:
    """Named like an op that changes nothing."""
    return 2 * x


@custom_op
def ends(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.amax(-1), 2 * x


@torch.library.custom_op("trial::shapeless", mutates_args=())
def shapeless(x: Tensor) -> Tensor:
    return 2 * x


@torch.library.custom_op("trial::relu_", mutates_args=("x",))
def relu_(x: Tensor) -> None:
    x.clamp_(min=1)


class CustomMlp(nn.Module):
    """Through custom ops, rows and columns: y = softmax(relu(x @ up.T / 4) @ down.T * 0.3)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.empty(24, 16)), nn.Parameter(torch.empty(16, 24))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(torch.ops.trial.scaled(x, self.up, 0.25))
        return torch.ops.trial.row_softmax(torch.ops.trial.scaled(hidden, self.down, 0.3))
