"""What training adds: where values enter and leave computations that each rank does in part, and the ops of backward.

    enter           whole -> whole; its cotangent is summed over ranks (all_reduce)
    leave           whole -> whole; its cotangent counts on rank 0 only

    keep            whole -> own part, zero where another rank owns the index       backward of all_gather and pad
    embed           own part -> whole with zeros around                             backward of take, cotangent partial
    reduce_scatter  partial -> own part of the sum                                  backward of all_gather, partial;
                                                                                    forward on an index of the inputs
    sum_parts       own part -> whole, sums where ranks hold the same indices       backward of take, indices shared
    sum_shared      own part -> own part, summed over the ranks that hold the same  gradients of shared parameters

A cotangent is whole (the same on every rank) or partial (the true one is the sum over ranks of what they hold, each
part put in its place): DESIGN 5. `enter` and `leave` change no value and are not there without gradients; they copy, as
all ops here do, because models write to what they get (`x += y`). The others stand at sites of their own
("<site>@backward", "<parameter>:gradient") with their own counters.

Example: x [3] enters two column-wise halves of W [3, 4] on 2 ranks, y_r = x @ W_r. dL/dx = sum over r of
dL/dy_r @ W_r.T: each rank computes its term, `enter` sums them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod

import torch
from torch import Tensor, is_grad_enabled

from axisplit.runtime.definition import DEFINED, copied, count_fake, define, fake_alike
from axisplit.runtime.sites import BoundSite, Kind, lookup
from axisplit.runtime.sums import sum_in_rank_order

__all__ = [
    "FOR_GRADIENTS", "embed", "enter", "for_gradients", "keep", "leave", "reduce_scatter", "shown", "sum_parts",
    "sum_shared",
]  # fmt: skip


def _pass(x: Tensor, bound: BoundSite, site: str) -> Tensor:
    """A value as it is, copied."""
    bound.count(0)
    return copied(x)


FOR_GRADIENTS: tuple[Kind, ...] = ("enter", "leave")
_shown: ContextVar[bool] = ContextVar("axisplit_shown", default=False)


@contextmanager
def shown() -> Iterator[None]:
    """Inside, `enter` and `leave` are there without gradients too, for the program match to see."""
    token = _shown.set(True)
    try:
        yield
    finally:
        _shown.reset(token)


def enter(x: Tensor, site: str) -> Tensor:
    """A whole value on its way into computations of which each rank does a part."""
    return for_gradients("enter", site)(x)


def leave(x: Tensor, site: str) -> Tensor:
    """A value with a partial cotangent on its way to where the cotangent is whole."""
    return for_gradients("leave", site)(x)


def for_gradients(kind: Kind, site: str) -> Callable[[Tensor], Tensor]:
    """`enter` or `leave` at a site: the op where somebody asks for gradients, or for what is `shown`; else x itself."""
    op = DEFINED[kind]

    def step(x: Tensor) -> Tensor:
        return op(x, site) if (is_grad_enabled() and x.requires_grad) or _shown.get() else x

    return step


def _keep(x: Tensor, bound: BoundSite, site: str) -> Tensor:
    bound.count(0)
    return bound.the_layout.keep_owned(x, bound.group.rank)


def _embed(x: Tensor, bound: BoundSite, site: str) -> Tensor:
    bound.count(0)
    return bound.the_layout.pad(x, bound.group.rank)


def _index_bytes(whole: Tensor, bound: BoundSite) -> int:
    return whole.numel() * whole.element_size() // bound.the_layout.period


def _reduce_scatter(x: Tensor, bound: BoundSite, site: str) -> Tensor:
    bound.count(_index_bytes(x, bound))
    layout, group = bound.the_layout, bound.group
    if bound.dropped:
        return layout.keep_owned(x, group.rank)
    if layout.in_turns:
        turns = x.contiguous().view(-1, group.size, prod(x.shape[layout.dim % x.ndim + 1 :]))
        return group.reduce_scatter_in_turns(turns, site).view(layout.local_shape(x.shape, group.rank))
    parts = [layout.owned_of(x, rank) for rank in range(group.size)]
    shapes = [list(parts[group.rank].shape)] * group.size
    total = sum_in_rank_order(group.all_to_all(parts, shapes, site, list(x.shape)))
    if not layout.is_shared:
        return total
    part = x.new_zeros(layout.local_shape(x.shape, group.rank))
    layout.add_in(part, group.rank, layout.owners().ranges[group.rank], total)
    return part


def _sum_parts(x: Tensor, bound: BoundSite, site: str) -> Tensor:
    whole = bound.the_layout.pad(x, bound.group.rank)
    bound.count(_index_bytes(whole, bound))
    return whole if bound.dropped else bound.group.all_reduce_sum(whole, site)


def _sum_shared(x: Tensor, bound: BoundSite, site: str) -> Tensor:
    layout, group = bound.the_layout, bound.group
    bound.count(bound.index_bytes(x))
    if bound.dropped:
        return copied(x)
    common = [layout.shared(group.rank, rank) if rank != group.rank else () for rank in range(group.size)]
    parts = [layout.part_in(x, group.rank, spans) for spans in common]
    received = group.all_to_all(parts, [part.shape for part in parts], site, layout.ranges)
    total = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
    for rank, spans in enumerate(common):
        if rank == group.rank:
            total += x
        elif spans:
            layout.add_in(total, group.rank, spans, received[rank].to(total.dtype))
    return total.to(x.dtype)


def _fake_keep(x: Tensor, site: str) -> Tensor:
    bound = lookup(site, "keep")
    count_fake(bound, 0)
    return x.new_empty(bound.the_layout.local_shape(x.shape, bound.group.rank))


def _fake_embed(x: Tensor, site: str) -> Tensor:
    bound = lookup(site, "embed")
    count_fake(bound, 0)
    return x.new_empty(bound.the_layout.global_shape(x, bound.group.rank))


def _fake_reduce_scatter(x: Tensor, site: str) -> Tensor:
    bound = lookup(site, "reduce_scatter")
    count_fake(bound, _index_bytes(x, bound))
    return x.new_empty(bound.the_layout.local_shape(x.shape, bound.group.rank))


def _fake_sum_parts(x: Tensor, site: str) -> Tensor:
    bound = lookup(site, "sum_parts")
    whole = x.new_empty(bound.the_layout.global_shape(x, bound.group.rank))
    count_fake(bound, _index_bytes(whole, bound))
    return whole


def _fake_sum_shared(x: Tensor, site: str) -> Tensor:
    bound = lookup(site, "sum_shared")
    count_fake(bound, bound.index_bytes(x))
    return torch.empty_like(x, memory_format=torch.contiguous_format)


for _kind in FOR_GRADIENTS:
    define(_kind, _pass, fake_alike(_kind))
keep = define("keep", _keep, _fake_keep, differentiable=False)
embed = define("embed", _embed, _fake_embed, differentiable=False)
reduce_scatter = define("reduce_scatter", _reduce_scatter, _fake_reduce_scatter)
sum_parts = define("sum_parts", _sum_parts, _fake_sum_parts, differentiable=False)
sum_shared = define("sum_shared", _sum_shared, _fake_sum_shared, differentiable=False)
