"""Move a model to the meta device: shapes and dtypes stay, the numbers go."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def to_meta(model: nn.Module) -> nn.Module:
    """The same model, its parameters and buffers on the meta device; shared tensors stay shared.

    `model.to("meta")` gives each of two tied parameters a tensor of its own.
    """
    moved: dict[int, torch.Tensor] = {}
    kept = []  # a tensor's id is only its own while it lives
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                kept.append(tensor)
                if id(tensor) not in moved:
                    moved[id(tensor)] = _like(tensor)
                tensors[name] = moved[id(tensor)]  # type: ignore[assignment]
    return model


def _like(tensor: torch.Tensor) -> torch.Tensor:
    from torch import nn

    empty = tensor.detach().to("meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty
