"""Derived axes -> Problem: enumerate splits, strategies and conversions, with their costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from axisplit.axes.derive import Derived
from axisplit.axes.variable import variable_leaves
from axisplit.capture.graph import Node
from axisplit.runtime.costs import all_reduce_bytes, busiest_all_gather_bytes
from axisplit.solve.following import COLLECTIVE_BYTES, find_following, followed
from axisplit.solve.problem import Conversion, Instance, Problem
from axisplit.solve.shards import held_by, layout_of, local_length
from axisplit.solve.splits import Split, make_split
from axisplit.solve.states import PARTIAL, WHOLE, Strategy, split_state, strategies
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
    memo: dict[object, Any] = field(default_factory=dict)  # what does not depend on `forbidden`, for the next round

    def times(self, node: int) -> int:
        """How many nodes of the real model one stands for, where a run of blocks was folded."""
        return self.counts.get(node, 1)

    def times_read(self, value: int) -> int:
        """How many values of the real model a parameter stands for."""
        return max((self.times(node) for node in self.derived.graph.uses.get(value, ())), default=1)

    @property
    def keys(self) -> AxisKeys:
        return self.ties.axis


def find_splits(
    derived: Derived, ties: Ties, num_ranks: int, uneven: bool, following: Collection[str] | None = None
) -> dict[str, Split]:
    """Candidate splits: every axis that occurs in a parameter and does not follow the inputs' sizes, alone where it is
    long enough, else with an axis beside it in some parameter's dim; and of those that do follow them the named ones,
    or (None) those worth it.
    """
    variable = {ties.axis.get(leaf) for leaf in variable_leaves(derived)}
    sizes = {key: leaf.size for leaf, key in ties.axis.items() if key not in variable}
    steps = _granularity(derived, ties)
    found: dict[str, Split] = {}
    for key, size in sizes.items():
        name = ties.axis_name[key]
        split = make_split(name, (key,), (size,), num_ranks, uneven, steps.get(key, 1))
        if split is not None:
            found[name] = split
    for first, second in sorted(_neighbours(derived, ties)):
        if first not in sizes or second not in sizes:
            continue
        if sizes[first] >= num_ranks and (uneven or sizes[first] % num_ranks == 0):
            continue
        name = f"{ties.axis_name[first]} x {ties.axis_name[second]}"
        split = make_split(name, (first, second), (sizes[first], sizes[second]), num_ranks, uneven)
        if split is not None:
            found[name] = split
    return found | {split.name: split for split in find_following(derived, ties, num_ranks, following)}


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
    problem, nodes = Problem(), defaultdict[str, list[Node]](list)
    splits = list(search.splits.values())
    for node in graph.nodes:
        key = ties.node[node.index]
        if ("strategies", node.index) not in derived.memo:
            derived.memo["strategies", node.index] = strategies(derived, node, ties.axis, splits)
        found: list[Strategy] = derived.memo["strategies", node.index]
        found = [s for s in found if not s.split or s.split in search.splits]
        options = {s.name: s for s in found if ("run", key, s.name) not in search.forbidden}
        operands = tuple(ties.value[v] for v in node.inputs())
        outputs = tuple(ties.value[v] for v in node.outputs)
        problem.instances.setdefault(key, []).append(Instance(operands, outputs, options))
        nodes[key].append(node)
    for split in splits:
        if split.follows:
            _weigh_made(search, problem, split, nodes)
    for value in graph.values:
        if value.origin != "node":
            problem.held.setdefault(ties.value[value.index], _stored_states(search, value.index))
    problem.wanted = {ties.value[v] for _, v in graph.outputs}
    _add_conversions(search, problem)
    return problem


def _weigh_made(search: Search, problem: Problem, split: Split, nodes: dict[str, list[Node]]) -> None:
    """What ranks make by each strategy of the ops that could run on parts of an index of the inputs."""
    for key, instances in problem.instances.items():
        for node, instance in zip(nodes[key], instances, strict=True):
            if node.index in followed(search.derived, split).passing:
                size = sum(search.derived.graph.values[v].bytes for v in node.outputs) * search.times(node.index)
                for option in instance.strategies.values():
                    made = size / (search.num_ranks if option.split else 1) / COLLECTIVE_BYTES
                    problem.made[key, option.name] = problem.made.get((key, option.name), 0.0) + made


def _stored_states(search: Search, value: int) -> list[str]:
    """States a parameter or buffer can be loaded in; inputs and constants arrive whole."""
    info = search.derived.graph.values[value]
    if info.origin not in ("parameter", "buffer"):
        return [WHOLE]
    splits = [split for split in search.splits.values() if not split.follows]
    held = [s for s in splits if layout_of(search.derived, value, s, search.keys) is not None]
    states = [WHOLE, *(split_state(split.name) for split in held)]
    if info.origin == "parameter":
        states.append(PARTIAL)
    return states


def _add_conversions(search: Search, problem: Problem) -> None:
    graph, ties = search.derived.graph, search.ties
    produced, needed = _states_in_play(problem)
    members: dict[str, list[int]] = defaultdict(list)
    for value in graph.values:
        members[ties.value[value.index]].append(value.index)
    for key, values in members.items():
        if key not in needed or any(graph.values[value].origin in ("parameter", "buffer") for value in values):
            continue
        for source in produced[key]:
            for target in needed[key]:
                triple = (key, source, target)
                if source == target or ("convert", *triple) in search.forbidden:
                    continue
                if triple not in search.memo:
                    search.memo[triple] = _conversion_of_all(search, values, source, target)
                if search.memo[triple] is not None:
                    problem.conversions[triple] = search.memo[triple]


def _conversion_of_all(search: Search, values: list[int], source: str, target: str) -> Conversion | None:
    """The conversion of a class of values; None unless every one of them can be converted."""
    steps, moved, collectives, effort = tuple[str, ...](), 0.0, 0, 0.0
    for value in values:
        found = _steps(search, value, source, target)
        if found is None:
            return None
        steps = steps or found
        number = sum(step in COLLECTIVES for step in found)
        reduced = target if found[0] == "reduce_scatter" else WHOLE
        moved += _bytes_in_all(search, value, source, reduced) if number else 0.0
        collectives += number
        effort += _effort(search, value, source, len(found), number)
    return Conversion(steps, moved, collectives, effort)


def _bytes_in_all(search: Search, value: int, source: str, target: str) -> float:
    """`conversion_bytes` as they count in the objective."""
    key = ("bytes", value, source, target)
    if key not in search.memo:
        node = search.derived.graph.producer.get(value)
        weight = phase_weight(search.derived.graph.values[value].name if node is None else node.phase)
        times = 1 if node is None else search.times(node.index)
        search.memo[key] = conversion_bytes(search, value, source, target) * weight * times
    return float(search.memo[key])


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


def _steps(search: Search, value: int, source: str, target: str) -> tuple[str, ...] | None:
    """How one value gets from one state to another. Nothing becomes a weighted partial, and indices stay indices."""
    if target[0] == "M" or source[0] == "I" or not has_place(search, value):
        return None
    if any(state[0] == "S" and _layout(search, value, state) is None for state in (source, target)):
        return None
    if source[0] == "S" and target == PARTIAL:
        return None if search.splits[source[2:]].follows else ("pad",)
    if source == PARTIAL and target[0] == "S" and search.splits[target[2:]].follows:
        return ("reduce_scatter",)
    steps: tuple[str, ...] = ()
    if source == PARTIAL or source[0] == "M":
        steps = ("all_reduce",)
    elif source[0] == "S":
        steps = ("all_gather",)
    last = {"S": "take", PARTIAL: "only_first", "I": "localize"}.get(target[0])
    return (*steps, last) if last else steps


COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter")


def is_whole(search: Search, value: int, state: str) -> bool:
    """Whether every rank holds all of a value in a state: also where it has not the index of the inputs that the state
    is of, or one that does not divide.
    """
    if state[0] != "S":
        return state == WHOLE
    split = search.splits[state[2:]]
    if not split.follows:
        return False
    index = followed(search.derived, split)
    return not index.is_cut(value, search.num_ranks) and (index.dim_of(value) is not None or not index.touches(value))


def _effort(search: Search, value: int, source: str, steps: int, collectives: int) -> float:
    natural = value in search.given or (value in search.returned and source != WHOLE)
    return (0.0 if natural else MID_FORWARD) * steps + LOCAL_STEP * (steps - collectives)


def has_place(search: Search, value: int) -> bool:
    """Whether the running Python can be reached where the value is returned, passed on, computed or read."""
    if value in search.given or value in search.returned or value in search.computed:
        return True
    key = ("place", value)
    if key not in search.memo:
        graph = search.derived.graph
        reads = [(n, p) for n in graph.uses.get(value, ()) for p, v in enumerate(graph.nodes[n].inputs()) if v == value]
        search.memo[key] = all(read in search.wrapped for read in reads)
    return bool(search.memo[key])


def _layout(search: Search, value: int, state: str) -> object:
    return layout_of(search.derived, value, search.splits[state[2:]], search.keys)


def conversion_bytes(search: Search, value: int, source: str, target: str = WHOLE) -> float:
    """Bytes the busiest rank sends to make a value whole from a state, or to reduce partial sums to parts."""
    info = search.derived.graph.values[value]
    if source == WHOLE:
        return 0.0
    if target != WHOLE:
        return busiest_all_gather_bytes(share_bytes(search, value, target))
    if source == PARTIAL or source[0] == "M":
        return all_reduce_bytes(info.bytes, search.num_ranks)
    return busiest_all_gather_bytes(share_bytes(search, value, source))


def share_bytes(search: Search, value: int, state: str) -> list[int]:
    """Bytes each rank holds of a value in a split state."""
    derived, split, key = search.derived, search.splits[state[2:]], ("shares", value, state)
    if split.follows:
        return [derived.graph.values[value].bytes // search.num_ranks] * search.num_ranks
    if key not in derived.memo:
        sizes: dict[tuple[int, ...], int] = {}
        for lengths, rank in split.kinds.items():
            held = held_by(split, search.keys, rank)
            sizes[lengths] = derived.graph.values[value].dtype.itemsize
            for axis in derived.dims[value]:
                sizes[lengths] *= local_length(derived.axes, axis, held)
        derived.memo[key] = [sizes[lengths] for lengths in split.lengths]
    found: list[int] = derived.memo[key]
    return found
