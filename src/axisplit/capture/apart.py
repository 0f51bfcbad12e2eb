"""Run an op by itself, apart from whatever surrounds it, and say which ops must not be run so at all."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._higher_order_ops.effects import _get_effect
from torch._library.custom_ops import OPDEFS

from axisplit.capture.modes import outside_modes

_COMMUNICATING = {"c10d", "_c10d_functional", "_c10d_functional_autograd", "symm_mem", "axisplit"}


def why_not_run(op: Any) -> str:
    """Why an op must not be run on made-up operands; "" if it may be."""
    schema = op._schema
    if op.namespace in _COMMUNICATING:
        return "it communicates"
    if torch.Tag.nondeterministic_seeded in op.tags:
        return "it is random"
    if any(entry.alias_info is not None for entry in (*schema.arguments, *schema.returns)):
        return "it writes to its operands or returns views of them"
    if _get_effect(op) is not None:
        return "it has side effects"
    if any(str(argument.type) == "Generator" or "Generator" in str(argument.type) for argument in schema.arguments):
        return "it is random"
    return ""


def checks_shapes(op: Any) -> bool:
    """Whether an op can be expected to refuse operands that do not fit together: torch's own do, and those written in
    Python out of them. A kernel in C++ may read past an operand's end instead.
    """
    return op.namespace == "aten" or op._schema.name in OPDEFS


def belongs_to_torch(op: Any) -> bool:
    """Whether what an op computes is fixed by torch's version."""
    return bool(op.namespace == "aten")


@contextmanager
def apart() -> Iterator[None]:
    """Outside of modes, autocast and gradients; the random state is as before afterwards; no warnings, which would
    be about sizes that nobody chose.
    """
    with warnings.catch_warnings(), outside_modes(), torch.autocast("cpu", enabled=False), torch.no_grad():
        warnings.simplefilter("ignore")
        with torch.random.fork_rng(devices=[]):
            yield
