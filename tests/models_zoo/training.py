"""Models of the zoo in training, and what a trainer does with them: alike for the whole model and for a rank's part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from models_zoo.equality import tensors
from models_zoo.tiny import ZOO, build

Clip = Callable[[nn.Module], Tensor]


def trainable(name: str) -> nn.Module:
    model = build(name).train()
    for module in model.modules():
        for key, value in vars(module).items():
            if isinstance(value, float) and ("drop" in key or (isinstance(module, nn.Dropout) and key == "p")):
                vars(module)[key] = 0.0
    return model


def backward(model: nn.Module, name: str, *sizes: tuple[int, int]) -> None:
    """One forward and backward for each size; gradients add up."""
    for size in sizes:
        given = ZOO[name].inputs(*size)
        wide = (
            {k: v.double() if v.is_floating_point() else v for k, v in given.items()} if isinstance(given, dict) else {}
        )
        result = model(**wide) if wide else model(*[x.double() for x in given])
        generator = torch.Generator().manual_seed(0)
        found = {id(x): x for _, x in tensors(result) if x.requires_grad}.values()
        sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in found).backward()


def train_steps(model: nn.Module, name: str, batches: Sequence[tuple[int, int]], clip: Clip | None) -> list[float]:
    """Three steps of AdamW, gradients of all batches added up in each. Returns: the norms that `clip` found."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-3, weight_decay=0.1)  # eps: far above rounding
    norms = []
    for _ in range(3):
        optimizer.zero_grad()
        backward(model, name, *batches)
        if clip is not None:
            norms.append(float(clip(model)))
        optimizer.step()
    return norms
