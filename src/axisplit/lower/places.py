"""Where in the running Python a value can be converted from one state to another.

    output    a module returns it: converted on the way out
    input     a module is called with it: converted on the way in
    result    the expression in the Python that a module runs that computes it is wrapped
    operand   the operand of an expression in the Python that a module runs is wrapped
    lookup    a module that is one table look-up: its indices are made local, rows it does not hold become zero
    call      a call in the Python that a module runs that is one table look-up: the same
    size      an integer argument of a call in the Python that a module runs becomes the rank's part of it (`sizes.py`)

Modules come first; wrapping an expression rewrites one expression in one module's copy of its code (`insert.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import zip_longest
from types import CodeType
from typing import Literal

from axisplit.axes.derive import Derived
from axisplit.capture.graph import Call, Frame, Node
from axisplit.capture.integers import Path
from axisplit.lower.decision import Decision, whole_at_birth
from axisplit.runtime.layout import Layout
from axisplit.runtime.sites import Site
from axisplit.solve.cotangents import VARIED
from axisplit.solve.shards import local_length
from axisplit.solve.states import PARTIAL, WHOLE

Use = tuple[Node, int, str]  # an op, the position of an operand, the state it wants it in
Where = Literal["output", "input", "result", "operand", "lookup", "call", "size"]


@dataclass(frozen=True)
class Place:
    """One point of one module where a chain of steps is applied."""

    module: str
    where: Where
    leaf: str
    steps: tuple[Site, ...]
    way: tuple[Frame, ...] = ()  # from the expression out to the module's own method
    operand: int = -1
    reads: str = ""  # the output of the whole model that is made here and read nowhere inside
    argument: Path = ()
    shares: tuple[tuple[int, int], ...] = ()  # each rank's part of an integer: (numerator, denominator)


@dataclass(frozen=True)
class Refusal:
    """Something of the plan that cannot be put into the model's Python, and what to forbid to get around it."""

    forbid: tuple[str, ...]
    reason: str
    node: int | None = None  # the op at which it is so


Frames = tuple[Frame, ...]
WayTo = Callable[[str, Frames, int, bool, Path], Frames | None]
"""Module, frames, operand, whether a call, argument -> `insert.way_to`."""
IsMethod = Callable[[str, CodeType], bool]


def wrappable(derived: Derived, way_to: WayTo, is_method: IsMethod) -> tuple[set[int], set[tuple[int, int]]]:
    """(values computed by an expression that can be wrapped, operands (node, position) that can be).

    In functions that are no methods of their module, only the ops are offered that sum over an axis of a parameter. All
    of rotary embeddings and attention would make the problem three times as large, and the solver ten times as slow.
    """
    computed, operands = set(), set()
    graph = derived.graph
    weights = graph.made_of(graph.parameters.values())
    for node, after in zip_longest(graph.nodes, graph.nodes[1:]):
        last = after is None or after.issue != node.issue
        if not last or not node.frames:
            continue
        sums = derived.laws[node.index].reduce and not weights.isdisjoint(node.inputs())
        if not sums and not is_method(node.module, node.frames[0].code):
            continue
        if len(node.outputs) == 1 and way_to(node.module, node.frames, -1, False, ()):
            computed.add(node.outputs[0])
        if node.order == 0:
            reads = range(len(list(node.inputs())))
            operands |= {(node.index, p) for p in reads if way_to(node.module, node.frames, p, False, ())}
    return computed, operands


def find_places(decision: Decision, way_to: WayTo) -> Finder:
    """A place for every conversion of the split program, or why there is none.

    `way_to` says through which calls an expression in what a module runs can be wrapped.
    """
    finder = Finder(decision, way_to)
    for value in range(len(decision.graph.values)):
        finder.place_value(value)
    finder.check_consistency()
    return finder


def leaf_of(way: Frames) -> str:
    """Names an expression by the calls that lead to it, outermost first."""
    return ">".join(
        f"{frame.code.co_name}:{frame.instruction}" + (f"/{frame.inner[1]}" if frame.inner else "")
        for frame in reversed(way)
    )


