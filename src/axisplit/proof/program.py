"""Program matching: the program a rank really issues is the split of the whole program, op for op.

The lowered module is traced like the whole one. Walking both in step, every op of the rank must be the whole model's
next op, each tensor operand must be the split program's value in the state that the op's strategy needs, every other
argument must be the rank's own (sizes rewritten by the rule, all else equal), and results must have the rank's shapes.
Ops of axisplit stand between: each must convert a value from the state it is in along the plan.

    state of the walk: value of the rank's program -> values of the whole program that it is, with their states

So a rewritten attribute that also feeds another op, a counter that starts at 0 on rank 1, or a missing or doubled
reduction is a mismatch, found at its op.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from axisplit.capture.graph import Graph, Node, Ref
from axisplit.capture.record import Recording
from axisplit.lower.decision import Decision, Parts
from axisplit.runtime.sites import Site
from axisplit.solve.cotangents import VARIED
from axisplit.solve.states import PARTIAL, WHOLE, Strategy

READ_ROUNDING = 1e-5  # some hundred roundings of float32
Traced = Graph | Recording  # a rank's program, or as much of it as was traced


@dataclass(frozen=True)
class Mismatch:
    """The first op at which a rank's program is not the split program."""

    rank: int
    node: int | None  # of the whole graph
    reason: str
    argument: bool = False  # an argument other than the split program's
    raised: str | None = None  # the module whose Python (not an op of it) raised in front of the op
    reads: tuple[int, ...] = ()  # values of the whole graph that an op reads which does not belong there

    def __str__(self) -> str:
        return f"rank {self.rank}: {self.reason}"


