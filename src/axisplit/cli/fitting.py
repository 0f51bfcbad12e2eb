"""`axisplit fit`: of a model that is named, opened without its weights, or of a number of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import axisplit
from axisplit.cli.steps import step
from axisplit.errors import InputError
from axisplit.memory.fit import DEFAULT_TOKENS, Fit, check_recompute, check_request
from axisplit.memory.formulae import Recompute
from axisplit.memory.quantities import is_count


def find_fit(
    model: str | None,
    params: int | None,
    ranks: int,
    memory: float | None,
    *,
    training: bool,
    recompute: Recompute,
    batch: int | None,
    seq: int | None,
    shape: Mapping[str, int | None],
) -> Fit:
    """What each rank would hold, and what fits. `shape`: sizes that go with `params`. Torch is for models only."""
    check_request(model, params, ranks, memory, shape)
    check_recompute(recompute, training, alone=model is None)
    asked: dict[str, Any] = {"ranks": ranks, "memory": memory, "training": training, "recompute": recompute}
    if model is None:
        return axisplit.fit(params=params, batch=batch, seq=seq, **asked, **dict[str, Any](shape))
    return _measured(model, ranks, batch or 1, seq, asked)


def _measured(name: str, ranks: int, batch: int, seq: int | None, asked: dict[str, Any]) -> Fit:
    from axisplit.models import resolve_model
    from axisplit.models.inputs import position_limit

    if is_count(name) and not Path(name).exists():
        raise InputError(
            "this is a number of parameters", where="MODEL", got=name, needed="a model", do=f"--params {name}"
        )
    source = resolve_model(name)
    with step("opening the model") as progress:
        if seq is None and source.kind != "factory":
            seq = min(DEFAULT_TOKENS, position_limit(source.build_meta().config) or DEFAULT_TOKENS)
        model, inputs = source.with_inputs(batch, seq or DEFAULT_TOKENS, meta=True, progress=progress)
    with step("measuring a forward" + (f", deriving the plan for {ranks} ranks" if ranks > 1 else "")):
        return axisplit.fit(model, inputs, name=source.name, **asked)
