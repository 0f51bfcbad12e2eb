"""What real ranks run: module level, so that other processes find it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import axisplit
from axisplit.proof.numbers import Widened
from models_zoo.equality import Outputs, run
from models_zoo.small import Attention, Branches, Mlp
from models_zoo.tiny import ZOO, build, perturb
from models_zoo.training import train_steps, trainable


def run_part(rank: int, world_size: int, name: str, plan_file: str, batch: int, length: int) -> Outputs:
    """Outputs of this rank's part of a zoo model."""
    model = axisplit.parallelize(build(name), axisplit.Plan.load(plan_file))
    return run(model, ZOO[name], batch, length)


def train_part(
    rank: int, world_size: int, name: str, plan_file: str, batches: list[tuple[int, int]], max_norm: float, again: bool
) -> tuple[list[float], dict[str, Any]]:
    """Norms that were clipped, and the whole state dict (on rank 0), after some steps of training on the parts; with
    `again` activations are computed again in backward.
    """
    model = axisplit.parallelize(trainable(name), axisplit.Plan.load(plan_file)).double()
    if again:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    clip = partial(axisplit.clip_grad_norm_, max_norm=max_norm) if max_norm else None
    with Widened():
        return train_steps(model, name, batches, clip), axisplit.gather_state_dict(model)


def identities(rank: int, world_size: int, plan_file: str, x: torch.Tensor) -> dict[str, Any]:
    """What stayed the same about a model whose optimizer and hooks were there before."""
    model = perturb(Mlp())
    before = dict(model.named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[torch.Size] = []
    model.down.register_forward_hook(lambda module, args, y: seen.append(y.shape))
    made = axisplit.parallelize(model, axisplit.Plan.load(plan_file))
    after = dict(made.named_parameters())
    with torch.no_grad():
        y = made(x)
    return {
        "same object": made is model,
        "same names": list(before) == list(after),
        "same parameters": all(before[name] is after[name] for name in before),
        "same in the optimizer": all(
            a is b for a, b in zip(optimizer.param_groups[0]["params"], after.values(), strict=True)
        ),
        "shapes": {name: tuple(p.shape) for name, p in after.items()},
        "bias": after["down.bias"].detach().abs().max().item(),
        "hook": [tuple(shape) for shape in seen],
        "output": y,
        "comm_bytes": made.axisplit_context.comm_bytes,
    }


def mismatches(rank: int, world_size: int, plan_file: str) -> list[str]:
    """What `parallelize` says to a plan for other ranks, another model, and the same names in other shapes."""
    plan = axisplit.Plan.load(plan_file)
    texts = []
    for model in (Mlp(), Attention(), Mlp(ffn=64)):
        try:
            axisplit.parallelize(model, plan)
        except axisplit.errors.PlanMismatchError as error:
            texts.append(str(error))
    return texts


def branch_asked_for(rank: int, world_size: int, plan_file: str, x: torch.Tensor) -> tuple[float, str]:
    """How far a branch that was not planned is from the whole model's, and what is said to one that is split."""
    whole = perturb(Branches()).eval()
    model = axisplit.parallelize(perturb(Branches()).eval(), axisplit.Plan.load(plan_file))
    with torch.no_grad():
        error = (model(x, "squashed") - whole(x, "squashed")).abs().max().item()
        try:
            model(x, "hidden")
        except axisplit.errors.ProofError as refused:
            return error, str(refused)
    return error, "not refused"
