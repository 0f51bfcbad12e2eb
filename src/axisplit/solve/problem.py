"""The exact problem: choose every op's strategy and every value's conversions so that the fewest bytes move.

    x[n, s]       node n runs by strategy s                                  sum over s = 1
    h[v, a]       value v is produced in state a                             sum of x over strategies that make it so
    c[v, a, b]    v, produced in a, is converted to b                        c <= h[v, a]
    use           operand v of node n in state b                     sum of x that need it <= sum over a of c[v, a, b]
    cost          bytes of c, counted once for each value however many ops use the converted one

Where a partial sum is reduced is thus part of the same problem as what is split (a minimum cut over its uses). Nodes,
values and splits with the same key (repeated blocks) share variables and count as often as they occur.

The optimum is taken lexicographically: parameter bytes that should be split but are not, then bytes moved, then the
number of collectives and how natural their places are, then bytes held.
HiGHS solves with a relative gap of 0, one thread and a fixed seed: the same problem gives the same plan.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import highspy
import numpy as np

from axisplit.solve.states import PARTIAL, WHOLE, Strategy

CARRIED = 0.01  # effort of an op on partial sums: among equals they are reduced where they come to be


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


class LinearModel:
    """Rows and columns for HiGHS; columns lie between 0 and 1."""

    def __init__(self) -> None:
        self.columns: dict[tuple[str, ...], int] = {}
        self.integer: list[bool] = []
        self.rows: list[tuple[dict[int, float], float, float]] = []

    def column(self, key: tuple[str, ...], integer: bool) -> int:
        if key not in self.columns:
            self.columns[key] = len(self.columns)
            self.integer.append(integer)
        return self.columns[key]

    def row(self, terms: dict[int, float], low: float, high: float) -> None:
        self.rows.append((terms, low, high))

    def limit(self, costs: dict[int, float], most: float) -> None:
        """Keep an objective at its optimum while the next one is minimised. An optimum of 0 fixes its columns: HiGHS
        has called a row of tiny slack infeasible that is not.
        """
        if most < 1e-9:
            self.rows += [({i: 1.0}, -np.inf, 0.0) for i, cost in costs.items() if cost > 0]
            return
        scale = max([*costs.values(), 1.0])
        self.row({i: v / scale for i, v in costs.items()}, -np.inf, most / scale + 1e-7)

    def minimise(self, costs: dict[int, float]) -> tuple[np.ndarray, float, float, bool]:
        """(solution, objective, bound, proved optimal)."""
        scale = max([abs(c) for c in costs.values()] or [1.0]) or 1.0
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = len(self.columns), len(self.rows)
        lp.col_cost_ = np.array([costs.get(i, 0.0) / scale for i in range(lp.num_col_)])
        lp.col_lower_, lp.col_upper_ = np.zeros(lp.num_col_), np.ones(lp.num_col_)
        lp.row_lower_ = np.array([low for _, low, _ in self.rows])
        lp.row_upper_ = np.array([high for _, _, high in self.rows])
        starts = np.cumsum([0] + [len(terms) for terms, _, _ in self.rows])
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = starts
        lp.a_matrix_.index_ = np.array([i for terms, _, _ in self.rows for i in terms], dtype=np.int32)
        lp.a_matrix_.value_ = np.array([v for terms, _, _ in self.rows for v in terms.values()], dtype=float)
        kinds = highspy.HighsVarType
        lp.integrality_ = [kinds.kInteger if whole else kinds.kContinuous for whole in self.integer]
        solver = highspy.Highs()
        for name, value in {
            "output_flag": False,
            "mip_rel_gap": 0.0,
            "mip_abs_gap": 1e-9,
            "threads": 1,
            "random_seed": 0,
            "mip_feasibility_tolerance": 1e-9,
            "primal_feasibility_tolerance": 1e-9,
        }.items():
            solver.setOptionValue(name, value)
        solver.passModel(lp)
        solver.run()
        status = solver.getModelStatus()
        info = solver.getInfo()
        optimal = status == highspy.HighsModelStatus.kOptimal
        if not optimal:
            return np.zeros(0), float("inf"), float("inf"), False
        values = np.array(solver.getSolution().col_value)
        bound = info.mip_dual_bound if any(self.integer) else info.objective_function_value
        return values, info.objective_function_value * scale, bound * scale, optimal


def least_bytes(problem: Problem) -> float | None:
    """Bytes of the optimum with every `must_split` met, or None if they cannot all be met."""
    model, bytes_of, _ = _formulate(problem)
    for column in _held_otherwise(model, problem):
        model.row({column: 1.0}, 0.0, 0.0)
    _, least, _, optimal = model.minimise(bytes_of)
    return least if optimal else None


def solve_problem(problem: Problem) -> Solution | None:
    """The optimum, or None if a memory bound cannot be met."""
    return _lexicographic(problem, *_formulate(problem))


def _formulate(problem: Problem) -> tuple[LinearModel, dict[int, float], dict[int, float]]:
    """(rows and columns, bytes of each column, effort of each column)."""
    model = LinearModel()
    produced = _choices(model, problem)
    needs = _needs(model, problem)
    bytes_of: dict[int, float] = defaultdict(float)
    effort_of: dict[int, float] = defaultdict(float)
    for (value, wanted), users in sorted(needs.items()):
        ways = {}
        for state in sorted(produced[value]):
            conversion = problem.conversions.get((value, state, wanted))
            if conversion is None and state != wanted:
                continue
            column = model.column(("convert", value, state, wanted), False)
            ways[column] = -1.0
            row = {column: 1.0}
            for term, weight in produced[value][state].items():
                row[term] = row.get(term, 0.0) - weight
            model.row(row, -np.inf, 0.0)
            if conversion is not None:
                bytes_of[column] += conversion.bytes
                effort_of[column] += conversion.collectives + conversion.effort
        for terms in users:
            model.row({**terms, **ways}, -np.inf, 0.0)
        if wanted == WHOLE and value in problem.wanted:
            model.row(dict.fromkeys(ways, 1.0), 1.0, np.inf)
    for node, instances in problem.instances.items():
        for name in common_strategies(instances):
            if PARTIAL in instances[0].strategies[name].inputs:
                effort_of[model.column(("run", node, name), True)] += CARRIED
    return model, bytes_of, effort_of


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


def _needs(model: LinearModel, problem: Problem) -> dict[tuple[str, str], list[dict[int, float]]]:
    """(value, state) -> for each operand place, the strategies that need the value in that state."""
    found: dict[tuple[str, str], dict[tuple[str, int], dict[int, float]]] = defaultdict(dict)
    for node, instances in problem.instances.items():
        names = common_strategies(instances)
        for number, instance in enumerate(_distinct(instances)):
            for name in names:
                column = model.column(("run", node, name), True)
                inputs = instance.strategies[name].inputs
                for position, (value, state) in enumerate(zip(instance.operands, inputs, strict=True)):
                    found[value, state].setdefault((f"{node}#{number}", position), {})[column] = 1.0
    for value in problem.wanted:
        found.setdefault((value, WHOLE), {})
    return {key: list(places.values()) for key, places in found.items()}


def common_strategies(instances: list[Instance]) -> list[str]:
    """Names of the strategies that are legal for every instance of a node class."""
    return [name for name in instances[0].strategies if all(name in i.strategies for i in instances)]


def _distinct(instances: list[Instance]) -> list[Instance]:
    """Instances that differ in what they read."""
    return list({(i.operands, tuple(s.inputs for s in i.strategies.values())): i for i in instances}.values())


def _lexicographic(
    problem: Problem, model: LinearModel, bytes_of: dict[int, float], effort_of: dict[int, float]
) -> Solution | None:
    whole = _held_otherwise(model, problem)
    shares = {model.column(("hold", *key), True): share for key, share in problem.shares.items()}
    if problem.memory is not None:
        model.row({i: share / problem.memory for i, share in shares.items()}, -np.inf, 1.0)
    unsplit = 0.0
    if whole:
        _, unsplit, _, optimal = model.minimise(whole)
        if not optimal:
            return None
        model.limit(whole, unsplit)
    values, least, bound, optimal = model.minimise(bytes_of)
    if not optimal:
        return None
    model.limit(bytes_of, least)
    for costs in (effort_of, shares):
        better, lowest, _, found = model.minimise(costs)
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
    return Solution(strategy, state, conversions, least, bound, optimal, unsplit)


__all__ = ["PARTIAL", "WHOLE", "Conversion", "LinearModel", "Problem", "Solution", "solve_problem"]
