"""Reductions over the parts of all ranks, in rank order: the same bits wherever they are taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["LOW_PRECISION", "in_rank_order", "max_over_ranks", "sum_in_rank_order"]

LOW_PRECISION = (torch.float16, torch.bfloat16)
"""Summed in float32, and rounded once."""


def in_rank_order(op: Callable[..., Any], parts: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """op(op(part 0, part 1), part 2) …: in the parts' dtype, new or `out`."""
    total = parts[0].clone() if out is None else out.copy_(parts[0])
    for part in parts[1:]:
        op(total, part, out=total)
    return total


def sum_in_rank_order(parts: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """Sum in the parts' dtype, new or `out`; float16 and bfloat16 are accumulated in float32 and rounded once."""
    if len(parts) == 1:
        return parts[0].clone() if out is None else out.copy_(parts[0])
    low = parts[0].dtype in LOW_PRECISION
    total = parts[0].float() + parts[1] if low else torch.add(parts[0], parts[1], out=out)
    for part in parts[2:]:
        total += part
    if not low:
        return total
    return total.to(parts[0].dtype) if out is None else out.copy_(total)


def max_over_ranks(parts: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """Elementwise maximum, new or `out`; NaN where a part has it."""
    return in_rank_order(torch.maximum, parts, out)
