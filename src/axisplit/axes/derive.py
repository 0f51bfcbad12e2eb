"""Graph -> Axes: walk the graph once, apply each op's rule, and let the union-find do the rest.

`derive_axes` gives every dim of every value an axis expression and every node its law. Dims of parameters and inputs
start as leaves; all structure comes from the ops.
"""

from __future__ import annotations

from dataclasses import dataclass

from axisplit.axes import rules
from axisplit.axes.expression import Axes, Axis
from axisplit.axes.law import Dims, Law, NodeView, find_rule, unknown
from axisplit.capture.graph import Graph

assert rules  # importing it registers the rules


@dataclass
class Derived:
    """Axis expressions of all dims, and each node's law."""

    graph: Graph
    axes: Axes
    dims: dict[int, Dims]
    laws: list[Law]

    def leaves(self, value: int) -> set[Axis]:
        return {leaf for axis in self.dims[value] for leaf in self.axes.leaves(axis)}

    def show(self, value: int) -> str:
        return "[" + ", ".join(self.axes.show(axis) for axis in self.dims[value]) + "]"


def derive_axes(graph: Graph) -> Derived:
    """Axis expressions for every dim of a graph."""
    axes = Axes()
    dims: dict[int, Dims] = {}
    laws: list[Law] = []
    for value in graph.values:
        if value.origin != "node":
            dims[value.index] = tuple(axes.leaf(size) for size in value.shape)
    for node in graph.nodes:
        view = NodeView(axes, graph, node, dims)
        law = (find_rule(node.op) or unknown)(view)
        for output, found in zip(node.outputs, law.outputs, strict=True):
            sizes = tuple(axis.size for axis in found)
            assert sizes == graph.values[output].shape, (
                f"{node.name}: rule says {sizes}, op {graph.values[output].shape}"
            )
            dims[output] = found
        laws.append(law)
    return Derived(graph, axes, dims, laws)
