"""Graph -> Axes: walk the graph once, apply each op's rule, and let the union-find do the rest.

`derive_axes` gives every dim of every value an axis expression and every node its law. Dims of parameters and inputs
start as leaves; all structure comes from the ops. The dims of one parameter stay different indices: what would make
them one (the residual around a square matrix) is refused where they meet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from axisplit.axes import rules
from axisplit.axes.discover import discovered
from axisplit.axes.expression import Axes, Axis
from axisplit.axes.law import Dims, Law, NodeView, find_rule
from axisplit.axes.register import registered
from axisplit.capture.graph import Graph

assert rules  # importing it registers the rules


@dataclass
class Derived:
    """Axis expressions of all dims, and each node's law."""

    graph: Graph
    axes: Axes
    dims: dict[int, Dims]
    laws: list[Law]
    memo: dict[tuple[object, ...], Any] = field(default_factory=dict, repr=False)  # what others work out of it, once

    def leaves(self, value: int) -> frozenset[Axis]:
        """The leaves that occur in a value's dims."""
        key = ("leaves", value)
        if key not in self.memo:
            self.memo[key] = frozenset(leaf for axis in self.dims[value] for leaf in self.axes.leaves(axis))
        found: frozenset[Axis] = self.memo[key]
        return found

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
    for parameter in dict.fromkeys(graph.parameters.values()):
        for a, b in combinations([axis for axis in dims[parameter] if axis.size > 1], 2):
            axes.keep_apart(a, b)
    for node in graph.nodes:
        view = NodeView(axes, graph, node, dims)
        law = law_of_node(view)
        for output, found in zip(node.outputs, law.outputs, strict=True):
            sizes = tuple(axis.size for axis in found)
            assert sizes == graph.values[output].shape, (
                f"{node.name}: rule says {sizes}, op {graph.values[output].shape}"
            )
            dims[output] = found
        law.whole = [*law.whole, *_new_axes(axes, view, law)]
        laws.append(law)
    axes.freeze()
    return Derived(graph, axes, dims, laws)


def law_of_node(view: NodeView) -> Law:
    """By the rule that is built in, else registered, else discovered by trial, else everything is whole."""
    rule = find_rule(view.node.op)
    return rule(view) if rule is not None else registered(view) or discovered(view)


def _new_axes(axes: Axes, view: NodeView, law: Law) -> list[Axis]:
    """Axes that the op makes, and that it cannot make in parts."""
    known = {leaf for dims in (*view.operand_dims(), law.made) for axis in dims for leaf in axes.leaves(axis)}
    made = (leaf for dims in law.outputs for axis in dims for leaf in axes.leaves(axis))
    return [leaf for leaf in made if leaf.size > 1 and leaf not in known]
