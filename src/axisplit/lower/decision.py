"""A solution read back per node, value and rank: which state everything is in, and what each rank's op looks like."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from axisplit.axes.expression import Axis
from axisplit.axes.law import Law, LocalSize
from axisplit.capture.graph import Graph, Node
from axisplit.runtime.layout import Layout
from axisplit.solve.build import Search, is_whole
from axisplit.solve.cotangents import VARIED, Cotangents
from axisplit.solve.policy import Choice
from axisplit.solve.shards import LocalPart, held_by, layout_of, local_length
from axisplit.solve.splits import Range, Split
from axisplit.solve.states import WHOLE, Strategy, split_state


@dataclass
class Parts:
    """A whole graph with its candidate splits: what any of its ops and values looks like on a rank, for any state."""

    search: Search

    @property
    def graph(self) -> Graph:
        return self.search.derived.graph

    @property
    def num_ranks(self) -> int:
        return self.search.num_ranks

    @cached_property
    def used(self) -> list[Split]:
        """Splits that parts are of."""
        return list(self.search.splits.values())

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """Of each rank, the first one that issues the same ops with the same integers: ranges of every axis are as long
        there, and what an op counts from the start of a rank's part (the padding row of a table) comes to the same.
        """
        derived, first = self.search.derived, dict[object, int]()
        counted = [(law, s) for law in derived.laws if law.lookup is not None and law.rewrites for s in self.used]

        def kind(rank: int) -> object:
            numbers = [
                [rewrite(LocalPart(derived.axes, held_by(split, self.search.keys, rank))) for rewrite in rewrites]
                for rewrites, split in ((law.rewrites.values(), split) for law, split in counted)
            ]
            return tuple(split.lengths[rank] for split in self.used), str(numbers)

        return tuple(first.setdefault(kind(rank), rank) for rank in range(self.num_ranks))

    @property
    def one_of_each(self) -> list[int]:
        """The first rank of each kind."""
        return sorted(set(self.kinds))

    def split(self, state: str) -> Split:
        return self.search.splits[state[2:]]

    def held(self, state: str, rank: int) -> dict[Axis, Range]:
        """Leaf ranges of a rank for values in a state; empty for whole and partial ones."""
        if state[0] not in "SMI" or len(state) < 2:
            return {}
        return held_by(self.split(state), self.search.keys, rank)

    def local_shape(self, value: int, state: str, rank: int) -> tuple[int, ...]:
        """Of the rank's part of a value: alike for all ranks whose ranges are as long."""
        derived = self.search.derived
        shape = derived.graph.values[value].shape
        if state[0] != "S" or is_whole(self.search, value, state):
            return shape
        if self.split(state).follows:
            at = self.layout(value, state).dim
            return (*shape[:at], shape[at] // self.num_ranks, *shape[at + 1 :])
        key = ("shape", value, state, self.split(state).lengths[rank])
        if key not in derived.memo:
            held = self.held(state, rank)
            derived.memo[key] = tuple(local_length(derived.axes, axis, held) for axis in derived.dims[value])
        found: tuple[int, ...] = derived.memo[key]
        return found

    def layout(self, value: int, state: str) -> Layout:
        """How a value in a split state lies on the ranks."""
        found = layout_of(self.search.derived, value, self.split(state), self.search.keys)
        assert found is not None, "the problem offers only states with a layout"
        return Layout(*found)

    def same_states(self, value: int, state: str, whole: str = WHOLE) -> list[str]:
        """The state, and those that are no other for this value: `whole`, and in parts of an index that it has not."""
        if not self._following:
            return [state]
        same = [whole, *(other for other in self._following if is_whole(self.search, value, other))]
        return same if state in same else [state]

    @cached_property
    def _following(self) -> list[str]:
        return [split_state(split.name) for split in self.search.splits.values() if split.follows]

    def local_arguments(self, node: Node, strategy: Strategy, rank: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A node's arguments (references left as they are) as this rank's part of the op needs them."""
        law = self.search.derived.laws[node.index]
        if not strategy.split:
            return node.args, node.kwargs
        held = held_by(self.search.splits[strategy.split], self.search.keys, rank)
        return rewritten(node, law, LocalPart(self.search.derived.axes, held))

    def without_effect(self, node: Node, strategy: Strategy, rank: int) -> set[str]:
        """Arguments of a node that change nothing on a rank's part."""
        law = self.search.derived.laws[node.index]
        held = held_by(self.search.splits[strategy.split], self.search.keys, rank) if strategy.split else {}
        local = LocalPart(self.search.derived.axes, held)
        return {name for name, idle in law.no_effect.items() if idle(local)}


@dataclass
class Decision(Parts):
    """The split program: whole graph + choice. Everything here is a pure function of the two."""

    choice: Choice
    captured: frozenset[str] = frozenset()  # modules that run a captured program
    cotangents: Cotangents | None = None  # None: forward only

    @cached_property
    def captured_in(self) -> dict[int, str]:
        """Node -> the captured module inside which it runs."""
        found: dict[int, str] = {}
        for call in self.graph.calls:
            if call.module in self.captured:
                found.update(dict.fromkeys(range(call.first_node, call.last_node), call.module))
        return found

    @cached_property
    def _made_in(self) -> dict[int, str]:
        states = {}
        for value in self.graph.values:
            if value.origin != "node":
                states[value.index] = self.choice.solution.state[self.search.ties.value[value.index]]
        for node in self.graph.nodes:
            states.update(zip(node.outputs, self.strategy(node).outputs, strict=True))
        return states

    @cached_property
    def _strategies(self) -> dict[tuple[str, int], Strategy]:
        return {}

    def strategy(self, node: Node) -> Strategy:
        """How a node runs."""
        key = self.search.ties.node[node.index]
        name = self.choice.solution.strategy[key]
        found = self._strategies.get((key, node.index))
        if found is None:
            operands = tuple(self.search.ties.value[v] for v in node.inputs())
            outputs = tuple(self.search.ties.value[v] for v in node.outputs)
            instance = next(
                i
                for i in self.choice.problem.instances[key]
                if i.operands == operands and i.outputs == outputs and name in i.strategies
            )
            found = self._strategies[key, node.index] = instance.strategies[name]
        return found

    @cached_property
    def used(self) -> list[Split]:
        states = {state[2:] for state in self.choice.solution.state.values() if state[0] in "SI"}
        names = states | {self.strategy(node).split for node in self.graph.nodes}
        return [split for name, split in self.search.splits.items() if name in names]

    @cached_property
    def cut(self) -> set[Axis]:
        """Leaves of which some rank holds a part, anywhere in the program."""
        return {leaf for split in self.used for leaf in held_by(split, self.search.keys, 0)}

    def made_in(self, value: int) -> str:
        """The state a value is produced (or stored) in."""
        return self._made_in[value]

    def uses(self, value: int) -> Iterator[tuple[Node, int, str]]:
        """(node, operand position, state needed) of every use of a value."""
        for index in self.graph.uses.get(value, ()):
            node = self.graph.nodes[index]
            states = self.strategy(node).inputs
            for position, operand in enumerate(node.inputs()):
                if operand == value:
                    yield node, position, states[position]

    # --- with the states of cotangents: WHOLE or VARIED in place of WHOLE ---------------------------------------------

    def flows_from(self, value: int) -> str:
        """The state a value is made in."""
        state, chosen = self.made_in(value), self.cotangents
        key = self.search.ties.value[value]
        if chosen is None or state != WHOLE or key not in chosen.carrying:
            return state
        node = self.graph.producer.get(value)
        if node is None:
            return VARIED if key in chosen.leaves else WHOLE
        whole = self.strategy(node).name == "whole"
        return WHOLE if whole and self.search.ties.node[node.index] not in chosen.nodes else VARIED

    def flows_to(self, value: int) -> list[tuple[Node, int, str]]:
        """(node, operand position, state needed) of every use of a value. Ops that pass no cotangent on take what the
        others take.
        """
        uses, chosen = list(self.uses(value)), self.cotangents
        if chosen is None or self.search.ties.value[value] not in chosen.carrying:
            return uses
        wanted = {id(use): self._wanted(use) for use in uses if use[2] == WHOLE}
        source = self.flows_from(value)
        live = {state for state in wanted.values() if state}
        default = source if source in (WHOLE, VARIED) else VARIED if live == {VARIED} else WHOLE
        return [(use[0], use[1], wanted.get(id(use), use[2]) or default) for use in uses]

    def _wanted(self, use: tuple[Node, int, str]) -> str:
        assert self.cotangents is not None
        key = self.search.ties.node[use[0].index]
        if key not in self.cotangents.live:
            return ""
        whole = self.strategy(use[0]).name == "whole"
        return WHOLE if whole and key not in self.cotangents.nodes else VARIED


def whole_at_birth(wanted: AbstractSet[str]) -> str:
    """The state in which one collective makes a value whole that is wanted in several states."""
    return VARIED if VARIED in wanted and WHOLE not in wanted else WHOLE


def rewritten(
    node: Node, law: Law, local: LocalSize, integers: LocalSize | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A node's positional and keyword arguments, those that its law rewrites in local sizes. `integers` are the sizes
    for arguments that are one integer, where those are others.
    """
    arguments, keywords = list(node.args), dict(node.kwargs)
    names = [argument.name for argument in node.op._schema.arguments]
    for position, rewrite in law.rewrites.items():
        held: Any = arguments if position < len(arguments) else keywords
        key: Any = position if position < len(arguments) else names[position]
        if position < len(arguments) or key in keywords:
            held[key] = rewrite(integers or local if isinstance(held[key], int) else local)
    return tuple(arguments), keywords
