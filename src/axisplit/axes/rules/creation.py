"""Tensors made from nothing: constant fills can be made in parts, counters and random numbers are made whole."""

from __future__ import annotations

from axisplit.axes.law import Law, NodeView, rule


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "scalar_tensor")
def constant(view: NodeView) -> Law:
    """The same value at every index: a rank can make its own part."""
    (shape,) = view.output_shapes()
    dims = view.fresh(shape)
    law = Law("creation", [dims])
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
    "one_hot",
    "bucketize",
    "searchsorted",
    "nonzero",
    "unique",
    "_unique2",
    "bincount",
    "histc",
    "isin",
    "multinomial",
    "masked_select",
    "meshgrid",
    "tensor",
)
def counted(view: NodeView) -> Law:
    """Values that depend on the index: made whole, then cut. Dims of the operands pass where the result keeps them."""
    (shape, *others) = view.output_shapes()
    operands, passing = view.operand_dims(), view.node.op._opname in ("one_hot", "bucketize", "searchsorted", "isin")
    if not passing or not operands:
        whole = [axis for dims in operands for axis in dims]
        fresh = [view.fresh(s) for s in (shape, *others)]
        return Law("creation", fresh, whole + [axis for dims in fresh for axis in dims], reason="it is counted from 0")
    source = operands[-1] if view.node.op._opname == "searchsorted" else operands[0]
    dims = tuple(
        source[d] if d < len(source) and source[d].size == s else view.axes.leaf(s) for d, s in enumerate(shape)
    )
    whole = [axis for o in operands if o is not source for axis in o] + list(dims[len(source) :])
    return Law("creation", [dims], whole, reason="it is counted from 0")
