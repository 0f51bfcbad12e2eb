"""What a child does: build a model of the zoo, measure it at every number of ranks it was given."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import transformers
from transformers.models.auto import modeling_auto

import axisplit
from benchmarks.coverage.measure import measure, not_built
from benchmarks.coverage.record import Case, Head
from benchmarks.coverage.workers import Tell
from benchmarks.zoo.zoo import build


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
        record = measure(case, model, inputs, lambda stage, ranks=case.ranks: tell({"stage": stage, "ranks": ranks}))
        tell({"record": record.to_json()})


def model_types(head: Head) -> list[str]:
    """Every transformers model type with this head."""
    names = {"causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "base": modeling_auto.MODEL_MAPPING_NAMES}[head]
    return sorted(names)


def warm() -> None:
    """Import what every child needs. Nothing that starts threads may run before the forks."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    model, inputs = build("llama", "causal")
    from axisplit.capture.trace import capture
    from axisplit.lower import planning
    from axisplit.proof import verify

    assert axisplit.plan is not None and planning is not None and verify is not None
    capture(model, inputs)
