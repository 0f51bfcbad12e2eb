"""The same on real processes: every rank's outputs beside the whole model's."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from axisplit.capture.trace import Inputs
from axisplit.proof.choices import Choices, Recorded
from axisplit.proof.numbers import Run, run_pinned, run_whole
from axisplit.runtime.launch import launch
from axisplit.solve.plan import Plan

__all__ = ["error_on_processes"]


def error_on_processes(
    model: torch.nn.Module,
    inputs: Inputs,
    plan: Plan,
    choices: Choices,
    checkpoint: Path | None = None,
    threads_per_rank: int = 1,
) -> float:
    """Largest difference between the whole model's float outputs and those of real local ranks, each its part, with the
    whole model's choices. Infinite if a rank's choice is made from rows further off than rounding moves them.

    Args:
        choices: the verdict's, for the bounds of what they are made from.
        checkpoint: where ranks load their slices from; without it they get the model itself, pickled to a private file.
    Raises: CollectiveError if a rank fails.
    """
    with TemporaryDirectory(prefix="axisplit-") as folder:
        whole = checkpoint
        if whole is None:
            whole = Path(folder) / "model.pickle"
            with open(os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                pickle.dump(model, file)
        expected = run_whole(model, inputs)
        recorded = {name: choice for name, choice in expected.recorded.items() if name in choices.bounds}
        found: list[Run] = launch(
            plan.ranks, run_on_rank, (whole, plan, inputs, recorded), threads_per_rank=threads_per_rank
        )
    errors = expected.worst(found)
    if any(error > choices.bounds[name] for name, error in errors.items() if name in recorded):
        return float("inf")
    return max((error for name, error in errors.items() if name not in recorded), default=0.0)


def run_on_rank(rank: int, world_size: int, whole: Path, plan: Plan, inputs: Inputs, recorded: Recorded) -> Run:
    """This rank's part with the recorded choices; the whole model is a checkpoint, or a pickle that our parent made."""
    from axisplit.api import load, parallelize

    if whole.is_dir():
        return run_pinned(load(whole, plan), inputs, (), recorded)
    return run_pinned(parallelize(pickle.loads(whole.read_bytes()), plan), inputs, (), recorded)
