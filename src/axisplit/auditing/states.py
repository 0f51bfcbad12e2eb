"""What the ranks' tensors are to the whole model's, told by their numbers alone (float64, so chance plays no part).

    whole     every rank has all of it
    part      some indices of one dim on each rank: a shard, in any order and of any size
    partial   the sum over ranks is the whole value
    repeated  the sum over ranks, counted several times
    reordered every rank has all of it, in another order
    absent    a rank does not have it
    wrong     none of these

That a value in the middle is a part or partial is no fault: what matters is whether it is whole where it is needed.
Example: 2 ranks hold [1, 2] and [3, 4] where the whole is [4, 6]: partial.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

State = Literal["whole", "part", "partial", "repeated", "reordered", "absent", "wrong"]
TOLERANCE = 1e-9
"""Relative to the largest value of the whole tensor; float64 reassociation stays orders below it, mistakes above."""

Values = dict[str, Tensor]
_CALL = re.compile(r"#\d+")


def classify(own: Values, whole: Values, scales: Mapping[str, float] | None = None) -> dict[str, State]:
    """The state of every value of the whole model. Collective: all ranks call it with the same `whole`.

    Args:
        own: this rank's values, whatever their shapes.
        whole: the whole model's.
        scales: what counts as large for a value; its own largest entry if not given.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for name in whole:
        alike[_CALL.sub("", name)].append(name)
    mine = {name: _best_state(name, alike[_CALL.sub("", name)], own, whole, scales) for name in whole}
    everyone: list[dict[str, State]] = [mine] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return {
        name: _joint(name, {rank[name] for rank in everyone}, own, value, _scale(name, value, scales))
        for name, value in whole.items()
    }


def _scale(name: str, value: Tensor, scales: Mapping[str, float] | None) -> float:
    if scales is not None:
        return scales[name]
    return float(value.abs().max()) or 1.0 if value.numel() else 1.0


def _joint(name: str, states: set[State], own: Values, whole: Tensor, scale: float) -> State:
    if "absent" in states:
        return "absent"
    if states <= {"whole"}:
        return "whole"
    if states <= {"whole", "part"}:
        return "part"
    if "part" in states or "wrong" in states:  # of another shape on some rank: nothing to sum
        return "wrong"
    total = own[name].clone()
    dist.all_reduce(total)
    if is_close(total, whole, scale):
        return "partial"
    if _on_all(any(is_close(own[name], whole * count, scale) for count in range(2, dist.get_world_size() + 1))):
        return "repeated"
    ordered = is_close(own[name].flatten().sort().values, whole.flatten().sort().values, scale)
    return "reordered" if _on_all(ordered) else "wrong"


def _on_all(holds: bool) -> bool:
    """Whether it holds on every rank: each sees its own values only."""
    flag = torch.tensor([float(holds)])
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return bool(flag)


def _best_state(name: str, alike: list[str], own: Values, whole: Values, scales: Mapping[str, float] | None) -> State:
    """This rank's state of a value; calls of one module may come in another order (a loop over a set of strings)."""
    states: list[State] = []
    for other in [name, *alike]:
        states.append(_own_state(own.get(name), whole[other], _scale(other, whole[other], scales)))
        if states[-1] in ("whole", "part"):
            return states[-1]
    return states[0]


def _own_state(own: Tensor | None, whole: Tensor, scale: float) -> State:
    """`partial` stands for: of the whole's shape, but other numbers."""
    if own is None:
        return "absent"
    if own.shape == whole.shape:
        return "whole" if is_close(own, whole, scale) else "partial"
    if own.ndim != whole.ndim:
        return "wrong"
    differing = [dim for dim in range(own.ndim) if own.shape[dim] != whole.shape[dim]]
    return "part" if len(differing) == 1 and _is_selection(own, whole, differing[0], scale) else "wrong"


def is_close(a: Tensor, b: Tensor, scale: float | None = None) -> bool:
    """Whether two tensors are the same but for float64 rounding at `scale` (by default the second's largest entry)."""
    if scale is None:
        scale = _scale("", b, None)
    gap = (a - b).abs()
    gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, gap)
    return bool((gap <= TOLERANCE * scale).all())


def _is_selection(own: Tensor, whole: Tensor, dim: int, scale: float) -> bool:
    """Whether each slice along `dim` is some slice of the whole; found by one random number for each slice."""
    mine, all_of_it = own.movedim(dim, 0).flatten(1), whole.movedim(dim, 0).flatten(1)
    if not mine.shape[0] or not mine.shape[1]:
        return True
    finite = [torch.nan_to_num(x, nan=0.5, posinf=scale, neginf=-scale).clamp(-scale, scale) for x in (mine, all_of_it)]
    direction = torch.randn(mine.shape[1], generator=torch.Generator().manual_seed(0), dtype=own.dtype)
    marks, order = torch.sort(finite[1] @ direction)
    place = torch.searchsorted(marks, finite[0] @ direction).clamp(0, len(marks) - 1)
    before = (place - 1).clamp(min=0)
    nearer = (marks[before] - finite[0] @ direction).abs() < (marks[place] - finite[0] @ direction).abs()
    return is_close(mine, all_of_it[order[torch.where(nearer, before, place)]], scale)