class Finder:
    """Places found, conversions refused, and the states in which values arrive at captured modules."""

    def __init__(self, decision: Decision, way_to: WayTo) -> None:
        self.way_to = way_to
        self.decision, graph = decision, decision.graph
        self.places: dict[tuple[object, ...], Place] = {}
        self.refusals: list[Refusal] = []
        self.decided: dict[tuple[object, ...], set[tuple[int, str, str]]] = defaultdict(set)
        self.producer = graph.producer
        self.returned: dict[int, list[tuple[Call, str]]] = defaultdict(list)
        self.given: dict[int, list[tuple[Call, str]]] = defaultdict(list)
        self.calls: dict[str, list[Call]] = defaultdict(list)
        self.nodes: dict[str, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            self.nodes[node.module].append(node)
        for call in graph.calls:
            self.calls[call.module].append(call)
            for leaf, value in call.outputs:
                self.returned[value].append((call, leaf))
            for leaf, value in call.inputs:
                self.given[value].append((call, leaf))
        self.tied = decision.search.ties.members
        self.measured = {
            (dim.value, dim.position) for n in graph.nodes for _, e in n.traced for dim in e.dims()
        }  # whose sizes Python reads
        self.read = {value for _, value in graph.outputs}
        self.output_path = {value: path.partition(":")[2] for path, value in graph.outputs}
        self.converted: dict[str, set[tuple[int, str, str]]] = defaultdict(set)  # site -> (value, source, target)
        self.arriving: dict[int, str] = {}  # values that are converted before a captured module reads them

    # --- one value ------------------------------------------------------------------------------------------------

    def place_value(self, value: int) -> None:
        source = self.decision.flows_from(value)
        producer = self.producer.get(value)
        uses = self._outside_uses(value, producer)
        if producer is not None and self._is_lookup(producer):
            self._place_lookup(producer)
        uses = [use for use in uses if use[2][0] != "I"]
        targets = {state for _, _, state in uses} | ({WHOLE} if value in self.read else set())
        targets.discard(source)
        if not targets or self.decision.graph.values[value].origin in ("parameter", "buffer"):
            return
        if self._is_idle(value, {source} | targets):
            return
        as_it_is = (value in self.read and source == WHOLE) or any(state == source for _, _, state in uses)
        alike = len(targets) == 1 and not as_it_is
        if alike and self._at_output(value, source, *targets):
            self.arriving[value] = next(iter(targets))
            return
        given = [(use, self._input_of(value, use[0], use[2])) for use in uses if use[2] != source]
        calls = {(found[0].first_node, found[0].module) for _, found in given if found is not None}
        once = source in (WHOLE, VARIED) or len(calls) == 1  # a collective happens once for all that read its result
        if (value not in self.read or source == WHOLE) and once and all(found is not None for _, found in given):
            for (_, _, state), found in given:
                assert found is not None
                self._add(found[0].module, "input", found[1], value, source, state)
                self.arriving[value] = state
            return
        if alike and (self._at_passing(value, source, *targets) or self._at_result(value, source, *targets)):
            self.arriving[value] = next(iter(targets))
            return
        outside = [
            found for found in given if found[0][0].index not in self.decision.captured_in
        ]  # others convert inside
        inside = {self.decision.captured_in[use[0].index] for use, found in given if (use, found) not in outside}
        returned = value in self.read and WHOLE in targets
        if source not in (WHOLE, VARIED) and len(outside) + len(inside) + returned > 1:
            self._whole_at_birth(value, source, uses)
            return
        if returned and not self._at_return(value, source):
            self._refuse(value, source, WHOLE, "it is read from the model's output and used as it is inside")
        self._each_use(value, source, outside)

    def _is_idle(self, value: int, states: AbstractSet[str]) -> bool:
        """Whether states differ in their cotangents only, and the value has none: a mask beside what it masks."""
        chosen = self.decision.cotangents
        return chosen is not None and value not in chosen.values and states <= {WHOLE, VARIED}

    def _each_use(self, value: int, source: str, given: list[tuple[Use, tuple[Call, str] | None]]) -> None:
        """Convert where each op reads the value."""
        for (node, position, state), found in given:
            if found is not None:
                self._add(found[0].module, "input", found[1], value, source, state)
            elif not self._at_operand(value, source, state, node, position):
                reason = f"no place in the Python where {node.name} reads it can be reached"
                self._refuse(value, source, state, reason, node)

    def _whole_at_birth(self, value: int, source: str, uses: list[Use]) -> None:
        """One collective where the value comes to be; uses that want it otherwise convert it again, which sends nothing
        in forward. Where that cannot be, the ops that want a part are refused, or if none does, the conversion.
        """
        reason = "its uses are too far apart to share one collective"
        birth = whole_at_birth({state for _, _, state in uses} | ({WHOLE} if value in self.read else set()))
        inside = self.decision.captured_in
        again = [use for use in uses if use[2] != birth and use[0].index not in inside]
        ways = [(use, self._input_of(value, use[0], use[2])) for use in again]
        stuck = [use for use, found in ways if found is None and (use[0].index, use[1]) not in self._wrapped]
        for node, _, state in stuck:
            key = self.decision.search.ties.node[node.index]
            if state in (WHOLE, VARIED):
                self._refuse(value, birth, state, reason, node)
            else:
                name = self.decision.choice.solution.strategy[key]
                self.refusals.append(Refusal(("run", key, name), reason, node.index))
        if stuck:
            return
        if self._at_output(value, source, birth) or self._at_result(value, source, birth):
            self.arriving[value] = birth
            self._each_use(value, birth, ways)
        else:
            self._refuse(value, source, birth, reason)

    @property
    def _wrapped(self) -> set[tuple[int, int]]:
        return self.decision.search.wrapped

    def _outside_uses(self, value: int, producer: Node | None) -> list[tuple[Node, int, str]]:
        """Uses of a value, without those in the captured module that makes it."""
        inside = self.decision.captured_in
        home = None if producer is None else inside.get(producer.index)
        return [use for use in self.decision.flows_to(value) if home is None or inside.get(use[0].index) != home]

    def _refuse(self, value: int, source: str, target: str, reason: str, node: Node | None = None) -> None:
        """Refuse a conversion, at the op that reads the value so or else the one that makes it."""
        key, node = self.decision.search.ties.value[value], node or self.producer.get(value)
        self.refusals.append(Refusal(("convert", key, source, target), reason, None if node is None else node.index))

    def _is_measured(self, value: int, target: str) -> bool:
        """Whether Python reads the length of the index of the inputs along which a value would be cut: it is cut where
        it is read, behind that.
        """
        if target[0] != "S" or not self.decision.split(target).follows:
            return False
        at = self.decision.layout(value, target).dim
        return any((other, at) in self.measured for other in self.tied[self.decision.search.ties.value[value]])

    def _at_output(self, value: int, source: str, target: str) -> bool:
        """Convert on the way out of the innermost module that returns the value and does not read it."""
        if self._is_measured(value, target):
            return False
        uses = [node.index for node, _, _ in self._outside_uses(value, self.producer.get(value))]
        born = self._born(value)
        for call, leaf in self.returned[value]:
            if self._buried(call) or (self._wraps_result(value) and not self._same_out_of(call, leaf, value)):
                continue
            if call.first_node <= born < call.last_node and all(
                not call.first_node <= u < call.last_node for u in uses
            ):
                self._add(call.module, "output", leaf, value, source, target)
                return True
        return False

    def _alike_at(self, call: Call, leaf: str, value: int) -> bool:
        """Whether every call of the module is given what is to be converted as this value is: a place sees all."""
        given = [found for other in self.calls[call.module] for name, found in other.inputs if name == leaf]
        return all(self._conversions(other) == self._conversions(value) for other in given)

    def _same_out_of(self, call: Call, leaf: str, value: int) -> bool:
        """The same of what every call of the module returns."""
        given = [found for other in self.calls[call.module] for name, found in other.outputs if name == leaf]
        return all(self._conversions(other) == self._conversions(value) for other in given)

    def _conversions(self, value: int) -> tuple[str, frozenset[str]]:
        """The state a value is made in, and those it is read in."""
        states = {state for _, _, state in self.decision.flows_to(value)} | ({WHOLE} if value in self.read else set())
        return self.decision.flows_from(value), frozenset(states)

    def _wraps_result(self, value: int) -> bool:
        node = self.producer.get(value)
        if node is None or value not in self.decision.search.computed or node.index in self.decision.captured_in:
            return False
        return self.way_to(node.module, node.frames, -1, False, ()) is not None

    def _buried(self, call: Call) -> bool:
        """Whether a call is one of a captured module's children, which are not called any more."""
        return any(call.module != m and call.module.startswith(f"{m}." if m else "") for m in self.decision.captured)

    def _born(self, value: int) -> int:
        return self.producer[value].index if value in self.producer else -1

    def _at_return(self, value: int, source: str) -> bool:
        for call, leaf in self.returned[value]:
            if call.module == "":
                self._add("", "output", leaf, value, source, WHOLE)
                return True
        return False

    def _at_result(self, value: int, source: str, target: str) -> bool:
        if not self._wraps_result(value) or self._is_measured(value, target):
            return False
        node = self.producer[value]
        way = self.way_to(node.module, node.frames, -1, False, ())
        assert way is not None, "_wraps_result"
        self._add(node.module, "result", leaf_of(way), value, source, target, way)
        return True

    def _at_passing(self, value: int, source: str, target: str) -> bool:
        """Convert on the way out of a module that returns what it is called with, where the expression that computes
        the value is also run for values that stay as they are (an expert that does nothing, among others).
        """
        key = self.decision.search.ties.value[value]
        if all(self._conversions(other) == self._conversions(value) for other in self.tied[key]):
            return False
        uses = [node.index for node, _, _ in self._outside_uses(value, self.producer.get(value))]
        for call, leaf in self.returned[value]:
            if call.first_node == call.last_node <= min(uses, default=0) and not self._buried(call):
                self._add(call.module, "output", leaf, value, source, target)
                return True
        return False

    def _input_of(self, value: int, node: Node, target: str) -> tuple[Call, str] | None:
        """The outermost module that is called with the value, contains the op, and reads it in no other state."""
        inner = [
            (call, leaf)
            for call, leaf in self.given[value]
            if call.first_node <= node.index < call.last_node
            and not call.first_node <= self._born(value) < call.last_node
        ]
        inner = [(call, leaf) for call, leaf in inner if not self._buried(call)]
        reads = [(node.index, position) for position, operand in enumerate(node.inputs()) if operand == value]
        if self._wraps_result(value) or self._wrapped.issuperset(reads):
            inner = [found for found in inner if self._alike_at(*found, value)]
        several = {id(call) for call, leaf in inner for other, name in inner if other is call and name != leaf}
        inner = [(call, leaf) for call, leaf in inner if id(call) not in several]  # it would no longer be one tensor
        inner.sort(key=lambda found: found[0].first_node - found[0].last_node)
        for call, leaf in inner:
            states = [s for n, _, s in self.decision.flows_to(value) if call.first_node <= n.index < call.last_node]
            if all(state == target for state in states):
                return call, leaf
        return None

    def _at_operand(self, value: int, source: str, target: str, node: Node, position: int) -> bool:
        way = self.way_to(node.module, node.frames, position, False, ())
        if way is None or (node.index, position) not in self.decision.search.wrapped:
            return False
        self._add(node.module, "operand", f"{leaf_of(way)}.{position}", value, source, target, way, position)
        return True

    # --- look-ups -------------------------------------------------------------------------------------------------

    def _is_lookup(self, node: Node) -> bool:
        return any(state[0] == "I" for state in self.decision.strategy(node).inputs)

    def _place_lookup(self, node: Node) -> None:
        indices = list(node.inputs())[1]
        for call in self.decision.graph.calls:
            alone = call.first_node == node.index and call.last_node == node.index + 1
            given = [leaf for leaf, value in call.inputs if value == indices]
            if alone and len(given) == 1 and [v for _, v in call.outputs] == list(node.outputs):
                steps = (Site(f"{call.module}:lookup", "lookup", self._lookup_layout(node)),)
                self.places[call.module, "lookup", given[0]] = Place(call.module, "lookup", given[0], steps)
                return
        layout = self._lookup_layout(node)
        for inner in reversed(range(len(node.frames))):
            way = self.way_to(node.module, node.frames[inner:], -1, True, ())
            if way is not None:
                steps = (Site(f"{node.module}:lookup.{leaf_of(way)}", "lookup", layout),)
                self.places[node.module, "call", leaf_of(way)] = Place(node.module, "call", leaf_of(way), steps, way)
                return
        key = self.decision.search.ties.node[node.index]
        name = self.decision.choice.solution.strategy[key]
        reason = "no call that is the look-up alone can be reached"
        self.refusals.append(Refusal(("run", key, name), reason, node.index))

    def _lookup_layout(self, node: Node) -> Layout:
        state = next(s for s in self.decision.strategy(node).inputs if s[0] == "I")
        return self.decision.layout(next(node.inputs()), "S" + state[1:])

    # --- bookkeeping ----------------------------------------------------------------------------------------------

    def _add(
        self, module: str, where: Where, leaf: str, value: int, source: str, target: str,
        way: Frames = (), operand: int = -1,
    ) -> None:  # fmt: skip
        key = (module, where, leaf)
        steps = self.steps(f"{module or 'model'}:{where}.{leaf}", value, source, target)
        known = self.places.get(key)
        if known is not None and known.steps != steps:
            self._refuse(value, source, target, f"{module} would have to treat {where} {leaf} in two ways")
            return
        reads = "" if self.decision.graph.uses.get(value) else self.output_path.get(value, "")
        self.places[key] = Place(module, where, leaf, steps, way, operand, reads)
        self.decided[key].add((value, source, target))

    def steps(self, name: str, value: int, source: str, target: str) -> tuple[Site, ...]:
        """The sites of a conversion, named after its place."""
        steps: list[Site] = []
        if source[0] == "M":
            steps.append(Site(f"{name}:scale", "scale", weights=self._weights(value, source)))
        layout = self.decision.layout
        if source[0] == "S" and target == PARTIAL:
            steps.append(Site(f"{name}:pad", "pad", layout(value, source)))
        elif source == PARTIAL and target[0] == "S" and self.decision.split(target).follows:
            steps.append(self._following(Site(f"{name}:scatter", "reduce_scatter", layout(value, target)), target))
        elif source == PARTIAL or source[0] == "M":
            steps.append(Site(f"{name}:sum", "all_reduce", partial=target == VARIED))
        elif source[0] == "S":
            gather = Site(f"{name}:gather", "all_gather", layout(value, source), partial=target == VARIED)
            steps.append(self._following(gather, source))
        if target[0] == "S" and not any(site.kind == "reduce_scatter" for site in steps):
            take = Site(f"{name}:take", "take", layout(value, target), partial=source == VARIED)
            steps.append(self._following(take, target))
        elif target == PARTIAL and source[0] != "S":
            steps.append(Site(f"{name}:first", "only_first", partial=source == VARIED))
        elif (source, target) == (WHOLE, VARIED):
            steps.append(Site(f"{name}:enter", "enter", partial=True))
        elif (source, target) == (VARIED, WHOLE):
            steps.append(Site(f"{name}:leave", "leave"))
        for site in steps:
            self.converted[site.name].add((value, source, target))
        return tuple(steps)

    def _following(self, site: Site, state: str) -> Site:
        """The site, with the index of the inputs that it is for, if it is for one."""
        split = self.decision.split(state)
        return replace(site, follows=split.name) if split.follows else site

    def _weights(self, value: int, state: str) -> tuple[float, ...]:
        """Each rank's share of the indices that a mean was taken over."""
        node = self.producer[value]
        law = self.decision.search.derived.laws[node.index]
        axes = self.decision.search.derived.axes
        reduced = axes.product(law.reduce)
        lengths = [local_length(axes, reduced, self.decision.held(state, r)) for r in range(self.decision.num_ranks)]
        return tuple(length / reduced.size for length in lengths)

    def check_consistency(self) -> None:
        """A place at a module acts at every call, what stands in an expression at every run of it: refuse it where some
        call or run wants the value as it is. In expressions only what acts on cotangents is looked at: all else
        is seen in the forward's states.
        """
        for key, place in self.places.items():
            wanted = {value: (source, target) for value, source, target in sorted(self.decided[key])}
            some, states = next(iter(wanted.items()), (-1, ("", "")))
            others: Mapping[int, Node | None]
            if place.where in ("output", "input"):
                others, said = self._passed_at(place), "call"
            elif place.where in ("result", "operand") and {*states} <= {WHOLE, VARIED}:
                others, said = self._run_at(place), "run of an expression"
            else:
                continue
            node = others.get(some) if place.where == "operand" else None
            if not all(value in wanted or self._is_unmoved(value, {*states}) for value in others):
                self._refuse(some, *states, f"another {said} of {place.module} wants it as it is", node)

    def _is_unmoved(self, value: int, states: set[str]) -> bool:
        """Whether a value is the same before and behind a conversion between states."""
        return self._is_idle(value, {*states, self.decision.made_in(value)})

    def _passed_at(self, place: Place) -> dict[int, None]:
        """What all calls of a module return, or are given, at a place's leaf."""
        leaves = [
            leaf
            for call in self.calls[place.module]
            for leaf in (call.outputs if place.where == "output" else call.inputs)
        ]
        return {value: None for leaf, value in leaves if leaf == place.leaf}

    def _run_at(self, place: Place) -> dict[int, Node]:
        """What all runs of an expression make, or read as an operand, each with the op that does."""
        found, last = dict[int, Node](), dict[int, Node]()
        inside, leaf = self.decision.captured_in, leaf_of(place.way)
        for node in self.nodes[place.module]:
            way = node.frames[: len(place.way)]
            if node.index in inside or not way or way[0].code != place.way[0].code or leaf_of(way) != leaf:
                continue
            last[node.issue] = node
            if place.where == "operand" and node.order == 0:
                found.update({v: node for at, v in enumerate(node.inputs()) if at == place.operand})
        if place.where == "operand":
            return found
        return {node.outputs[0]: node for node in last.values() if len(node.outputs) == 1}
