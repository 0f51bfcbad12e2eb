"""Axes whose size follows that of the inputs, although they occur in a weight: nothing to split.

`x + self.positions[: x.shape[1]]` makes the first rows of a table the positions of the input, and the rest of it what
this input is too short for. Both are other rows for another length, so a rank's part of them would be wrong there: the
table's dim stays whole. A size is taken to follow the inputs unless some weight has it that is not cut so (the width of
`x` is the width of a norm).
"""

from __future__ import annotations

from axisplit.axes.derive import Derived
from axisplit.axes.expression import Axis
from axisplit.capture.graph import Node

_CUTS = ("slice", "narrow", "split", "split_with_sizes", "tensor_split", "chunk", "unsafe_split", "unsafe_chunk")


def variable_leaves(derived: Derived) -> frozenset[Axis]:
    """Leaves of weights' dims that are cut to as much as the inputs need, the rest included."""
    if ("variable",) not in derived.memo:
        derived.memo["variable",] = _variable_leaves(derived)
    found: frozenset[Axis] = derived.memo["variable",]
    return found


def _variable_leaves(derived: Derived) -> frozenset[Axis]:
    axes, roots = derived.axes, {*derived.graph.parameters.values(), *derived.graph.buffers.values()}
    weights = derived.graph.made_of(roots)
    cuts = [(_cut_dim(derived, node), node) for node in derived.graph.nodes if _cuts_weight(node, weights)]
    cut = {axes.find(axis) for axis, _ in cuts}
    fixed = {
        leaf for v in roots for axis in derived.dims[v] if axes.find(axis) not in cut for leaf in axes.leaves(axis)
    }
    of_inputs = {leaf for v in derived.graph.values if v.origin == "input" for leaf in derived.leaves(v.index)}
    found = set[Axis]()
    for axis, node in cuts:
        followed = _sizes_read(derived, node, weights) | of_inputs.intersection(axes.leaves(axis))
        if not followed <= fixed:
            found.update(axes.leaves(axis))
    return frozenset(found)


def _cuts_weight(node: Node, weights: set[int]) -> bool:
    return node.op._opname in _CUTS and next(iter(node.inputs())) in weights


def _cut_dim(derived: Derived, node: Node) -> Axis:
    """The dim that an op cuts: of all ops here, `dim` is an argument that is 0 where it is not given."""
    names = [argument.name for argument in node.op._schema.arguments]
    position, dims = names.index("dim"), derived.dims[next(iter(node.inputs()))]
    dim = node.args[position] if position < len(node.args) else node.kwargs.get("dim", 0)
    axis: Axis = dims[dim % len(dims)]
    return axis


def _sizes_read(derived: Derived, node: Node, weights: set[int]) -> set[Axis]:
    """Leaves of the dims of other tensors whose sizes Python computed an op's integers from."""
    read = [dim for _, expression in node.traced for dim in expression.dims() if dim.value not in weights]
    return {leaf for dim in read for leaf in derived.axes.leaves(derived.dims[dim.value][dim.position])}
