"""Ops that reduce dims. Sums of parts add up; a mean of parts needs weights; a maximum needs its own reduction."""

from __future__ import annotations

from axisplit.axes.expression import Axis
from axisplit.axes.law import Dims, Law, NodeView, rule
from axisplit.axes.rules.pointwise import pointwise

LINEAR = (frozenset({0}),)


def reduced_dims(view: NodeView) -> list[int]:
    """The dims an op reduces: its `dim` argument, all of them where it is None or absent."""
    count = len(view.dims(0))
    chosen = view.argument("dim") if view.has("dim") else None
    if isinstance(chosen, int):
        chosen = [chosen]
    return sorted({view.dim(d, count) for d in chosen}) if chosen else list(range(count))


def _remaining(view: NodeView, gone: list[int]) -> Dims:
    keep = bool(view.has("keepdim") and view.argument("keepdim"))
    dims: list[Axis] = []
    for position, axis in enumerate(view.dims(0)):
        if position not in gone:
            dims.append(axis)
        elif keep:
            dims.append(view.axes.leaf(1))
    return tuple(dims)


@rule("sum", "mean", "nansum")
def total(view: NodeView) -> Law:
    gone = reduced_dims(view)
    reduce = [view.dims(0)[d] for d in gone]
    mean = view.node.op._opname == "mean"
    return Law(
        "reduction",
        [_remaining(view, gone)],
        reduce=reduce,
        mean=mean,
        linear=LINEAR if view.node.op._opname != "nansum" else (),
    )


@rule(
    "amax",
    "amin",
    "max",
    "min",
    "argmax",
    "argmin",
    "any",
    "all",
    "prod",
    "var",
    "std",
    "var_mean",
    "std_mean",
    "median",
    "logsumexp",
    "linalg_vector_norm",
    "norm",
    "count_nonzero",
    "mode",
    "aminmax",
    "frobenius_norm",
)
def non_additive(view: NodeView) -> Law:
    """Reductions that a sum over ranks does not complete: the reduced dims are needed whole."""
    if len(view.operands) > 1:  # the larger or smaller of two, element by element
        return pointwise(view)
    gone = reduced_dims(view)
    outputs = [_remaining(view, gone)] * len(view.output_shapes())
    name = view.node.op._opname
    return Law("reduction", outputs, [view.dims(0)[d] for d in gone], reason=f"{name} needs all of it")
