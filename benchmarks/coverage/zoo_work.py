"""What a child does: build a model of the zoo, then measure it at every number of ranks, or pack it for real ranks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch

from axisplit.capture.trace import capture
from benchmarks.coverage.measure import Subject, measure, not_built, one_line
from benchmarks.coverage.real import pack
from benchmarks.coverage.record import Case, Record
from benchmarks.coverage.workers import Tell
from benchmarks.zoo import build


def measure_models(cases: Sequence[Case], tell: Tell) -> None:
    """Build the one model of these cases and tell a record for each."""

    def announce(stage: str, known: Record) -> None:
        tell({"stage": stage, "so far": known.to_json()})

    warnings.simplefilter("ignore")
    tell({"stage": "build"})
    try:
        subject = Subject(*build(cases[0].model, cases[0].head))
    except Exception as error:
        for case in cases:
            tell({"record": not_built(case, error).to_json()})
        return
    for case in cases:
        tell({"record": measure(case, subject, announce).to_json()})


def pack_models(cases: Sequence[Case], tell: Tell, folder: Path) -> None:
    """Build the one model of these cases and write a parcel for each; a record is equal if that is there."""
    warnings.simplefilter("ignore")
    tell({"stage": "build"})
    model, inputs = build(cases[0].model, cases[0].head)
    for case in cases:
        tell({"stage": "plan"})
        try:
            pack(case, model, inputs, folder)
            record = Record(case.model, case.head, case.ranks, "equal")
        except Exception as error:
            record = Record(case.model, case.head, case.ranks, "error", one_line(error))
        tell({"record": record.to_json()})


def warm() -> None:
    """Import what every child needs. Nothing that starts threads (a solver) may run before the forks."""
    torch.set_num_threads(1)
    for name in ("axisplit.api", "axisplit.lower.planning", "axisplit.proof.verify"):
        import_module(name)
    capture(*build("llama", "causal"))
