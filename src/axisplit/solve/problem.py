"""The exact problem: choose every op's strategy and every value's conversions so that the fewest bytes move.

    x[n, s]       node n runs by strategy s                                  sum over s = 1
    h[v, a]       value v is produced in state a                             sum of x over strategies that make it so
    c[v, a, b]    v, produced in a, is converted to b
    f[v, p, a, b] the same for place p that reads v                          f <= c; sum over b of f = h[v, a]
    use           operand v of node n in state b                     sum of x that need it = sum over a of f[v, p, a, b]
    cost          bytes of c, counted once for each value however many ops use the converted one

Where a partial sum is reduced is thus part of the same problem as what is split (a minimum cut over its uses). Nodes,
values and splits with the same key (repeated blocks) share variables and count as often as they occur.

The optimum is taken lexicographically (`linear`): parameter bytes that should be split but are not, then bytes moved,
then the number of collectives and how natural their places are, then bytes held. What is equal in all of that is told
apart by axes that many values share, which go first, and by names: every version of a solver finds the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from zlib import crc32

import numpy as np

from axisplit.solve.linear import LinearModel
from axisplit.solve.states import PARTIAL, WHOLE, Strategy

CARRIED = 0.01  # effort of an op on partial sums: among equals they are reduced where they come to be
NAMED = 0.01  # of what is equal otherwise, names decide


@dataclass(frozen=True)
class Conversion:
    """A way from one state to another: `steps` are collectives or local slices, `bytes` what the busiest rank sends."""

    steps: tuple[str, ...]
    bytes: float
    collectives: int
    effort: float  # tie-breaker: local steps, places in the middle of a forward


@dataclass(frozen=True)
class Instance:
    """One occurrence of a node class: its operand and output value classes, and what each strategy means for it."""

    operands: tuple[str, ...]
    outputs: tuple[str, ...]
    strategies: dict[str, Strategy]


@dataclass
class Problem:
    """Classes of nodes and values with their choices; built by `solve.plan_graph`."""

    instances: dict[str, list[Instance]] = field(default_factory=dict)
    held: dict[str, list[str]] = field(default_factory=dict)  # leaf values: states they can be stored in
    conversions: dict[tuple[str, str, str], Conversion] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)  # values the caller reads: must become whole
    must_split: dict[str, tuple[float, frozenset[str]]] = field(
        default_factory=dict
    )  # leaf value -> bytes, states that do
    shares: dict[tuple[str, str], float] = field(
        default_factory=dict
    )  # (leaf value, state) -> bytes on the fullest rank
    memory: float | None = None  # bound on the sum of shares
    made: dict[tuple[str, str], float] = field(default_factory=dict)
    """(node class, strategy) -> what a rank makes by it along an index of the inputs, in collectives that it is worth
    """


@dataclass(frozen=True)
class Solution:
    """The chosen strategies, stored states and conversions, with bytes moved and their proved lower bound."""

    strategy: dict[str, str]  # node class -> strategy name
    state: dict[str, str]  # leaf value -> state
    conversions: dict[tuple[str, str], str]  # (value, state wanted) -> state converted from
    bytes: float
    bound: float
    optimal: bool
    unsplit: float  # bytes of parameters that should be split and are not


class LeastBytes:
    """Fewest bytes of one problem, asked for different parameters that must be split."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.model, self.bytes_of, self.effort_of = _formulate(problem)

    def __call__(self, must_split: dict[str, tuple[float, frozenset[str]]]) -> float | None:
        """The optimum with all of them split, or None if they cannot all be."""
        found = self.solution(must_split)
        return None if found is None else found[1]

    def solution(self, must_split: dict[str, tuple[float, frozenset[str]]]) -> tuple[np.ndarray, float] | None:
        """The same with the columns' values."""
        self.model.forbid(_held_otherwise(self.model, replace(self._problem, must_split=must_split)))
        values, least, _, optimal = self.model.minimise(self.bytes_of, relax=True)
        return (values, least) if optimal else None


def solve_problem(problem: Problem, asked: LeastBytes | None = None) -> Solution | None:
    """The optimum, or None if a memory bound cannot be met. `asked` is the same problem, formulated for questions."""
    return _lexicographic(problem, asked or LeastBytes(problem))


