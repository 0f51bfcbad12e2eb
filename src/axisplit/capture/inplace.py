"""Ops that write to their arguments: to which, and what the same op is called that returns its result instead."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

aten = torch.ops.aten


def written_arguments(op: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The tensors that a call of an op writes to."""
    found = list[torch.Tensor]()
    for position, name in _written_places(op):
        value = args[position] if position < len(args) else kwargs.get(name)
        found += [
            item for item in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(item, torch.Tensor)
        ]
    return found


@cache
def _written_places(op: Any) -> tuple[tuple[int, str], ...]:
    """(position, name) of the arguments that an op writes to."""
    arguments = enumerate(op._schema.arguments)
    return tuple((p, a.name) for p, a in arguments if a.alias_info is not None and a.alias_info.is_write)


def functional_form(op: Any) -> Any:
    """`add_.Tensor` -> `add.Tensor`, None if there is none."""
    name = op._opname
    if op.namespace == "aten" and name.endswith("_") and not name.endswith("__"):
        packet = getattr(aten, name.removesuffix("_"), None)
        return getattr(packet, op._overloadname, None) if packet is not None else None
    return None
