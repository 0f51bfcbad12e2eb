"""The captured program of one module: for a module whose own Python cannot be brought to run on parts.

`nn.MultiheadAttention` computes its head size from `query.size(-1)`, which no attribute can change: on such a module
the rank's program (the traced ops, with local sizes and the plan's conversions in between) takes its forward's place.
It is data: ops by name, values by number, sizes as expressions over the sizes of what the module is called with, so it
holds for other batch and sequence lengths. Called in a way that was not traced, it refuses rather than guess.

A module can be captured if what goes in and out are tensors and plain data (no cache), and all it reads is its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from axisplit.axes.expression import Axes, Axis
from axisplit.capture.graph import Call, Graph, Node, Opaque, Ref, refs
from axisplit.capture.integers import flat_integers
from axisplit.capture.provenance import Attribute, Dim, Expression, Operation, TracedInt, apply_operator
from axisplit.capture.trees import map_items
from axisplit.lower.decision import Decision, rewritten, whole_at_birth
from axisplit.runtime.sites import Site
from axisplit.solve.cotangents import VARIED
from axisplit.solve.plan import CapturedPlan, StepPlan
from axisplit.solve.splits import Range
from axisplit.solve.states import WHOLE

_WRITES = ("fill", "index_put")  # what `x[...] = 0.5` becomes: the number has the dtype of x, whatever that is
OFF = "no gradients"  # ends an op of a program that runs where gradients are off
Steps = Callable[[str, int, str, str], tuple[Site, ...]]
Json = Any


def can_capture(graph: Graph, module: str) -> bool:
    """Whether every call of a module takes and returns tensors and plain data, and reads only those and its own; and
    none looks at values, on which its Python may act otherwise in the next call. Sizes among that data must follow what
    it is called with.
    """
    calls = [call for call in graph.calls if call.module == module]
    prefix = f"{module}." if module else ""
    own = {v for name, v in {**graph.parameters, **graph.buffers}.items() if name.startswith(prefix)}
    return bool(calls) and all(_self_contained(graph, call, own) for call in calls)


def _self_contained(graph: Graph, call: Call, own: set[int]) -> bool:
    if _has_opaque(call.arguments) or _has_opaque(call.result):
        return False
    given = set(refs(call.arguments))
    sizes = (n for n in flat_integers((call.arguments, call.result)) if isinstance(n, TracedInt))
    if any(dim.value not in given for size in sizes for dim in size.expression.dims()):
        return False
    known = own | given
    nodes = graph.nodes[call.first_node : call.last_node]
    for node in nodes:
        known |= {v for v in node.inputs() if graph.values[v].constant is not None}
        if (
            _shows_values(graph, node)
            or not set(node.inputs()) <= known
            or not _plain(node.args)
            or not _plain(node.kwargs)
        ):
            return False
        known |= set(node.outputs)
    made = {v for node in nodes for v in node.outputs}
    used_after = {v for n in graph.nodes[call.last_node :] for v in n.inputs()} | {v for _, v in graph.outputs}
    return set(refs(call.result)) <= known and (made & used_after) <= set(refs(call.result))


def _shows_values(graph: Graph, node: Node) -> bool:
    """Whether Python gets a number, or a size, that depends on values."""
    if not node.outputs or (node.op._opname == "where" and len(node.args) == 1):
        return True
    if torch.Tag.dynamic_output_shape not in node.op.tags:
        return False
    if node.op._opname == "index":  # by positions it makes what they are, by a mask as many as are true
        return any(graph.values[v].dtype in (torch.bool, torch.uint8) for v in list(node.inputs())[1:])
    return not (node.op._opname == "one_hot" and len(node.args) > 1 and node.args[1] >= 0)


def _has_opaque(tree: Any) -> bool:
    if isinstance(tree, (tuple, list)):
        return any(map(_has_opaque, tree))
    if isinstance(tree, dict):
        return any(map(_has_opaque, tree.values()))
    return isinstance(tree, Opaque)


def _plain(tree: Any) -> bool:
    if isinstance(tree, (tuple, list)):
        return all(map(_plain, tree))
    if isinstance(tree, dict):
        return all(map(_plain, tree.values()))
    return tree is None or isinstance(tree, (bool, int, float, str, Ref, torch.dtype, torch.device, torch.layout))


def capture_module(
    decision: Decision,
    model: torch.nn.Module,
    module: str,
    arriving: Mapping[int, str],
    steps: Steps,
    attributes: Mapping[Attribute, int],
) -> tuple[CapturedPlan, ...]:
    """The rank programs of every distinct call of a module.

    Args:
        attributes: numbers of the whole model, which sizes that the module takes or returns may be made of.
        arriving: for values from outside that are converted, the state they arrive in.
        steps: (name, value, source, target) -> the sites of a conversion.
    """
    plans: dict[str, CapturedPlan] = {}
    signature = inspect.signature(type(model.get_submodule(module)).forward)
    for number, call in enumerate(c for c in decision.graph.calls if c.module == module):
        plan = _Builder(decision, call, module, arriving, steps, number, attributes).build(signature)
        plans.setdefault(plan.signature, plan)
    return tuple(plans.values())


class _Builder:
    def __init__(
        self,
        decision: Decision,
        call: Call,
        module: str,
        arriving: Mapping[int, str],
        steps: Steps,
        number: int,
        attributes: Mapping[Attribute, int],
    ) -> None:
        self.decision, self.call, self.module, self.steps = decision, call, module, steps
        self.arriving, self.number = arriving, number
        self.sites: dict[str, Site] = {}
        prefix = f"{module}." if module else ""
        named = {**decision.graph.parameters, **decision.graph.buffers}
        self.own = {v: name.removeprefix(prefix) for name, v in named.items() if name.startswith(prefix)}
        made = (v for node in self._nodes for v in node.outputs)
        # counted from 0 here: two calls that do the same have the same program
        self.numbers = {value: n for n, value in enumerate(dict.fromkeys([*refs(call.arguments), *made]))}
        arguments, result = (_sized(tree, attributes, self.numbers) for tree in (call.arguments, call.result))
        self.call = replace(call, arguments=arguments, result=result)
        self.sizes, self.parts = self._input_sizes()
        self.fixed: set[Dim] = set()  # dims of the arguments that must have the sizes they were traced with

    @property
    def _nodes(self) -> tuple[Node, ...]:
        return self.decision.graph.nodes[self.call.first_node : self.call.last_node]

    def _input_sizes(self) -> tuple[dict[Structure, Dim], dict[Axis, Dim]]:
        """(axes that are dims of what the module is called with, and whole there: at run time their sizes are read
        there; pieces of such dims, of which nobody knows how they grow with it).
        """
        axes, cut = self.decision.search.derived.axes, self.decision.cut
        sizes, parts = dict[Structure, Dim](), dict[Axis, Dim]()
        for value in refs(self.call.arguments):
            for position, axis in enumerate(self.decision.search.derived.dims[value]):
                leaves = list(axes.leaves(axis))
                if not any(leaf in cut for leaf in leaves):
                    dim = Dim(self.numbers[value], position)
                    sizes.setdefault(_structure(axes, axis), dim)
                    parts.update((leaf, dim) for leaf in leaves if leaf is not axes.find(axis))
        return sizes, parts

    def build(self, signature: inspect.Signature) -> CapturedPlan:
        args, kwargs = self.call.arguments
        bound = signature.bind(None, *args, **kwargs)
        bound.apply_defaults()
        programs = tuple(tuple(self._program(rank)) for rank in range(self.decision.num_ranks))
        arguments = {name: _encode(value, self._argument) for name, value in list(bound.arguments.items())[1:]}
        steps = tuple(step_plan(site) for site in self.sites.values())
        result = _encode(self.call.result, lambda value: self._fixed(value) or self._reference(value))
        return CapturedPlan(self.module, self.call.training, arguments, result, programs, steps)

    def _argument(self, value: int) -> Json:
        shape = self.decision.graph.values[value].shape
        sizes = [[d.position, shape[d.position]] for d in self.fixed if d.value == self.numbers[value]]
        return {**self._reference(value), "sizes": sorted(sizes)} if sizes else self._reference(value)

    def _reference(self, value: int) -> Json:
        return {"%": self.numbers[value]}

    def _program(self, rank: int) -> list[Json]:
        ops = list[Json]()
        ready: dict[tuple[int, str], Json] = {}
        for node in self._nodes:
            operands = [
                self._operand(value, self._wanted(node, position, value), ready, ops)
                for position, value in enumerate(node.inputs())
            ]
            operands = [self._alike(v, o, node, operands) for v, o in zip(node.inputs(), operands, strict=True)]
            arguments = self._arguments(node, rank)
            waiting = iter(operands)
            encoded = [_encode(tree, lambda _, it=waiting: next(it)) for tree in arguments]  # type: ignore[misc]
            ops.append([node.name, *encoded, [self.numbers[value] for value in node.outputs], *([OFF] * node.detached)])
            ready.update({(value, self.decision.flows_from(value)): self._reference(value) for value in node.outputs})
        return ops

    def _wanted(self, node: Node, position: int, value: int) -> str:
        uses = self.decision.flows_to(value)
        return next(state for user, at, state in uses if user is node and at == position)

    def _operand(self, value: int, state: str, ready: dict[tuple[int, str], Json], ops: list[Json]) -> Json:
        """A value in the state an op needs, converted by sites in between where it is not in it yet."""
        fixed = self._fixed(value)
        if fixed is not None:
            return fixed
        made = self.arriving.get(value, self.decision.flows_from(value))
        ready.setdefault((value, made), self._reference(value))
        for source, target in pairwise((made, *self._between(value, made, state), state)):
            if (value, target) not in ready:
                ready[value, target] = self._converted(value, source, target, ready[value, source], ops)
        return ready[value, state]

    def _fixed(self, value: int) -> Json | None:
        """What no op of the call makes and nobody gives: a parameter, a buffer, numbers; None for all else."""
        info = self.decision.graph.values[value]
        if value in self.own:
            return {"own": self.own[value]}
        if info.constant is None:
            return None
        return {
            "constant": list(info.constant),
            "shape": list(info.shape),
            "dtype": str(info.dtype).removeprefix("torch."),
        }

    def _between(self, value: int, made: str, state: str) -> tuple[str, ...]:
        """Where ops want a value in several states, one collective makes it whole and the others are made of that."""
        inside = range(self.call.first_node, self.call.last_node)
        wanted = {want for node, _, want in self.decision.flows_to(value) if node.index in inside} - {made}
        birth = whole_at_birth(wanted)
        return (birth,) if made not in (WHOLE, VARIED) and len(wanted) > 1 and state != birth else ()

    def _converted(self, value: int, source: str, target: str, current: Json, ops: list[Json]) -> Json:
        """The result of the sites of one conversion, which are added to the program."""
        name = f"{self.module or 'model'}:captured{self.number}.{value}.{target}"
        for site in self.steps(name, value, source, target):
            self.sites[site.name] = site
            ops.append([f"axisplit.{site.kind}", [current, {"site": site.name}], {"dict": {}}, [site.name]])
            current = {"%": site.name}
        return current

    def _alike(self, value: int, encoded: Json, node: Node, operands: list[Json]) -> Json:
        """A constant with the operand beside it, on whose device it is; written into that operand, of its dtype too."""
        values = self.decision.graph.values
        for other, beside in zip(node.inputs(), operands, strict=True):
            if "constant" in encoded and "constant" not in beside and values[other].dtype == values[value].dtype:
                dtype = None if node.op._opname in _WRITES else encoded["dtype"]
                return {**encoded, "dtype": dtype, "like": beside}
        return encoded

    def _arguments(self, node: Node, rank: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        law, strategy = self.decision.search.derived.laws[node.index], self.decision.strategy(node)
        held = self.decision.held(f"S:{strategy.split}", rank) if strategy.split else {}
        axes = self.decision.search.derived.axes
        local = _Symbolic(axes, held, self.sizes, self.parts, self.fixed)
        bounds = _Symbolic(axes, held, self.sizes, self.parts, set())  # those of a slice hold for every length
        arguments = rewritten(node, law, local, bounds)
        numbers = list(flat_integers(arguments))
        for position, expression in node.traced:
            followed = self._followed(expression, local)
            if position < len(numbers) and followed is not None and followed == numbers[position]:
                numbers[position] = followed
        found: tuple[tuple[Any, ...], dict[str, Any]] = _refilled(arguments, iter(numbers))
        return found

    def _followed(self, expression: Expression | int, local: _Symbolic) -> int | None:
        """What Python computed from tensors' sizes, as a size that follows the inputs' own; None if it does not."""
        if isinstance(expression, Dim):
            return local(self.decision.search.derived.dims[expression.value][expression.position])
        if not isinstance(expression, Operation):
            return expression if isinstance(expression, int) else None
        operands = []
        for operand in expression.operands:
            followed = self._followed(operand, local)
            if followed is None:
                return None
            operands.append(followed)
        traced = tuple(x.expression if isinstance(x, TracedInt) else x for x in operands)
        return TracedInt(apply_operator(expression.symbol, operands), Operation(expression.symbol, traced))


def _refilled(tree: Any, numbers: Iterator[int]) -> Any:
    """The tree with its integers (booleans are none) exchanged for the given ones, in order."""
    if isinstance(tree, int) and not isinstance(tree, bool):
        return next(numbers)
    if isinstance(tree, (tuple, list)):
        return type(tree)(_refilled(item, numbers) for item in tree)
    if isinstance(tree, dict):
        return {key: _refilled(item, numbers) for key, item in tree.items()}
    return tree


Structure = tuple[Any, ...]


def _structure(axes: Axes, axis: Axis) -> Structure:
    """What an axis is made of, down to its leaves: equal for equal axes."""
    axis = axes.find(axis)
    return (axis.form, axis.index) if axis.form == "leaf" else (axis.form, *(_structure(axes, p) for p in axis.parts))


class _Symbolic:
    """Local sizes as integers that remember which input's size they follow."""

    def __init__(
        self,
        axes: Axes,
        held: Mapping[Axis, Range],
        sizes: Mapping[Structure, Dim],
        parts: Mapping[Axis, Dim],
        fixed: set[Dim],
    ) -> None:
        self._axes, self._held, self._sizes, self._parts, self._fixed = axes, held, sizes, parts, fixed

    def __call__(self, axis: Axis) -> int:
        axis = self._axes.find(axis)
        known = self._sizes.get(_structure(self._axes, axis))
        if known is not None:
            return TracedInt(axis.size, known)
        if axis.form == "leaf":
            if axis in self._held:
                start, end = self._held[axis]
                return end - start
            if axis in self._parts:
                self._fixed.add(self._parts[axis])
            return axis.size
        total = 1 if axis.form == "product" else 0
        for part in axis.parts:
            total = total * self(part) if axis.form == "product" else total + self(part)
        return total

    def start(self, axis: Axis) -> int:
        return self._held.get(self._axes.find(axis), (0, 0))[0]