def _formulate(problem: Problem) -> tuple[LinearModel, dict[int, float], dict[int, float]]:
    """(rows and columns, bytes of each column, effort of each column)."""
    model = LinearModel()
    produced = _choices(model, problem)
    bytes_of: dict[int, float] = defaultdict(float)
    effort_of: dict[int, float] = defaultdict(float)
    for value, places in sorted(_needs(model, problem).items()):
        states = sorted({state for place in places for state in place})
        ways = {
            (source, wanted): model.column(("convert", value, source, wanted), False)
            for source in sorted(produced[value])
            for wanted in states
            if source == wanted or (value, source, wanted) in problem.conversions
        }
        for (source, wanted), column in ways.items():
            conversion = problem.conversions.get((value, source, wanted))
            if conversion is not None:
                bytes_of[column] += conversion.bytes
                effort_of[column] += conversion.collectives + conversion.effort
        _flow(model, value, produced[value], ways, places)
    for node, instances in problem.instances.items():
        for name in common_strategies(instances):
            column = model.column(("run", node, name), True)
            effort_of[column] += problem.made.get((node, name), 0.0)
            if PARTIAL in instances[0].strategies[name].inputs:
                effort_of[column] += CARRIED
    return model, bytes_of, effort_of


Place = dict[str, dict[int, float]]  # what reads a value: state -> terms that need it so; the key "" holds a constant


def _flow(
    model: LinearModel,
    value: str,
    produced: dict[str, dict[int, float]],
    ways: dict[tuple[str, str], int],
    places: list[Place],
) -> None:
    """What is produced flows to every place that reads it, by conversions that places share."""
    if not _in_one_state(produced):
        _covered(model, produced, ways, places)
        return
    for number, place in enumerate(places):
        flows = dict(ways)
        if len(places) > 1:
            flows = {way: model.column(("flow", value, *way, str(number)), False) for way in ways if way[1] in place}
            for way, flow in flows.items():
                model.row({flow: 1.0, ways[way]: -1.0}, -np.inf, 0.0)
        for source, terms in produced.items():
            leaving = {flow: 1.0 for (a, _), flow in flows.items() if a == source}
            _balance(model, leaving, terms, 0.0)
        for wanted, needing in place.items():
            arriving = {flow: 1.0 for (_, b), flow in flows.items() if b == wanted}
            _balance(model, arriving, needing, 0.0 if needing else 1.0)


def _balance(
    model: LinearModel,
    flows: dict[int, float],
    terms: dict[int, float],
    constant: float,
    low: float | None = None,
    high: float | None = None,
) -> None:
    """Flows less terms are the constant, or lie between the bounds."""
    row = dict(flows)
    for term, weight in terms.items():
        row[term] = row.get(term, 0.0) - weight
    model.row(row, constant if low is None else low, constant if high is None else high)


def _covered(
    model: LinearModel,
    produced: dict[str, dict[int, float]],
    ways: dict[tuple[str, str], int],
    places: list[Place],
) -> None:
    """Every place is reached by some conversion from a state that is produced, where several can be at once."""
    for (source, _), column in ways.items():
        _balance(model, {column: 1.0}, produced[source], 0.0, low=-np.inf)
    for place in places:
        for wanted, needing in place.items():
            arriving = {column: 1.0 for (_, b), column in ways.items() if b == wanted}
            _balance(model, arriving, needing, 0.0 if needing else 1.0, high=np.inf)


def _in_one_state(produced: dict[str, dict[int, float]]) -> bool:
    """Whether the states exclude each other by construction: all come from the choices of one node or leaf."""
    columns = [column for terms in produced.values() for column in terms]
    return len(columns) == len(set(columns))


def _held_otherwise(model: LinearModel, problem: Problem) -> dict[int, float]:
    """Columns of states that do not count as split, with the bytes of what should be."""
    return {
        model.column(("hold", value, state), True): size
        for value, (size, splits) in problem.must_split.items()
        for state in problem.held[value]
        if state not in splits
    }