class Walk:
    """Checks a rank's nodes one by one. What is known beforehand of leaves and ops is a subclass's part."""

    uncut = WHOLE  # what a value in parts is whose length does not divide

    def __init__(self, parts: Parts, rank: int) -> None:
        self.parts, self.whole, self.rank = parts, parts.graph, rank
        # a number that Python read off a tensor is in its last digits another on a rank
        self.rounding = READ_ROUNDING if any(not node.outputs for node in self.whole.nodes) else 0.0
        self.position = 0
        self._walked = 0  # nodes of the rank's program
        self.bound: set[int] = set()
        self.whole_of: dict[int, list[tuple[int, str]]] = defaultdict(list)
        self._viewed: dict[int, int] = {}  # the rank's own views -> what they began with
        self.mismatch: Mismatch | None = None

    def held(self, value: int) -> Iterable[str]:
        """The states in which a parameter or buffer is held."""
        raise NotImplementedError

    def ways(self, node: Node) -> Sequence[Strategy]:
        """The strategies by which a node of the whole program may run."""
        raise NotImplementedError

    def becomes(self, node: Node, value: int, state: str) -> Iterable[str]:
        """The states that an op of axisplit on the rank makes of a value in a state."""
        kind = node.op._opname
        if kind == "all_reduce" and state in (PARTIAL, "scaled"):
            return [WHOLE]
        if kind == "scale" and state[0] == "M":
            return ["scaled"]
        if kind == "all_gather" and state[0] == "S":
            return [WHOLE]
        if (kind == "only_first" and state == WHOLE) or (kind == "pad" and state[0] == "S"):
            return [PARTIAL]
        if kind in ("enter", "leave") and state == WHOLE:
            return [WHOLE]
        if kind == "localize" and state == WHOLE:
            return ["localized"]
        if kind == "mask_rows" and state == "looked up":
            return [PARTIAL]
        return []

    def fitted(self, node: Node, strategies: Sequence[Strategy]) -> None:
        """Hears which of its ways a node can have run by."""

    def bind(self, value: int, state: str, local: int) -> None:
        self.bound.add(value)
        self.whole_of[local] += [(value, same) for same in self.parts.same_states(value, state, self.uncut)]

    def bind_leaves(self, local: Traced) -> None:
        """Parameters, buffers and inputs are the same by name; inputs of later phases come with them."""
        names = {} if self._walked else {**local.parameters, **local.buffers}
        for name, value in {**self.whole.parameters, **self.whole.buffers}.items() if names else ():
            for state in self.held(value):
                self.bind(value, state, names[name])
        inputs = {v.name: v.index for v in local.values if v.origin == "input"}
        for info in self.whole.values:
            if info.origin == "input" and info.name in inputs and info.index not in self.bound:
                self.bind(info.index, WHOLE, inputs[info.name])

    def run(self, local: Graph) -> Mismatch | None:
        """Walk a rank's whole graph. None if it is the split program."""
        return self.follow(local) or self.finish(local)

    def follow(self, local: Traced) -> Mismatch | None:
        """Walk over what the rank issued since the last time, so that tracing need not go on behind a mismatch."""
        self.bind_leaves(local)
        for node in local.nodes[self._walked :]:
            if node.op.namespace == "axisplit":
                self._conversion(node)
            elif not self._step(node, local):
                return self.mismatch
        self._walked = len(local.nodes)
        return None

    def finish(self, local: Graph) -> Mismatch | None:
        """Whether a program that was followed to its end is all of the split program."""
        if self.position != len(self.whole.nodes):
            missing = self.whole.nodes[self.position]
            return Mismatch(self.rank, missing.index, f"{_place(missing)} is not issued")
        return self._outputs(local)

    def _conversion(self, node: Node) -> None:
        """An axisplit op: its result is the same value in another state."""
        source = next(node.inputs())
        (output,) = node.outputs
        for value, state in list(self.whole_of[source]):
            for made in self.becomes(node, value, state):
                self.bind(value, made, output)

    def _step(self, node: Node, local: Traced) -> bool:
        if self.position >= len(self.whole.nodes):
            return self._fail(None, f"{_place(node)} is issued after the whole program's end")
        if node.op is not self.whole.nodes[self.position].op:
            self._skip_idle(node)
        if node.op is not self.whole.nodes[self.position].op and self._is_idle(node, local):
            return True
        whole = self.whole.nodes[self.position]
        self.position += 1
        if node.op is not whole.op:
            reads = tuple({value: None for given in node.inputs() for value, _ in self.whole_of[given]})
            reason = f"{node.name} is issued in {node.module or 'the model'} where {whole.name} belongs"
            self.mismatch = Mismatch(self.rank, whole.index, reason, reads=reads)
            return False
        if len(list(whole.inputs())) != len(list(node.inputs())):
            return self._fail(whole, f"{node.name} has another number of operands")
        if len(whole.outputs) != len(node.outputs):
            return self._fail(whole, f"{_place(node)} has {len(node.outputs)} results")
        for value, given in zip(whole.inputs(), node.inputs(), strict=True):
            if self.whole.values[value].origin == "constant" and value not in self.bound:
                if self.whole.values[value].constant != local.values[given].constant:
                    return self._fail(whole, f"{_place(node)} has {local.values[given].constant} written into it")
                self.bind(value, WHOLE, given)
        return self._run_by(whole, node, local)

    def _run_by(self, whole: Node, node: Node, local: Traced) -> bool:
        """Bind the results of every way in which the op can have run; a failure if there is none."""
        fitting, reason, argument = [], "", False
        for strategy in self.ways(whole):
            unread = self.unread(whole, node, strategy)
            other = "" if unread else self._differs(whole, node, strategy)
            wrong = unread or other or self._misshapen(whole, node, strategy, local)
            if not wrong:
                fitting.append(strategy)
            elif not unread or not reason:
                reason, argument = wrong, bool(other)
        self.fitted(whole, fitting)
        for strategy in fitting:
            self._bind_outputs(whole, node, strategy)
        return bool(fitting) or self._fail(whole, reason, argument)

    def unread(self, whole: Node, node: Node, strategy: Strategy) -> str:
        """Which operand is not the split program's value in the state that a strategy needs; "" if all are."""
        for value, given, state in zip(whole.inputs(), node.inputs(), strategy.inputs, strict=True):
            wanted = "localized" if state[0] == "I" else state
            if (value, wanted) not in self.whole_of[given]:
                found = ", ".join(f"%{v} in {s}" for v, s in self.whole_of[given]) or "no value of the split program"
                return f"{_place(node)} reads {found}, needed %{value} in {wanted}"
        return ""

    def _skip_idle(self, node: Node) -> None:
        """Pass over views of the whole program that change nothing on this rank's part, where the rank's Python leaves
        them out (`if n_rep == 1: return x`): views that keep the order of elements, back to the shape they began with.
        """
        start, moved = self.position, dict[tuple[int, str], tuple[int, str, tuple[int, ...]]]()
        while self.position < len(self.whole.nodes) and self.whole.nodes[self.position].op is not node.op:
            whole = self.whole.nodes[self.position]
            if whole.op._opname not in _ORDER_KEEPING or len(list(whole.inputs())) != 1:
                break
            idle = [strategy for strategy in self.ways(whole) if self._keeps_all(whole, strategy, moved)]
            if not idle:
                break
            self.fitted(whole, idle)
            self.position += 1
        else:
            return
        if self.position < len(self.whole.nodes) and self.whole.nodes[self.position].op is not node.op:
            self.position = start

    def _is_idle(self, node: Node, local: Traced) -> bool:
        """Whether an op of the rank alone only views what it has (`if kv_heads == 1: k = k.squeeze(1)`, to be expanded
        again): views that keep the order of elements; back in the shape that they began with, they are that value.
        """
        if node.op._opname not in _ORDER_KEEPING or len(list(node.inputs())) != 1:
            return False
        (source,), (output,) = node.inputs(), node.outputs
        origin = self._viewed.get(source, source)
        shape, began = local.values[output].shape, local.values[origin].shape
        if _count(shape) != _count(began):
            return False
        self._viewed[output] = origin
        if shape == began:
            self.whole_of[output] = list(self.whole_of[origin])
        return True

    def _keeps_all(
        self, whole: Node, strategy: Strategy, moved: dict[tuple[int, str], tuple[int, str, tuple[int, ...]]]
    ) -> bool:
        """Whether a view has as many elements on this rank as what it began with; back in its shape it is that."""
        source, output = next(whole.inputs()), whole.outputs[0]
        held, made = strategy.inputs[0], strategy.outputs[0]
        shape = self.parts.local_shape(source, held, self.rank)
        origin, first, shape = moved.get((source, held), (source, held, shape))
        after = self.parts.local_shape(output, made, self.rank)
        if _count(after) != _count(shape):
            return False
        moved[output, made] = (origin, first, shape)
        if after == shape:
            for local in [x for x, known in self.whole_of.items() if (origin, first) in known]:
                self.bind(output, made, local)
        return True

    def _differs(self, whole: Node, node: Node, strategy: Strategy) -> str:
        """Which argument is not the rank's own; "" if all are."""
        wanted = _filled(whole, *self.parts.local_arguments(whole, strategy, self.rank))
        given = _filled(node, node.args, node.kwargs)
        idle = self.parts.without_effect(whole, strategy, self.rank)
        for name, left in wanted.items():
            if name not in idle and not _same(left, given[name], self.rounding):
                return f"{_place(node)} has {name} {given[name]}, needed {left}"
        return ""

    def _misshapen(self, whole: Node, node: Node, strategy: Strategy, local: Traced) -> str:
        """Which result has not the rank's shape or the whole's dtype; "" if all have."""
        for value, made, state in zip(whole.outputs, node.outputs, strategy.outputs, strict=True):
            shape = self.parts.local_shape(value, state, self.rank)
            found = local.values[made].shape
            if shape != found:
                return f"{_place(node)} makes {list(found)}, needed {list(shape)}"
            if self.whole.values[value].dtype != local.values[made].dtype:
                return f"{_place(node)} makes another dtype"
        return ""

    def _bind_outputs(self, whole: Node, node: Node, strategy: Strategy) -> None:
        looks_up = any(state[0] == "I" for state in strategy.inputs)
        for value, made, state in zip(whole.outputs, node.outputs, strategy.outputs, strict=True):
            self.bind(value, "looked up" if looks_up else state, made)

    def _outputs(self, local: Graph) -> Mismatch | None:
        given = dict(local.outputs)
        for path, value in self.whole.outputs:
            kept = self.whole.values[value]
            if kept.origin == "constant" and value not in self.bound and path in given:  # no op reads it
                made = local.values[given[path]]
                if replace(made, index=kept.index) == kept:
                    continue
            if (value, WHOLE) not in self.whole_of[given.get(path, -1)]:
                return Mismatch(self.rank, None, f"output {path} is not the whole value")
        return None

    def _fail(self, node: Node | None, reason: str, argument: bool = False) -> bool:
        self.mismatch = Mismatch(self.rank, None if node is None else node.index, reason, argument)
        return False


