"""`axisplit plan`, `verify` and `audit`: the model that is named, inputs for it, and one call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import axisplit
from axisplit.cli.steps import step
from axisplit.errors import InputError
from axisplit.models import resolve_model

if TYPE_CHECKING:
    from axisplit.auditing import Audit
    from axisplit.proof.verify import Verdict
    from axisplit.solve.plan import Plan


DEFAULT_SIZES = (1, 32)
"""Batch and sequence of example inputs."""


def derive(
    name: str,
    ranks: int,
    batch: int | None,
    seq: int | None,
    *,
    keep: tuple[str, ...] = (),
    memory_per_rank: float | None = None,
    uneven: bool = True,
) -> Plan:
    """The plan of a model that is never loaded: its shapes are enough."""
    source = resolve_model(name)
    with step("opening the model") as progress:
        model, inputs = source.with_inputs(*sizes_for(batch, seq, None), meta=True, progress=progress)
    with step(f"deriving the plan for {ranks} ranks"):
        return axisplit.plan(
            model, inputs, ranks=ranks, keep=keep, memory_per_rank=memory_per_rank, uneven=uneven, name=source.name
        )


@dataclass(frozen=True)
class Processes:
    """A run on real processes beside the whole model: the largest difference over all outputs and ranks."""

    ranks: int
    max_error: float
    equal: bool


@dataclass(frozen=True)
class Judged:
    """A verdict, what real processes said if they were asked, and the plan that it is on."""

    verdict: Verdict
    processes: Processes | None
    plan: Plan

    @property
    def exit_code(self) -> int:
        if self.verdict.equal is False or (self.processes is not None and not self.processes.equal):
            return 1
        return 2 if self.verdict.could_not or self.verdict.equal is None else 0

    def to_json(self) -> dict[str, Any]:
        """The fields of `axisplit verify --json`."""
        processes = None if self.processes is None else vars(self.processes)
        return {**self.verdict.to_json(), "processes": processes}

    def __str__(self) -> str:
        if self.processes is None:
            return str(self.verdict)
        relation = "within the rounding bound" if self.processes.equal else "ABOVE the rounding bound"
        line = (
            f"  processes    {self.processes.ranks} real ones: largest error {self.processes.max_error:.3g}, {relation}"
        )
        return f"{self.verdict}\n{line}"


def prove(
    name: str, ranks: int, batch: int | None, seq: int | None, plan: Plan | None, *, gradients: bool, processes: bool
) -> Judged:
    """The verdict on a model's plan, made now unless one is given.

    Raises: PlanMismatchError if the plan is not for this model.
    """
    source = resolve_model(name)
    with step("opening the model") as progress:
        sizes, meta = sizes_for(batch, seq, plan), source.kind == "config"
        model, inputs = source.with_inputs(*sizes, meta=meta, progress=progress)
    if plan is None:
        with step(f"deriving the plan for {ranks} ranks"):
            plan = axisplit.plan(model, inputs, ranks=ranks, name=source.name)
    with step("verifying: laws, programs, numbers, control"):
        verdict = axisplit.verify(model, inputs, plan, gradients=gradients)
    if not processes or verdict.numbers is None:
        return Judged(verdict, None, plan)
    from axisplit.cli.generation import threads_for
    from axisplit.proof.processes import error_on_processes

    with step(f"running on {ranks} processes"):
        checkpoint = None if source.kind == "factory" else source.checkpoint_dir()
        error = error_on_processes(model, inputs, plan, verdict.numbers.choices, checkpoint, threads_for(plan.ranks))
    return Judged(verdict, Processes(ranks, error, error <= verdict.numbers.bound), plan)


def judge(
    name: str, ranks: int, batch: int | None, seq: int | None, rules: Mapping[str, str] | None, *, optimum: bool
) -> Audit:
    """The audit of a plan made by hand (the model's own if none is given), beside axisplit's unless not asked for."""
    source = resolve_model(name)
    with step("opening the model") as progress:
        model, inputs = source.with_inputs(*sizes_for(batch, seq, None), meta=False, progress=progress)
    with step(f"running the plan on {ranks} processes" + (", deriving ours" if optimum else "")):
        return axisplit.audit(model, inputs, ranks, rules, optimum=optimum, name=source.name)


def read_rules(file: str) -> dict[str, str]:
    """A plan of transformers' styles from a JSON file. Raises: InputError if it is not one object of texts."""
    try:
        rules = json.loads(Path(file).read_text())
    except (OSError, ValueError) as error:
        raise InputError("cannot read the plan", where=file, got=str(error), do="check the file") from None
    if not isinstance(rules, dict) or not all(isinstance(style, str) for style in rules.values()):
        raise InputError(
            "the file is not a plan of styles",
            where=file,
            needed='one JSON object, as {"model.layers.*.mlp.up_proj": "colwise"}',
        )
    return rules


def sizes_for(batch: int | None, seq: int | None, plan: Plan | None) -> tuple[int, int]:
    """Those asked for, else those of the plan's first input, else DEFAULT_SIZES."""
    planned = next(iter(plan.sizes.values()), ()) if plan is not None else ()
    default = tuple(planned) if len(planned) == 2 else DEFAULT_SIZES
    return batch or default[0], seq or default[1]