def _choices(model: LinearModel, problem: Problem) -> dict[str, dict[str, dict[int, float]]]:
    """Columns for strategies and stored states; value -> state -> terms that make it so."""
    produced: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for node, instances in problem.instances.items():
        row = {}
        for name in common_strategies(instances):
            column = model.column(("run", node, name), True)
            row[column] = 1.0
            for instance in instances:
                for value, state in zip(instance.outputs, instance.strategies[name].outputs, strict=True):
                    produced[value][state][column] = 1.0
        model.row(row, 1.0, 1.0)
    for value, states in problem.held.items():
        row = {}
        for state in states:
            column = model.column(("hold", value, state), True)
            row[column] = 1.0
            produced[value][state] = {column: 1.0}
        model.row(row, 1.0, 1.0)
    return produced


def _needs(model: LinearModel, problem: Problem) -> dict[str, list[Place]]:
    """Value -> the places that read it: by state, the strategies that need it so. Places that need the same are one."""
    found: dict[str, dict[object, Place]] = defaultdict(dict)
    for node, instances in problem.instances.items():
        names = common_strategies(instances)
        columns = [model.column(("run", node, name), True) for name in names]
        for instance in _distinct(instances):
            inputs = [instance.strategies[name].inputs for name in names]
            for position, value in enumerate(instance.operands):
                place: Place = defaultdict(dict)
                for column, states in zip(columns, inputs, strict=True):
                    place[states[position]][column] = 1.0
                found[value][node, tuple(states[position] for states in inputs)] = place
    for value in problem.wanted:
        found[value][None] = {WHOLE: {}}
    return {value: list(places.values()) for value, places in found.items()}


def common_strategies(instances: list[Instance]) -> list[str]:
    """Names of the strategies that are legal for every instance of a node class."""
    return [name for name in instances[0].strategies if all(name in i.strategies for i in instances)]


def _distinct(instances: list[Instance]) -> list[Instance]:
    """Instances that differ in what they read."""
    return list({(i.operands, tuple(s.inputs for s in i.strategies.values())): i for i in instances}.values())


def _told_apart(model: LinearModel) -> dict[int, float]:
    """Costs of choices of which no two sums should be equal: states that few values can be stored in cost more, and
    every choice costs a little that only its name decides.
    """
    chosen = {key: column for key, column in model.columns.items() if key[0] in ("hold", "run")}
    shared = Counter(key[2] for key in chosen if key[0] == "hold")
    return {
        column: (1.0 / shared[key[2]] if key[0] == "hold" else 0.0) + NAMED * crc32(repr(key).encode()) / 2**32
        for key, column in chosen.items()
    }


def _lexicographic(problem: Problem, asked: LeastBytes) -> Solution | None:
    model = asked.model
    shares = {model.column(("hold", *key), True): share for key, share in problem.shares.items()}
    if problem.memory is not None:
        model.row({i: share / problem.memory for i, share in shares.items()}, -np.inf, 1.0)
    unsplit, fewest = 0.0, asked.solution(problem.must_split)
    if fewest is None:
        whole = _held_otherwise(model, problem)
        model.forbid(())
        _, unsplit, _, optimal = model.minimise(whole)
        if optimal:
            model.limit(whole, unsplit)
            fewest = asked.solution({})
    if fewest is None:
        return None
    values, least = fewest
    model.limit(asked.bytes_of, least)
    for costs in (asked.effort_of, shares, _told_apart(model)):
        better, lowest, _, found = model.minimise(costs, relax=True)
        if found:
            values = better
            model.limit(costs, lowest)
    chosen = {key for key, column in model.columns.items() if values[column] > 0.5}
    strategy = {
        node: next(name for name in common_strategies(instances) if ("run", node, name) in chosen)
        for node, instances in problem.instances.items()
    }
    state = {v: next(s for s in states if ("hold", v, s) in chosen) for v, states in problem.held.items()}
    conversions = {(k[1], k[3]): k[2] for k in chosen if k[0] == "convert" and k[2] != k[3]}
    return Solution(strategy, state, conversions, least, least, True, unsplit)


__all__ = ["PARTIAL", "WHOLE", "Conversion", "LeastBytes", "Problem", "Solution", "solve_problem"]
