"""The ops that lowered programs contain, `torch.ops.axisplit.*`: (Tensor x, str site) -> Tensor.

| op         | forward                                             |
|------------|-----------------------------------------------------|
| all_reduce | Partial -> whole: sum over ranks                    |
| all_gather | split -> whole, by the site's layout                |
| take       | whole -> split, no communication                    |
| only_first | whole -> Partial: x on rank 0, zeros elsewhere      |
| pad        | split -> Partial: own part in place, zeros around   |
| scale      | local mean -> Partial mean: x times rank's weight   |
| argmax     | logits split over the last dim -> global index      |

Backward, an op issues the op of the site's twin (the table in sites.py), or passes the cotangent as it is; cotangents.py
has the ops that only backward needs. argmax has no backward.

All results are new, contiguous tensors, as the fake implementations say. The ops are functional: a compiler may merge or
drop equal calls, alike on all ranks as all ranks hold the same program.

argmax moves 8 bytes a row and not the logits: a float32 value and its index in one integer that orders like (value, -index),

    key = (ordered bits of the value) << 32 | (2**32 - 1 - index),     all-reduce by maximum

so the largest value wins, among equals the lowest index, NaN above all, as in torch.argmax. float64 takes two
reductions, 16 bytes. Example: [1, 4] logits (1, 5 | 5, 2) on 2 ranks: both send the bits of 5.0, with indices 1 and 2;
2**32 - 2 > 2**32 - 3, so the answer is 1.
"""
# ruff: noqa: E501  the table

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from struct import calcsize, pack, unpack

import torch
from torch import Tensor

from axisplit.errors import LayoutError
from axisplit.runtime.cotangents import embed, enter, keep, leave, reduce_scatter, sum_parts, sum_shared
from axisplit.runtime.definition import copied, count_fake, define, fake_alike
from axisplit.runtime.sites import BoundSite, lookup

__all__ = [
    "all_gather", "all_reduce", "argmax", "embed", "enter", "keep", "leave", "only_first", "pad", "reduce_scatter", "scale",
    "sum_parts", "sum_shared", "take",
]  # fmt: skip

_INDEX_MASK = 2**32 - 1
_LOWEST = torch.iinfo(torch.int64).min
_ROW_BYTES = 8
Found = tuple[float, int]
"""A row's largest value on a rank, and its global index; -1 where it holds none."""


def _all_reduce(x: Tensor, bound: BoundSite, site: str) -> Tensor:
    bound.count(x.nbytes)
    return copied(x) if bound.dropped else bound.group.all_reduce_sum(x, site)


def _all_gather(x: Tensor, bound: BoundSite, site: str) -> Tensor:
    bound.count(bound.index_bytes(x))
    group, layout = bound.group, bound.the_layout
    if bound.dropped:
        return layout.pad(x, group.rank)
    if layout.in_turns:
        part = x.contiguous().view(-1, prod(x.shape[layout.dim % x.ndim + 1 :]))
        return group.all_gather_in_turns(part, site).view(layout.global_shape(x, group.rank))
    shapes = layout.owned_shapes(x, group.rank)
    return layout.owners().assemble(group.all_gather(layout.take_owned(x, group.rank), shapes, site))


def _take(x: Tensor, bound: BoundSite, site: str) -> Tensor:
    bound.count(0)
    return bound.the_layout.take(x, bound.group.rank)


def _only_first(x: Tensor, bound: BoundSite, site: str) -> Tensor:
    bound.count(0)
    return copied(x) if bound.group.rank == 0 else torch.zeros_like(x, memory_format=torch.contiguous_format)


def _pad(x: Tensor, bound: BoundSite, site: str) -> Tensor:
    bound.count(0)
    return bound.the_layout.pad_owned(x, bound.group.rank)


def _scale(x: Tensor, bound: BoundSite, site: str) -> Tensor:
    bound.count(0)
    return x.contiguous() * bound.weight


def _argmax(x: Tensor, bound: BoundSite, site: str) -> Tensor:
    _check_logits(x, bound, site)
    bound.count(_argmax_bytes(x))
    value, index = _local_max(x, bound)
    if bound.dropped:
        return index.clamp_min(0)
    found = list(zip(value.flatten().tolist(), index.flatten().tolist(), strict=True))
    best = _wide_winners(found, bound, x, site) if x.dtype == torch.float64 else _winners(found, bound, x, site)
    return torch.tensor(best, dtype=torch.int64, device=x.device).view(x.shape[:-1])


