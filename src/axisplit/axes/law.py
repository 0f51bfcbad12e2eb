"""What an op does to the axes of its operands: the vocabulary in which every rule is written.

A rule is applied to one node and answers with a `Law`: the dims of its outputs, and for the axes of its inputs one of

    pass     f(concat(a, b)) = concat(f(a), f(b)): the axis goes through to the outputs   (the default)
    reduce   splitting it leaves partial results that a sum over ranks completes
    whole    the op needs all of it

Axes that first appear in the outputs are whole too (the op makes all of them), unless they are `made`.
`linear` lists the groups of operands in which the op is linear: if all operands of one group are partial sums and the
rest are whole, the output is a partial sum. `additive` operands are added after a reduction (a bias): where the op
reduces a split axis they count once, on one rank only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from axisplit.axes.expression import Axes, Axis
from axisplit.capture.graph import Graph, Node, Ref

if TYPE_CHECKING:
    import torch

Dims = tuple[Axis, ...]


class LocalSize(Protocol):
    """A rank's part of an axis: how many indices, and its first one if they are one range, which only rules of look-ups
    (`Law.lookup`) may ask for.
    """

    def __call__(self, axis: Axis) -> int: ...

    def start(self, axis: Axis) -> int | None: ...


@dataclass
class Law:
    """How one node treats its axes. Positions count the node's tensor operands in order."""

    family: str
    outputs: list[Dims]
    whole: list[Axis] = field(default_factory=list)
    reduce: list[Axis] = field(default_factory=list)
    mean: bool = False  # the reduction divides by its own length: partial results carry a weight
    lookup: Axis | None = None  # the table axis of an embedding: ids outside a rank's range contribute nothing
    linear: tuple[frozenset[int], ...] = ()
    additive: frozenset[int] = frozenset()
    rewrites: dict[int, Callable[[LocalSize], Any]] = field(default_factory=dict)  # argument position -> local value
    no_effect: dict[str, Callable[[LocalSize], bool]] = field(
        default_factory=dict
    )  # argument -> when it changes nothing
    multiples: list[tuple[Axis, int]] = field(default_factory=list)  # parts the kernel takes only in multiples
    made: list[Axis] = field(default_factory=list)  # new axes of the outputs of which a rank can make its part
    fits: list[Callable[[LocalSize], bool]] = field(default_factory=list)  # what a rank's parts must satisfy
    reason: str = ""  # why axes are needed whole, in words
    assumption: str = ""  # what is taken for granted, where the law is no instance of a stated rule


class NodeView:
    """A node as a rule sees it: operand dims, arguments by position or name, output shapes."""

    def __init__(self, axes: Axes, graph: Graph, node: Node, dims: Mapping[int, Dims]) -> None:
        self.axes, self.node = axes, node
        self._graph, self._dims = graph, dims
        self.operands = list(node.inputs())
        schema = node.op._schema.arguments
        self._names = {argument.name: position for position, argument in enumerate(schema)}
        self._defaults = [argument.default_value if argument.has_default_value() else None for argument in schema]

    def position(self, name: str) -> int:
        return self._names[name]

    def argument(self, key: str | int) -> Any:
        """An argument by name or position, its default where it was not given."""
        position = self._names.get(key) if isinstance(key, str) else key
        if position is None:
            return None
        if position < len(self.node.args):
            return self.node.args[position]
        name = self.node.op._schema.arguments[position].name
        return self.node.kwargs.get(name, self._defaults[position])

    def constant(self, argument: Ref) -> tuple[int, ...] | None:
        """The numbers of a small integer tensor that is written in the model's Python, if it is one."""
        numbers = self._graph.values[argument.value].constant or ()
        return tuple(n for n in numbers if type(n) is int) or None

    def dtype_bytes(self, argument: Ref) -> int:
        return self._graph.values[argument.value].dtype.itemsize

    def dtypes(self) -> tuple[torch.dtype, ...]:
        """Dtypes of the operands."""
        return tuple(self._graph.values[value].dtype for value in self.operands)

    def operand_shapes(self) -> list[tuple[int, ...]]:
        return [self._graph.values[value].shape for value in self.operands]

    def has(self, name: str) -> bool:
        return name in self._names

    def dims(self, argument: Any) -> Dims:
        """Dims of a tensor argument (a `Ref`, or an argument's name or position)."""
        if not isinstance(argument, Ref):
            argument = self.argument(argument)
        return self._dims[argument.value]

    def shape(self, argument: Any) -> tuple[int, ...]:
        if not isinstance(argument, Ref):
            argument = self.argument(argument)
        shape: tuple[int, ...] = self._graph.values[argument.value].shape
        return shape

    def operand_dims(self) -> list[Dims]:
        return [self._dims[value] for value in self.operands]

    def output_shapes(self) -> list[tuple[int, ...]]:
        return [self._graph.values[value].shape for value in self.node.outputs]

    def fresh(self, shape: Sequence[int]) -> Dims:
        return tuple(self.axes.leaf(size) for size in shape)

    def dim(self, value: Any, ndim: int) -> int:
        return int(value) % ndim if ndim else 0


Rule = Callable[[NodeView], Law]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ops by base name (`add`) or by name and overload (`add.Tensor`)."""

    def register(function: Rule) -> Rule:
        for name in names:
            assert name not in RULES, f"two rules for {name}"
            RULES[name] = function
        return function

    return register


def find_rule(op: Any) -> Rule | None:
    """The rule of one of torch's own ops: its overload's, else its name's. A name means nothing elsewhere."""
    if op.namespace != "aten":
        return None
    name = op._opname
    return RULES.get(f"{name}.{op._overloadname}") or RULES.get(name)


def unknown(view: NodeView, why: str = "") -> Law:
    """No rule: every axis is needed whole."""
    whole = [axis for dims in view.operand_dims() for axis in dims]
    reason = f"no rule for {view.node.name}" + (f": {why}" if why else "")
    return Law("unknown", [view.fresh(s) for s in view.output_shapes()], whole, reason=reason, assumption=reason)