def _encode(tree: Any, reference: Callable[[int], Json]) -> Json:
    """An argument tree as JSON: values, sizes, dtypes and devices are tagged."""
    if isinstance(tree, Ref):
        return reference(tree.value)
    if isinstance(tree, TracedInt):
        return {"size": _encode_expression(tree.expression)}
    if isinstance(tree, tuple):
        return {"tuple": [_encode(item, reference) for item in tree]}
    if isinstance(tree, list):
        return [_encode(item, reference) for item in tree]
    if isinstance(tree, dict):
        return {"dict": {key: _encode(item, reference) for key, item in tree.items()}}
    if isinstance(tree, torch.dtype):
        return {"dtype": str(tree).removeprefix("torch.")}
    if isinstance(tree, torch.device):
        return {"device": True}
    if isinstance(tree, torch.layout):
        return {"layout": str(tree).removeprefix("torch.")}
    return tree


def _encode_expression(expression: Expression | int) -> Json:
    if isinstance(expression, int):
        return int(expression)
    if isinstance(expression, Dim):
        return ["dim", expression.value, expression.position]
    assert isinstance(expression, Operation), "attributes are numbers here (`_sized`)"
    return [expression.symbol, *(_encode_expression(operand) for operand in expression.operands)]


def _sized(tree: Any, attributes: Mapping[Attribute, int], numbers: Mapping[int, int]) -> Any:
    """An argument tree whose sizes are made of the sizes of tensors, by their numbers here, and of numbers where
    attributes were.
    """
    if isinstance(tree, TracedInt):
        expression = _resolved(tree.expression, attributes, numbers)
        return expression if isinstance(expression, int) else TracedInt(tree, expression)
    return map_items(tree, lambda item: _sized(item, attributes, numbers))


def _resolved(
    expression: Expression | int, attributes: Mapping[Attribute, int], numbers: Mapping[int, int]
) -> Expression | int:
    if isinstance(expression, int):
        return expression
    if isinstance(expression, Dim):
        return Dim(numbers[expression.value], expression.position)
    if isinstance(expression, Attribute):
        return int(attributes[expression])
    operands = tuple(_resolved(operand, attributes, numbers) for operand in expression.operands)
    known = [operand for operand in operands if isinstance(operand, int)]
    if len(known) == len(operands):
        return apply_operator(expression.symbol, known)
    return Operation(expression.symbol, operands)


def step_plan(site: Site) -> StepPlan:
    """A site as data."""
    if site.layout is None:
        return StepPlan(site.name, site.kind, weights=site.weights, partial=site.partial)
    layout = site.layout
    lies = (layout.dim, layout.period, layout.ranges)
    return StepPlan(site.name, site.kind, *lies, site.weights, site.partial, site.follows)
