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


@cache
def functional_form(op: Any) -> Any:
    """`add_.Tensor` -> `add.Tensor`, `transpose_` -> `transpose.int`, `cumsum.out` -> `cumsum.default`, `|=`
    (`__ior__.Tensor`) -> `__or__.Tensor`; or None.
    """
    name, overload = op._opname, op._overloadname
    if op.namespace != "aten":
        return None
    if overload.endswith("out"):
        return getattr(getattr(aten, name), overload.removesuffix("out").removesuffix("_") or "default", None)
    if name.startswith("__i") and _written_places(op):
        return getattr(getattr(aten, f"__{name[3:]}"), overload)
    packet = getattr(aten, name.removesuffix("_"), None)
    if packet is None or not name.endswith("_") or name.endswith("__"):
        return None
    forms = [getattr(packet, each) for each in packet.overloads()]
    same = [form for form in forms if _taken(form) == _taken(op)]
    return getattr(packet, overload, next(iter(same), None))


def _taken(op: Any) -> list[tuple[str, str]]:
    """Names and types of what an op takes."""
    return [(a.name, str(a.type)) for a in op._schema.arguments]


@cache
def reshapes_in_place(op: Any) -> bool:
    """Whether an op only looks at its tensor in another way from then on, as `squeeze_`: its own form is a view."""
    functional = functional_form(op)
    aliases = [r.alias_info for r in functional._schema.returns] if functional is not None else []
    return any(alias is not None and not alias.is_write for alias in aliases)


def scatter_of(view: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[Any, tuple[Any, ...], dict[str, Any]] | None:
    """The op that exchanges what a view shows of a tensor of a shape, with its arguments behind tensor and part; None
    if the view shows no stretch of one dim.

    Args:
        view: (op, arguments behind the tensor, keyword arguments, which of the op's results the view is).
    """
    op, args, kwargs, position = view
    name = op._opname
    if name in ("slice", "select"):
        return (aten.slice_scatter if name == "slice" else aten.select_scatter).default, args, kwargs
    names = [argument.name for argument in op._schema.arguments[1:]]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    dim = given.get("dim", 0)
    if name == "unbind":
        return aten.select_scatter.default, (dim, position), {}
    if name == "narrow" and isinstance(given["start"], int):
        return aten.slice_scatter.default, (dim, given["start"], given["start"] + given["length"]), {}
    if name in ("split", "split_with_sizes", "chunk"):
        lengths = [piece.shape[dim] for piece in op(torch.empty(shape, device="meta"), *args, **kwargs)]
        start = sum(lengths[:position])
        return aten.slice_scatter.default, (dim, start, start + lengths[position]), {}
    return None
