"""Derived axes -> Problem: enumerate splits, strategies and conversions, with their costs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

from axisplit.axes.derive import Derived
from axisplit.runtime.costs import all_gather_bytes, all_reduce_bytes
from axisplit.solve.problem import Conversion, Instance, Problem
from axisplit.solve.shards import held_by, layout_of, local_length
from axisplit.solve.splits import Split, make_split
from axisplit.solve.states import PARTIAL, WHOLE, split_state, strategies
from axisplit.solve.ties import AxisKeys, Ties

VARIANT_WEIGHT = 0.0  # masked variants of a phase must run, but are not what the bytes are minimised for
LOCAL_STEP, MID_FORWARD = 0.1, 0.3  # efforts: a slice; a place that is not a module's input or output


@dataclass
class Search:
    """What the problem was built from, kept to read its solution."""

    derived: Derived
    ties: Ties
    num_ranks: int
    splits: dict[str, Split]
    forbidden: frozenset[tuple[str, ...]] = frozenset()
    returned: set[int] = field(default_factory=set)  # values that some module returns
    given: set[int] = field(default_factory=set)  # values that some module is called with
    computed: set[int] = field(default_factory=set)  # values computed by an expression that can be wrapped
    wrapped: set[tuple[int, int]] = field(default_factory=set)  # (node, operand position) that can be wrapped
    counts: dict[int, int] = field(default_factory=dict)  # node -> how many it stands for, where a run was folded

    def times(self, node: int) -> int:
        """How many nodes of the real model one stands for, where a run of blocks was folded."""
        return self.counts.get(node, 1)

    def times_read(self, value: int) -> int:
        """How many values of the real model a parameter stands for."""
        return max((self.times(node) for node in self.derived.graph.uses.get(value, ())), default=1)

    @property
    def keys(self) -> AxisKeys:
        return self.ties.axis


def find_splits(derived: Derived, ties: Ties, num_ranks: int, uneven: bool) -> dict[str, Split]:
    """Candidate splits: every axis that occurs in a parameter, alone where it is long enough, else with an axis beside
    it in some parameter's dim.
    """
    sizes = {ties.axis[leaf]: leaf.size for leaf in ties.axis}
    steps = _granularity(derived, ties)
    found: dict[str, Split] = {}
    for key, size in sizes.items():
        name = ties.axis_name[key]
        split = make_split(name, (key,), (size,), num_ranks, uneven, steps.get(key, 1))
        if split is not None:
            found[name] = split
    for first, second in sorted(_neighbours(derived, ties)):
        if sizes[first] >= num_ranks and (uneven or sizes[first] % num_ranks == 0):
            continue
        name = f"{ties.axis_name[first]} x {ties.axis_name[second]}"
        split = make_split(name, (first, second), (sizes[first], sizes[second]), num_ranks, uneven)
        if split is not None:
            found[name] = split
    return found


def _granularity(derived: Derived, ties: Ties) -> dict[str, int]:
    """Axes whose parts some kernel takes only in multiples."""
    found: dict[str, int] = {}
    for law in derived.laws:
        for axis, multiple in law.multiples:
            for leaf in derived.axes.leaves(axis):
                if leaf in ties.axis:
                    found[ties.axis[leaf]] = max(found.get(ties.axis[leaf], 1), multiple)
    return found


def _neighbours(derived: Derived, ties: Ties) -> set[tuple[str, str]]:
    """Pairs of axes (outer, inner) that multiply in some parameter's dim."""
    pairs = set()
    for value in ties.parameter:
        for axis in derived.dims[value]:
            for segment in derived.axes.segments(axis):
                keys = [[ties.axis.get(leaf) for leaf in derived.axes.leaves(f)] for f in derived.axes.factors(segment)]
                for i, outer in enumerate(keys):
                    for inner in keys[i + 1 :]:
                        pairs |= {(a, b) for a in outer for b in inner if a is not None and b is not None and a != b}
    return pairs


def build_problem(search: Search) -> Problem:
    """Every choice and its cost; which parameters must be split is added by the policy."""
    derived, ties, graph = search.derived, search.ties, search.derived.graph
    problem = Problem()
    splits = list(search.splits.values())
    for node in graph.nodes:
        key = ties.node[node.index]
        options = {s.name: s for s in strategies(derived, node, ties.axis, splits)}
        options = {name: s for name, s in options.items() if ("run", key, name) not in search.forbidden}
        operands = tuple(ties.value[v] for v in node.inputs())
        outputs = tuple(ties.value[v] for v in node.outputs)
        problem.instances.setdefault(key, []).append(Instance(operands, outputs, options))
    for value in graph.values:
        if value.origin != "node":
            problem.held.setdefault(ties.value[value.index], _stored_states(search, value.index))
    problem.wanted = {ties.value[v] for _, v in graph.outputs}
    _add_conversions(search, problem)
    return problem


def _stored_states(search: Search, value: int) -> list[str]:
    """States a parameter or buffer can be loaded in; inputs and constants arrive whole."""
    info = search.derived.graph.values[value]
    if info.origin not in ("parameter", "buffer"):
        return [WHOLE]
    splits = search.splits.values()
    held = [s for s in splits if layout_of(search.derived, value, s, search.keys) is not None]
    states = [WHOLE, *(split_state(split.name) for split in held)]
    if info.origin == "parameter":
        states.append(PARTIAL)
    return states


