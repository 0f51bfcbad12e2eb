"""The same on real processes: every rank's outputs beside the whole model's."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from axisplit.capture.trace import Inputs
from axisplit.proof.numbers import Outputs, difference, run_all
from axisplit.runtime.launch import launch
from axisplit.solve.plan import Plan

__all__ = ["error_on_processes"]


def error_on_processes(
    model: torch.nn.Module, inputs: Inputs, plan: Plan, checkpoint: Path | None = None, threads_per_rank: int = 1
) -> float:
    """Largest difference between the whole model's float outputs and those of real local ranks, each its part.

    Args:
        checkpoint: where ranks load their slices from; without it they get the model itself, pickled to a private file.
    Raises: CollectiveError if a rank fails.
    """
    with TemporaryDirectory(prefix="axisplit-") as folder:
        whole = checkpoint
        if whole is None:
            whole = Path(folder) / "model.pickle"
            with open(os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                pickle.dump(model, file)
        found: list[Outputs] = launch(
            plan.ranks, outputs_on_rank, (whole, plan, inputs), threads_per_rank=threads_per_rank
        )
    expected = run_all(model, inputs)
    return max(difference(expected, outputs) for outputs in found)


def outputs_on_rank(rank: int, world_size: int, whole: Path, plan: Plan, inputs: Inputs) -> Outputs:
    """Every float output of this rank's part; the whole model is a checkpoint, or a pickle that our parent made."""
    from axisplit.api import load, parallelize

    if whole.is_dir():
        return run_all(load(whole, plan), inputs)
    return run_all(parallelize(pickle.loads(whole.read_bytes()), plan), inputs)