class DecidedWalk(Walk):
    """A walk along a decision: one state for each leaf, one strategy for each op."""

    def __init__(self, decision: Decision, rank: int) -> None:
        super().__init__(decision, rank)
        self.decision = decision

    def held(self, value: int) -> Iterable[str]:
        return [self.decision.made_in(value)]

    def ways(self, node: Node) -> Sequence[Strategy]:
        return [self.decision.strategy(node)]

    def becomes(self, node: Node, value: int, state: str) -> Iterable[str]:
        if (node.op._opname, state) in (("take", WHOLE), ("reduce_scatter", PARTIAL)):
            return {needed for _, _, needed in self.decision.uses(value) if needed[0] == "S"}
        return super().becomes(node, value, state)


class FlowWalk(DecidedWalk):
    """A walk along a decision with the states of its cotangents: WHOLE and VARIED are told apart (`lower.cotangents`),
    so that each `enter` and `leave`, and each collective's backward, is where it was decided.
    """

    uncut = VARIED

    def __init__(self, decision: Decision, rank: int, sites: Iterable[Site]) -> None:
        super().__init__(decision, rank)
        self._partial = {site.name: site.partial for site in sites}

    def held(self, value: int) -> Iterable[str]:
        return [self.decision.flows_from(value)]

    def bind(self, value: int, state: str, local: int) -> None:
        chosen = self.decision.cotangents
        idle = chosen is not None and value not in chosen.values  # without a cotangent, R and V are one
        for known in (WHOLE, VARIED) if idle and state in (WHOLE, VARIED) else (state,):
            super().bind(value, known, local)

    def ways(self, node: Node) -> Sequence[Strategy]:
        wanted = dict[int, str]()
        for value in set(node.inputs()):
            wanted.update({at: state for user, at, state in self.decision.flows_to(value) if user is node})
        inputs = tuple(wanted[position] for position, _ in enumerate(node.inputs()))
        outputs = tuple(map(self.decision.flows_from, node.outputs))
        return [replace(self.decision.strategy(node), inputs=inputs, outputs=outputs)]

    def becomes(self, node: Node, value: int, state: str) -> Iterable[str]:
        kind, site = node.op._opname, str(node.args[-1]).partition("/")[2]
        whole = VARIED if self._partial[site] else WHOLE
        if kind == "enter":
            return [VARIED] if state == WHOLE else []
        if kind == "leave":
            return [WHOLE] if state == VARIED else []
        if kind in ("take", "only_first", "localize"):
            return super().becomes(node, value, WHOLE) if state == whole else []
        return [whole if made == WHOLE else made for made in super().becomes(node, value, state)]


def _place(node: Node) -> str:
    return f"{node.name} in {node.module or 'the model'}"


_ORDER_KEEPING = {"unsqueeze", "squeeze", "view", "reshape", "expand", "flatten", "unflatten", "_unsafe_view"}


def _count(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def _filled(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, defaults included (dispatch drops arguments that equal their defaults)."""
    schema = node.op._schema.arguments
    found = {a.name: a.default_value if a.has_default_value() else None for a in schema}
    found.update(zip((a.name for a in schema), args, strict=False))
    return {**found, **kwargs}


def _same(left: Any, right: Any, rounding: float = 0.0) -> bool:
    """Whether two arguments are alike; floats to a relative `rounding`."""
    if isinstance(left, Ref) or isinstance(right, Ref):
        return isinstance(left, Ref) and isinstance(right, Ref)
    if isinstance(left, (tuple, list)):
        same_kind = isinstance(right, (tuple, list)) and len(left) == len(right)
        return same_kind and all(_same(a, b, rounding) for a, b in zip(left, right, strict=True))
    if type(left) is type(right) is float:
        return left == right or math.isclose(left, right, rel_tol=rounding)
    return bool(type(left) is type(right) or (isinstance(left, int) and isinstance(right, int))) and left == right
