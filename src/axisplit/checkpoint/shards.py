"""Build one rank's part of a checkpoint: the model's objects without weights, then each shard read into place.

    empty_model   the model with parameters on the meta device and buffers computed as ever
    load_shards   every planned parameter as this rank's slices, read straight from the files

Memory: the rank's shards, one slice in flight, and the model's Python objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from axisplit.checkpoint.names import match_model
from axisplit.checkpoint.stream import Checkpoint, open_checkpoint
from axisplit.errors import PlanMismatchError
from axisplit.runtime.aligned import aligned_copy
from axisplit.solve.plan import ParameterPlan, Plan

__all__ = ["empty_model", "load_shards"]


def load_shards(directory: Path, plan: Plan, rank: int, dtype: torch.dtype | None = None) -> nn.Module:
    """A rank's part of the model in `directory`, in eval mode; its places and edits are not installed yet.

    Args:
        dtype: of floating-point parameters; what the plan says if None.
    Raises: InputError if the checkpoint is damaged or does not fit its config; PlanMismatchError if the plan does not
        fit the model.
    """
    model = empty_model(directory)
    checkpoint = open_checkpoint(directory)
    names = match_model(model, checkpoint)
    planned = {p.name: p for p in plan.parameters}
    with torch.no_grad():
        made: dict[int, nn.Parameter] = {}
        for name, parameter in list(model.named_parameters(remove_duplicate=False)):
            if id(parameter) not in made:
                entry = _planned(planned, plan, name, parameter)
                shard, kind = _read(checkpoint, names[name], entry, rank), dtype or getattr(torch, entry.dtype)
                shard = shard if shard.dtype == kind else aligned_copy(shard, kind)
                made[id(parameter)] = nn.Parameter(shard, requires_grad=parameter.requires_grad)
            _assign(model, name, made[id(parameter)])
        for name, buffer in list(model.named_buffers()):
            _load_buffer(model, checkpoint, names, planned[name], name, buffer, rank)
    return model.eval()


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules made inside the block have their parameters on the meta device, buffers where they belong."""
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def empty_model(directory: Path) -> nn.Module:
    """The model of a directory's config.json: parameters on the meta device, buffers (rotary frequencies …) real."""
    from axisplit.models.pretrained import build_empty

    with parameters_on_meta():
        return build_empty(directory)


def _planned(planned: dict[str, ParameterPlan], plan: Plan, name: str, parameter: torch.Tensor) -> ParameterPlan:
    entry = planned.get(plan.tied.get(name, name))
    if entry is None or entry.shape != tuple(parameter.shape):
        raise PlanMismatchError(
            "the plan was made for another model",
            where=name,
            got=f"{list(parameter.shape)} in the checkpoint's model",
            needed=f"{list(entry.shape)}" if entry is not None else f"a parameter of {plan.model}",
            do="plan this model",
        )
    return entry


def _read(checkpoint: Checkpoint, source: str, plan: ParameterPlan, rank: int) -> torch.Tensor:
    if plan.held == "split":
        return checkpoint.read_slice(source, plan.ranges[rank])
    if plan.held == "first" and rank:
        return torch.zeros(plan.shape, dtype=checkpoint.tensors[source].dtype)
    return checkpoint.read(source)


def _assign(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, leaf = name.rpartition(".")
    model.get_submodule(owner)._parameters[leaf] = parameter


def _load_buffer(
    model: nn.Module,
    checkpoint: Checkpoint,
    names: dict[str, str],
    plan: ParameterPlan,
    name: str,
    buffer: torch.Tensor,
    rank: int,
) -> None:
    from axisplit.lower.apply import take_shard

    whole: Any = checkpoint.read(names[name]).to(buffer.dtype) if name in names else buffer
    owner, _, leaf = name.rpartition(".")
    model.get_submodule(owner)._buffers[leaf] = take_shard(plan, whole, rank)