def _add_conversions(search: Search, problem: Problem) -> None:
    graph, ties = search.derived.graph, search.ties
    produced, needed = _states_in_play(problem)
    total: dict[tuple[str, str, str], list[Conversion]] = defaultdict(list)
    for value in graph.values:
        key = ties.value[value.index]
        if value.origin in ("parameter", "buffer") or key not in needed:
            continue
        for source in produced[key]:
            for target in needed[key]:
                if source != target and ("convert", key, source, target) not in search.forbidden:
                    conversion = _conversion(search, value.index, source, target)
                    if conversion is not None:
                        node = graph.producer.get(value.index)
                        weight = phase_weight(value.name if node is None else node.phase)
                        weight *= 1 if node is None else search.times(node.index)
                        total[key, source, target].append(replace(conversion, bytes=conversion.bytes * weight))
    members: dict[str, int] = defaultdict(int)
    for value in graph.values:
        members[ties.value[value.index]] += 1
    for triple, found in total.items():
        if len(found) == members[triple[0]]:  # every instance can
            problem.conversions[triple] = Conversion(
                found[0].steps,
                sum(c.bytes for c in found),
                sum(c.collectives for c in found),
                sum(c.effort for c in found),
            )


def phase_weight(phase: str) -> float:
    """How much a phase's bytes count in the objective."""
    return VARIANT_WEIGHT if " " in phase else 1.0


def _states_in_play(problem: Problem) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    produced: dict[str, set[str]] = defaultdict(set)
    needed: dict[str, set[str]] = defaultdict(set)
    for instances in problem.instances.values():
        for instance in instances:
            for strategy in instance.strategies.values():
                for value, state in zip(instance.outputs, strategy.outputs, strict=True):
                    produced[value].add(state)
                for value, state in zip(instance.operands, strategy.inputs, strict=True):
                    needed[value].add(state)
    for value, states in problem.held.items():
        produced[value].update(states)
    for value in problem.wanted:
        needed[value].add(WHOLE)
    return produced, needed


def _conversion(search: Search, value: int, source: str, target: str) -> Conversion | None:
    """How one value gets from one state to another. Nothing becomes a weighted partial, and indices stay indices."""
    if target[0] == "M" or source[0] == "I":
        return None
    steps: list[str] = []
    if source[0] == "S" and target == PARTIAL:
        steps = ["pad"] if _layout(search, value, source) is not None else []
        return _local(search, value, source, steps)
    if source == PARTIAL or source[0] == "M":
        steps.append("all_reduce")
    elif source[0] == "S":
        if _layout(search, value, source) is None:
            return None
        steps.append("all_gather")
    if target[0] == "S":
        if _layout(search, value, target) is None:
            return None
        steps.append("take")
    elif target == PARTIAL:
        steps.append("only_first")
    elif target[0] == "I":
        steps.append("localize")
    moved = conversion_bytes(search, value, source)
    if not has_place(search, value):
        return None
    collectives = sum(step.startswith("all_") for step in steps)
    return Conversion(tuple(steps), moved, collectives, _effort(search, value, source, len(steps), collectives))


def _local(search: Search, value: int, source: str, steps: list[str]) -> Conversion | None:
    """A conversion without communication."""
    if not steps or not has_place(search, value):
        return None
    return Conversion(tuple(steps), 0.0, 0, _effort(search, value, source, len(steps), 0))


def _effort(search: Search, value: int, source: str, steps: int, collectives: int) -> float:
    natural = value in search.given or (value in search.returned and source != WHOLE)
    return (0.0 if natural else MID_FORWARD) * steps + LOCAL_STEP * (steps - collectives)


def has_place(search: Search, value: int) -> bool:
    """Whether the running Python can be reached where the value is returned, passed on, computed or read."""
    if value in search.given or value in search.returned or value in search.computed:
        return True
    graph = search.derived.graph
    reads = [(n, p) for n in graph.uses.get(value, ()) for p, v in enumerate(graph.nodes[n].inputs()) if v == value]
    return all(read in search.wrapped for read in reads)


def _layout(search: Search, value: int, state: str) -> object:
    return layout_of(search.derived, value, search.splits[state[2:]], search.keys)


def conversion_bytes(search: Search, value: int, source: str) -> float:
    """Bytes the busiest rank sends to make a value whole from a state."""
    info = search.derived.graph.values[value]
    if source == WHOLE:
        return 0.0
    if source == PARTIAL or source[0] == "M":
        return all_reduce_bytes(info.bytes, search.num_ranks)
    shares = share_bytes(search, value, source)
    return max(all_gather_bytes(shares, rank) for rank in range(search.num_ranks))


def share_bytes(search: Search, value: int, state: str) -> list[int]:
    """Bytes each rank holds of a value in a split state."""
    derived, split, key = search.derived, search.splits[state[2:]], ("shares", value, state)
    if key not in derived.memo:
        shares = []
        for rank in range(search.num_ranks):
            held = held_by(split, search.keys, rank)
            size = derived.graph.values[value].dtype.itemsize
            for axis in derived.dims[value]:
                size *= local_length(derived.axes, axis, held)
            shares.append(size)
        derived.memo[key] = shares
    found: list[int] = derived.memo[key]
    return found
