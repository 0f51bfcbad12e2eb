"""Tensors made from nothing: constant fills can be made in parts, counters and random numbers are made whole."""

from __future__ import annotations

from axisplit.axes.law import Law, NodeView, rule
from axisplit.capture.graph import Ref


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "scalar_tensor")
def constant(view: NodeView) -> Law:
    """The same value at every index: a rank can make its own part."""
    (shape,) = view.output_shapes()
    dims = view.fresh(shape)
    law = Law("creation", [dims], made=list(dims))
    if view.has("size"):
        law.rewrites[view.position("size")] = lambda local: [local(dim) for dim in dims]
    return law


@rule(
    "arange",
    "linspace",
    "logspace",
    "eye",
    "rand",
    "randn",
    "randint",
    "randperm",
    "tril_indices",
    "triu_indices",
    "hann_window",
    "nonzero",
    "nonzero_numpy",
    "where.default",
    "_unique2",
    "bincount",
    "histc",
    "multinomial",
    "masked_select",
    "meshgrid",
)
def counted(view: NodeView) -> Law:
    """Values or sizes that depend on the index or on all of the operands: made whole, then cut."""
    whole = [axis for dims in view.operand_dims() for axis in dims]
    outputs = [view.fresh(shape) for shape in view.output_shapes()]
    made = [axis for dims in outputs for axis in dims]
    return Law("creation", outputs, whole + made, reason="it is counted from 0")


@rule("rand_like", "randn_like", "bernoulli")
def drawn(view: NodeView) -> Law:
    """Random numbers in another tensor's shape."""
    dims = view.dims(0)
    return Law("creation", [dims], list(dims), reason="random numbers are drawn for the whole tensor")


@rule("one_hot", "bucketize", "isin", "searchsorted")
def looked_up(view: NodeView) -> Law:
    """Each element is looked up in a table on its own: its axes pass, the table's last dim is whole."""
    name = view.node.op._opname
    if name == "one_hot" and view.argument("num_classes") < 0:
        return counted(view)
    element = view.argument("elements" if name == "isin" else "self")
    (shape,), dims = view.output_shapes(), view.dims(element) if isinstance(element, Ref) else ()
    rows = [
        view.dims(o)[:-1] for o in (view.argument("sorted_sequence"), view.argument("sorter")) if isinstance(o, Ref)
    ]
    pairs = [pair for row in rows for pair in zip(dims, row, strict=False)]
    refused = [axis for pair in pairs if not view.axes.unify(*pair) for axis in pair]
    tables = [Ref(value) for value in view.operands if not isinstance(element, Ref) or value != element.value]
    ends = [
        axis for table in tables for axis in (view.dims(table)[-1:] if name == "searchsorted" else view.dims(table))
    ]
    output = (*dims, *view.fresh(shape[len(dims) :]))
    return Law("creation", [output], refused + ends, reason="it is searched")