def _winners(found: Sequence[Found], bound: BoundSite, x: Tensor, site: str) -> list[int]:
    """The global index of each row's largest value. In Python's integers: a row costs 1 µs, as much as one op of torch."""
    keys = [_LOWEST if i < 0 else _ordered(v, "<f", "<i") << 32 | _INDEX_MASK - i for v, i in found]
    return [_INDEX_MASK - (key & _INDEX_MASK) for key in _all_max(keys, bound, x, site)]


def _wide_winners(found: Sequence[Found], bound: BoundSite, x: Tensor, site: str) -> list[int]:
    keys = [_LOWEST if i < 0 else _ordered(v, "<d", "<q") for v, i in found]
    largest = _all_max(keys, bound, x, site)
    mine = [-i if i >= 0 and key == best else -(2**62) for (_, i), key, best in zip(found, keys, largest, strict=True)]
    return [-negative for negative in _all_max(mine, bound, x, site)]


def _all_max(keys: list[int], bound: BoundSite, x: Tensor, site: str) -> list[int]:
    largest: list[int] = bound.group.all_reduce_max(torch.tensor(keys, device=x.device), site).tolist()
    return largest


def _ordered(value: float, floating: str, integer: str) -> int:
    """An integer, as wide as the given formats of `struct`, that orders as the floats do: NaN above infinity, and -0.0
    equal to 0.0.
    """
    bits: int = unpack(integer, pack(floating, value + 0.0))[0]
    top = (1 << (8 * calcsize(integer) - 1)) - 1
    return top if value != value else bits ^ top if bits < 0 else bits


def _argmax_bytes(x: Tensor) -> int:
    return prod(x.shape[:-1]) * (2 * _ROW_BYTES if x.dtype == torch.float64 else _ROW_BYTES)


def _check_logits(x: Tensor, bound: BoundSite, site: str) -> None:
    layout, rank = bound.the_layout, bound.group.rank
    share = layout.local_size(rank)
    if not x.is_floating_point() or layout.dim not in (-1, x.ndim - 1) or x.shape[-1] != share:
        raise LayoutError(
            "argmax over a split dim needs this rank's share of float logits in the last dim",
            where=site,
            got=f"{x.dtype} {list(x.shape)}, a layout of dim {layout.dim}",
            needed=f"floats, dim -1 of size {share}",
        )


def _local_max(x: Tensor, bound: BoundSite) -> tuple[Tensor, Tensor]:
    """The largest value of each row and its global index; index -1 on a rank that holds no logits."""
    layout, rank = bound.the_layout, bound.group.rank
    held = layout.ranges[rank]
    if not held:
        shape = x.shape[:-1]
        return x.new_full(shape, -torch.inf), torch.full(shape, -1, dtype=torch.int64, device=x.device)
    value, index = x.max(dim=-1)
    globally = torch.cat([torch.arange(a, b, device=x.device) for a, b in held]) if len(held) > 1 else None
    return value, index + held[0][0] if globally is None else globally[index]


def _fake_all_reduce(x: Tensor, site: str) -> Tensor:
    bound = lookup(site, "all_reduce")
    count_fake(bound, x.numel() * x.element_size())
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake_all_gather(x: Tensor, site: str) -> Tensor:
    bound = lookup(site, "all_gather")
    count_fake(bound, bound.index_bytes(x))
    return x.new_empty(bound.the_layout.global_shape(x, bound.group.rank))


def _fake_take(x: Tensor, site: str) -> Tensor:
    bound = lookup(site, "take")
    count_fake(bound, 0)
    return x.new_empty(bound.the_layout.local_shape(x.shape, bound.group.rank))


def _fake_pad(x: Tensor, site: str) -> Tensor:
    bound = lookup(site, "pad")
    count_fake(bound, 0)
    return x.new_empty(bound.the_layout.global_shape(x, bound.group.rank))


def _fake_argmax(x: Tensor, site: str) -> Tensor:
    bound = lookup(site, "argmax")
    _check_logits(x, bound, site)
    count_fake(bound, _argmax_bytes(x))
    return x.new_empty(x.shape[:-1], dtype=torch.int64)


all_reduce = define("all_reduce", _all_reduce, _fake_all_reduce)
all_gather = define("all_gather", _all_gather, _fake_all_gather)
take = define("take", _take, _fake_take)
only_first = define("only_first", _only_first, fake_alike("only_first"))
pad = define("pad", _pad, _fake_pad)
scale = define("scale", _scale, fake_alike("scale"))
argmax = define("argmax", _argmax, _fake_argmax, differentiable=False)
