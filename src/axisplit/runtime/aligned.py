"""Tensors that begin at a page of memory, as a rank's weights do.

Decoding reads every weight once a step. That is 3 to 5 % faster (docs/design/performance.md) where they do not begin 64
bytes behind a page, as torch's allocator has large tensors.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

__all__ = ["aligned_copy", "aligned_empty"]

_LARGE = 1 << 18
"""Bytes of the smallest tensor that is worth up to a page of memory more."""


def aligned_empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """`torch.empty` on the CPU, contiguous; at the beginning of a page where it is large."""
    num_bytes = prod(shape) * dtype.itemsize
    if num_bytes < _LARGE:
        return torch.empty(tuple(shape), dtype=dtype)
    room = torch.empty(num_bytes + mmap.PAGESIZE, dtype=torch.uint8)
    begin = -room.data_ptr() % mmap.PAGESIZE
    return room[begin : begin + num_bytes].view(dtype).view(tuple(shape))


def aligned_copy(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A contiguous copy, of the dtype if one is given; in memory of `aligned_empty` if x is real and on the CPU."""
    if type(x) is not Tensor or not x.is_cpu:
        return x.to(dtype or x.dtype, memory_format=torch.contiguous_format, copy=True)
    return aligned_empty(x.shape, dtype or x.dtype).copy_(x)
