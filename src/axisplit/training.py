"""What training needs beyond forward and backward: figures and state of the whole model, from ranks that hold parts.

A rank's `parameters()` are its parts. Code that treats every entry by itself (SGD, Adam, weight decay) is right on
parts as it is; code that looks at several entries together (a norm, a state dict) sees one rank's and is wrong without
a word. Here are those two, over all ranks, each entry once:

    an entry that several ranks hold     the lowest of them counts it
    clip_grad_norm_                      |g| = (sum over ranks of the sum over what it counts of |g_i|^p)^(1/p)
    gather_state_dict                    whole[ranges of a rank] = its part, for all ranks, on rank 0

Example: 2 ranks, w = [3, 0 | 0, 4] split, b = [12] on both. |g| = (9 + 144 + 16)^(1/2) = 13; rank 0 alone would say
12.4 and rank 1 12.6, scale by different factors, and from then on hold different b.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from axisplit.errors import InputError
from axisplit.lower.apply import Installable, put_shard
from axisplit.runtime.groups import Group
from axisplit.solve.plan import ParameterPlan, Ranges


def clip_grad_norm_(
    model: nn.Module, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """As `torch.nn.utils.clip_grad_norm_`, of the whole model's gradients: every rank scales its own by one factor.

    Args:
        model: what `parallelize` or `load` returned. Every rank calls this at the same time.
        max_norm: of all gradients together.
        norm_type: p > 0, or infinity.
        error_if_nonfinite: raise RuntimeError, on every rank, rather than scale by what is no number.
    Returns: the norm before, alike on all ranks to the bit, of at least float32.
    Raises: InputError for a model that is not a rank's part, or has parameters that its plan does not know.
    """
    if not norm_type > 0:
        raise InputError("no such norm", got=f"norm_type={norm_type}", needed="a number above 0, or infinity")
    plan, group = _part_of(model)
    _check_known(model, plan)
    norm = _grad_norm(model, plan, group, float(norm_type))
    if error_if_nonfinite and not norm.isfinite():
        raise RuntimeError(f"the norm of order {norm_type} of the gradients is {norm.item()}: they cannot be clipped")
    torch.nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, norm)
    return norm


def gather_state_dict(model: nn.Module) -> dict[str, Any]:
    """The whole model's state dict on rank 0, on the CPU, and {} on the others: what the model would have saved.

    One tensor is on its way at a time; only rank 0 needs memory for the whole. Tied tensors are one tensor.

    Args:
        model: what `parallelize` or `load` returned. Every rank calls this at the same time.
    Raises: InputError for a model that is not a rank's part, or has tensors that its plan does not know.
    """
    plan, group = _part_of(model)
    _check_known(model, plan)
    known = {p.name: p for p in plan.parameters}
    state, made = model.state_dict(), dict[str, Any]()
    for name, value in state.items():
        own = plan.tied.get(name, name)
        if own not in made:
            made[own] = _whole(known[own], value, group) if own in known else value
    return {name: made[plan.tied.get(name, name)] for name in state} if group.rank == 0 else {}


def _part_of(model: nn.Module) -> tuple[Installable, Group]:
    plan = model.__dict__.get("axisplit_plan")
    if plan is None:
        raise InputError(
            "the model is not a rank's part",
            got=type(model).__name__,
            needed="what axisplit.parallelize or axisplit.load returned",
            do="pass that module itself, not one that wraps it",
        )
    return plan, model.__dict__["axisplit_context"].group


def _check_known(model: nn.Module, plan: Installable) -> None:
    known = {p.name for p in plan.parameters} | set(plan.tied)
    unknown = [name for name, _ in model.named_parameters() if name not in known]
    if unknown:
        raise InputError(
            "the plan does not know these parameters",
            got="\n".join(unknown),
            needed="the parameters that were planned",
            do="plan the model with them in it",
        )


def _grad_norm(model: nn.Module, plan: Installable, group: Group, order: float) -> Tensor:
    """The norm of all gradients; powers are summed in float64, for their squares leave float32's range."""
    known = {p.name: p for p in plan.parameters}
    gradients = {plan.tied.get(n, n): p.grad for n, p in model.named_parameters() if p.grad is not None}
    device = next((g.device for g in gradients.values()), torch.device("cpu"))
    counted = [_counted(known[name], gradient, group.rank) for name, gradient in gradients.items()]
    norms = [_norm(entries, order) for entries in counted if entries.numel()]
    together = _norm(torch.stack(norms), order) if norms else torch.zeros((), dtype=torch.float64, device=device)
    if order == float("inf"):
        total = group.all_reduce_max(together, "clip_grad_norm_")
    else:
        total = group.all_reduce_sum(together**order, "clip_grad_norm_") ** (1 / order)
    wide = any(g.dtype == torch.float64 for g in gradients.values())
    return total if wide else total.float()


def _norm(entries: Tensor, order: float) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(entries, order, dtype=torch.float64)
    return norm


def _counted(plan: ParameterPlan, part: Tensor, rank: int) -> Tensor:
    """Of a rank's part, the entries that no lower rank holds."""
    if plan.held != "split":
        return part if rank == 0 else part.new_empty(0)
    taken: Tensor | None = None
    for other in range(rank):
        shared = _shared(plan, rank, other, part.device)
        if shared is not None:
            taken = shared if taken is None else taken | shared
    return part if taken is None else part[~taken]


def _shared(plan: ParameterPlan, rank: int, other: int, device: torch.device) -> Tensor | None:
    """Which entries of a rank's part another rank holds too; None if none."""
    found = torch.ones((), dtype=torch.bool, device=device)
    for dim, own in enumerate(plan.ranges[rank]):
        theirs = plan.ranges[other][dim]
        if not any(a < d and c < b for a, b in own for c, d in theirs):
            return None
        found = found.unsqueeze(-1) & _inside(own, theirs, device)
    return found


def _inside(own: Ranges, theirs: Ranges, device: torch.device) -> Tensor:
    """For each index of the first ranges, one after the other, whether the second ones have it."""
    indices = torch.cat([torch.arange(a, b, device=device) for a, b in own])
    return torch.stack([(indices >= c) & (indices < d) for c, d in theirs]).any(0)


def _whole(plan: ParameterPlan, part: Tensor, group: Group) -> Tensor:
    """The whole tensor on rank 0, nothing on the others. What is not split is rank 0's."""
    nothing = part.new_empty(0)
    if plan.held != "split":
        return part.detach().cpu().clone() if group.rank == 0 else nothing
    shapes = [plan.local_shape(rank) if group.rank == 0 else (0,) for rank in range(group.size)]
    sent = [part.detach(), *[nothing] * (group.size - 1)]
    received = group.all_to_all(sent, shapes, f"{plan.name}:gather", list(plan.shape))
    if group.rank > 0:
        return nothing
    whole = torch.empty(plan.shape, dtype=part.dtype)
    for rank, theirs in enumerate(received):
        put_shard(plan, whole, theirs.cpu(), rank)
    return whole
