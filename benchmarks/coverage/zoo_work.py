"""What a child does: build a model of the zoo, measure it at every number of ranks it was given."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module

import torch

from axisplit.capture.trace import capture
from benchmarks.coverage.measure import measure, not_built
from benchmarks.coverage.record import Case
from benchmarks.coverage.workers import Tell
from benchmarks.zoo import build


def measure_models(cases: Sequence[Case], tell: Tell) -> None:
    """Build the one model of these cases and tell a record for each."""
    warnings.simplefilter("ignore")
    tell({"stage": "build"})
    try:
        model, inputs = build(cases[0].model, cases[0].head)
    except Exception as error:
        for case in cases:
            tell({"record": not_built(case, error).to_json()})
        return
    for case in cases:
        tell({"record": measure(case, model, inputs, lambda stage: tell({"stage": stage})).to_json()})


def warm() -> None:
    """Import what every child needs. Nothing that starts threads (a solver) may run before the forks."""
    torch.set_num_threads(1)
    for name in ("axisplit.api", "axisplit.lower.planning", "axisplit.proof.verify"):
        import_module(name)
    capture(*build("llama", "causal"))
