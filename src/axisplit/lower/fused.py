"""Encoders that torch runs fused when nobody asks for gradients.

A layer then reads its modules' weights and does not call them: it is told not to where a rank runs its part of one. And
given which positions are padding, `torch.nn.TransformerEncoder` packs the others into a nested tensor, and fills the
padded positions of what its last layer makes with zeros. Layers of which a rank runs its part are called with plain
tensors, as they were traced, and the zeros are written behind the last one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn


def run_unfused(model: nn.Module, changed: Collection[str]) -> None:
    """Encoders in which modules or parameters changed: the same results without fused kernels and nested tensors."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        if not isinstance(module, (nn.TransformerEncoder, nn.TransformerEncoderLayer)):
            continue
        if not any(name.startswith(prefix) for name in changed):
            continue
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # which of the two a kernel is to fuse; only asked for that
        elif module.use_nested_tensor and len(module.layers):
            module.use_nested_tensor = False
            module.layers[-1].register_forward_hook(_fill_padding, with_kwargs=True)


def _fill_padding(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
    """The hook on the last layer; `src_key_padding_mask` [B, S] holds -inf at padding, output is [B, S, D]."""
    padding = kwargs.get("src_key_padding_mask")
    if padding is None or kwargs.get("src_mask") is not None or layer.training or not _is_fused(output):
        return output
    taken = padding.logical_not()
    if not torch._nested_tensor_from_mask_left_aligned(output, taken):
        return output
    return output.masked_fill(~taken.unsqueeze(-1), 0.0)


def _is_fused(output: Tensor) -> bool:
    """Whether torch would have run the encoder that made this fused: not for gradients, nor where Python looks on."""
    watched = torch._C._len_torch_function_stack() > 0
    enabled = torch.backends.mha.get_fastpath_enabled() and not torch.is_autocast_enabled()
    return enabled and not watched and not output.requires_grad and output.dim() == 3
