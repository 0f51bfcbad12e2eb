"""Look up a table of which each rank holds some rows: partial sums of rows, no communication.

    localize   ids [...] -> row numbers in this rank's part; ids it does not hold become 0
    mask_rows  rows [..., h] looked up by localized ids, ids [...] -> the same rows, zero for ids that others hold

The sum over ranks of the masked rows is the whole look-up. Backward of `mask_rows`: the same mask on the cotangent.
Rows held by several ranks count on one of them only.

Example: 10 rows on 2 ranks. ids [3, 7] are localized to [3, 0] and [0, 2]; the masks are [1, 0] and [0, 1].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from axisplit.runtime.sites import BoundSite
from axisplit.runtime.sites import lookup as find_site

__all__ = ["localize", "mask_rows"]


def _held(ids: Tensor, bound: BoundSite) -> tuple[Tensor, Tensor]:
    """(local row, whether this rank owns the row) for every id."""
    layout, rank = bound.the_layout, bound.group.rank
    local = torch.zeros_like(ids)
    start = 0
    for a, b in layout.ranges[rank]:
        local = torch.where((ids >= a) & (ids < b), ids - a + start, local)
        start += b - a
    owned = torch.zeros_like(ids, dtype=torch.bool)
    for a, b in layout.owners().ranges[rank]:
        owned |= (ids >= a) & (ids < b)
    return local, owned


def _localize(ids: Tensor, site: str) -> Tensor:
    bound = find_site(site, "lookup")
    bound.count(0)
    return _held(ids, bound)[0]


def _mask_rows(rows: Tensor, ids: Tensor, site: str) -> Tensor:
    owned = _held(ids, find_site(site, "lookup"))[1]
    return torch.where(owned.unsqueeze(-1), rows, torch.zeros((), dtype=rows.dtype, device=rows.device))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.site = inputs[2]


def _mask_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (ids,) = ctx.saved_tensors
    return mask_rows(grad, ids, ctx.site), None, None


_library = torch.library.Library("axisplit", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("localize(Tensor ids, str site) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
_library.define("mask_rows(Tensor rows, Tensor ids, str site) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
_library.impl("localize", _localize, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
_library.impl("mask_rows", _mask_rows, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("axisplit::localize", lambda ids, site: torch.empty_like(ids), lib=_library)
torch.library.register_fake("axisplit::mask_rows", lambda rows, ids, site: torch.empty_like(rows), lib=_library)
torch.library.register_autograd("axisplit::mask_rows", _mask_backward, setup_context=_remember, lib=_library)
localize = torch.ops.axisplit.localize.default
mask_rows = torch.ops.axisplit.mask_rows.default
