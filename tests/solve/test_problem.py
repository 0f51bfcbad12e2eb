"""The solver against brute force, and the choices that only an exact solver makes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from itertools import combinations, product
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from axisplit.runtime.costs import all_gather_bytes, all_reduce_bytes
from axisplit.solve.linear import LinearModel
from axisplit.solve.problem import (
    CARRIED,
    Conversion,
    Instance,
    LeastBytes,
    Problem,
    Solution,
    common_strategies,
    solve_problem,
)
from axisplit.solve.states import PARTIAL, WHOLE, Strategy
from solve.small import TOKENS, WIDTH, Narrowing, Parallel, Residual, decide, features, tokens

K, V = TypeVar("K"), TypeVar("V")
STATES = (WHOLE, "S:a", "S:b", PARTIAL)
Decided = tuple[dict[str, str], dict[str, str]]  # strategies of node classes, states of leaf values


def any_problem(rng: random.Random) -> Problem:
    """A chain with shortcuts of up to 4 node classes, of which some occur twice, with arbitrary costs."""
    problem = Problem()
    values: list[tuple[str, ...]] = []  # for each value class, or pair of classes that a node made in two places
    for leaf in range(rng.randint(1, 3)):
        name = f"leaf {leaf}"
        problem.held[name] = [WHOLE, *rng.sample(STATES[1:], rng.randint(0, 3))]
        problem.shares.update({(name, state): float(rng.randint(1, 9)) for state in problem.held[name]})
        values.append((name,))
        if rng.random() < 0.6:
            problem.must_split[name] = (float(rng.randint(1, 9)), frozenset(rng.sample(STATES[1:3], rng.randint(1, 2))))
    for node in range(rng.randint(1, 4)):
        places = rng.choice([1, 1, 2])
        reads = [rng.choice(values) for _ in range(rng.randint(1, 2))]
        made = tuple(f"value {node}.{place}" for place in range(places))
        shapes = [(tuple(rng.choice(STATES) for _ in reads), (rng.choice(STATES),)) for _ in range(rng.randint(1, 3))]
        named = {f"way {i}": Strategy(f"way {i}", *shape) for i, shape in enumerate(shapes)}
        named["whole"] = Strategy("whole", (WHOLE,) * len(reads), (WHOLE,))
        for place in range(places):
            operands = tuple(read[place % len(read)] for read in reads)
            offered = {n: s for n, s in named.items() if n == "whole" or rng.random() < 0.9}
            problem.instances.setdefault(f"node {node}", []).append(Instance(operands, (made[place],), offered))
        problem.made.update({(f"node {node}", way): rng.choice([0.0, 0.75, 2.5]) for way in named})
        values.append(made)
    problem.wanted = set(values[-1])
    for name in (name for value in values for name in value):
        for source, target in product(STATES, STATES):
            if source != target and not (name.startswith("leaf") and rng.random() < 0.7) and rng.random() < 0.8:
                cost = float(rng.choice([0, 1, 2, 3, 5, 8, 13]))
                problem.conversions[name, source, target] = Conversion(
                    (), cost, rng.randint(0, 2), rng.choice([0, 0.25])
                )
    return problem


def price(problem: Problem, decided: Decided) -> tuple[float, float, float] | None:
    """(bytes whole that should be split, bytes moved, effort) of one assignment, or None if something has no way."""
    strategy, state = decided
    produced, needed = dict(state), {(name, WHOLE) for name in problem.wanted}
    effort = 0.0
    for node, instances in problem.instances.items():
        for instance in instances:
            chosen = instance.strategies[strategy[node]]
            produced.update(zip(instance.outputs, chosen.outputs, strict=True))
            needed |= set(zip(instance.operands, chosen.inputs, strict=True))
        effort += CARRIED * (PARTIAL in instances[0].strategies[strategy[node]].inputs)
        effort += problem.made[node, strategy[node]]
    moved = 0.0
    for name, wanted in needed:
        if produced[name] != wanted:
            conversion = problem.conversions.get((name, produced[name], wanted))
            if conversion is None:
                return None
            moved += conversion.bytes
            effort += conversion.collectives + conversion.effort
    whole = sum(size for name, (size, states) in problem.must_split.items() if state[name] not in states)
    return whole, moved, effort


def every_assignment(problem: Problem) -> list[Decided]:
    ways = [common_strategies(instances) for instances in problem.instances.values()]
    return [
        (dict(zip(problem.instances, names, strict=True)), dict(zip(problem.held, states, strict=True)))
        for names in product(*ways)
        for states in product(*problem.held.values())
    ]


@settings(max_examples=120)
@given(st.integers(0, 10**9))
def test_the_optimum_is_that_of_brute_force(seed: int) -> None:
    problem = any_problem(random.Random(seed))
    prices = [p for p in (price(problem, decided) for decided in every_assignment(problem)) if p is not None]
    solution = solve_problem(problem)
    if not prices:
        assert solution is None
        return
    assert solution is not None
    assert solution.optimal
    whole, moved, effort = min((round(a, 6), round(b, 6), round(c, 6)) for a, b, c in prices)
    assert (round(solution.unsplit, 6), round(solution.bytes, 6)) == (whole, moved)
    assert abs(solution.bound - solution.bytes) < 1e-6
    found = price(problem, (solution.strategy, solution.state))
    assert found is not None
    assert tuple(round(x, 4) for x in found) == (round(whole, 4), round(moved, 4), round(effort, 4))
    met = [moved for whole, moved, _ in prices if whole == 0]
    least = LeastBytes(problem)(problem.must_split)
    assert (least is None) == (not met)
    assert least is None or abs(least - min(met)) < 1e-6


@settings(max_examples=40)
@given(st.integers(0, 10**9), st.floats(0.2, 1.0))
def test_a_memory_bound_is_that_of_brute_force(seed: int, fraction: float) -> None:
    problem = any_problem(random.Random(seed))
    problem.must_split = {}
    problem.memory = fraction * sum(max(problem.shares[n, s] for s in states) for n, states in problem.held.items())
    prices = []
    for decided in every_assignment(problem):
        found = price(problem, decided)
        if found is not None and sum(problem.shares[item] for item in decided[1].items()) <= problem.memory + 1e-9:
            prices.append(found[1])
    solution = solve_problem(problem)
    assert (solution is None) == (not prices)
    if solution is not None:
        assert abs(solution.bytes - min(prices)) < 1e-6


def test_equal_optima_are_told_apart() -> None:
    """Rows and columns in another order lead a solver to another one of several optima, as another version of it may
    come to.
    """
    for seed in range(60):
        solution = solve_problem(any_problem(random.Random(seed)))
        other = solve_problem(in_other_order(any_problem(random.Random(seed)), random.Random(seed)))
        assert (solution is None) == (other is None)
        assert solution is None or (solution.strategy, solution.state) == (other.strategy, other.state)


def in_other_order(problem: Problem, rng: random.Random) -> Problem:
    def mixed(items: dict[K, V]) -> dict[K, V]:
        return dict(rng.sample(list(items.items()), len(items)))

    for instances in problem.instances.values():
        instances[:] = [replace(instance, strategies=mixed(instance.strategies)) for instance in instances]
    held = {name: rng.sample(states, len(states)) for name, states in problem.held.items()}
    return replace(
        problem, instances=mixed(problem.instances), held=mixed(held), conversions=mixed(problem.conversions)
    )


def test_what_many_values_share_is_preferred() -> None:
    """A leaf that can be split two ways at one price is split as another one can be, too."""
    for shared, other in (("S:a", "S:b"), ("S:b", "S:a")):
        problem = Problem(held={"left": [WHOLE, "S:a", "S:b"], "right": [WHOLE, shared]}, wanted={"left", "right"})
        problem.shares = {(n, s): 1.0 if s == WHOLE else 0.5 for n, states in problem.held.items() for s in states}
        problem.must_split = {name: (1.0, frozenset({"S:a", "S:b"})) for name in problem.held}
        gather = Conversion(("all_gather",), 1.0, 1, 0.0)
        problem.conversions = {(name, s, WHOLE): gather for name in problem.held for s in (shared, other)}
        solution = solve_problem(problem)
        assert solution is not None
        assert solution.state == {"left": shared, "right": shared}


# --- models -------------------------------------------------------------------------------------------------------


def collectives(model: nn.Module, ranks: int = 2, **wishes: object) -> tuple[list[str], float]:
    """(kinds of collectives, bytes) of a plan for features [2, TOKENS, WIDTH] or tokens."""
    inputs = tokens() if isinstance(model, Residual) else features()
    _, choice = decide(model, inputs, ranks, **wishes)
    taken = choice.solution.conversions
    steps = [choice.problem.conversions[value, source, target].steps for (value, target), source in taken.items()]
    return sorted(step for found in steps for step in found if step.startswith("all_")), choice.solution.bytes


def test_branches_that_meet_share_one_all_reduce() -> None:
    """Where a partial sum is reduced is a minimum cut: behind the sum of both branches, not once in each."""
    kinds, moved = collectives(Parallel())
    assert kinds == ["all_reduce"]
    assert moved == all_reduce_bytes(2 * TOKENS * WIDTH * 4, 2)


def test_a_partial_sum_is_reduced_where_it_is_narrow() -> None:
    """[.., 64] of partial sums pass through a whole [2, 64] matrix first: 2 columns are reduced, not 64."""
    kinds, moved = collectives(Narrowing(), keep=("narrow.weight",))
    assert kinds == ["all_reduce"]
    assert moved == all_reduce_bytes(2 * TOKENS * 2 * 4, 2)


def test_column_then_row_is_one_all_reduce() -> None:
    kinds, moved = collectives(nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH)), ranks=3)
    assert kinds == ["all_reduce"]
    assert moved == all_reduce_bytes(2 * TOKENS * WIDTH * 4, 3)


def test_a_non_linear_end_is_gathered() -> None:
    """`gelu` of partial sums is no sum of parts: a lone matrix is split by columns, and its result gathered."""
    kinds, moved = collectives(nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU()))
    assert kinds == ["all_gather"]
    share = 2 * TOKENS * 16 * 4
    assert moved == all_gather_bytes([share, share], 0)


PLANNED_APART = """
import json
from solve.small import Residual, decide, tokens
_, choice = decide(Residual(), tokens(), 3)
print(json.dumps([choice.solution.strategy, choice.solution.state], sort_keys=True))
"""


def test_ranks_that_plan_apart_get_the_same_plan() -> None:
    """Nothing may depend on the order of sets and hashes, which differs in every process."""
    _, choice = decide(Residual(), tokens(), 3)
    environment = {**os.environ, "PYTHONHASHSEED": "4321", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    run = subprocess.run([sys.executable, "-c", PLANNED_APART], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    here: Solution = choice.solution
    assert json.loads(run.stdout) == [here.strategy, here.state]


def test_columns_are_settled_only_where_every_whole_optimum_has_them_at_0() -> None:
    """Two of three edges' ends, or one column for all: the relaxation takes halves and prices that column out (1.5 and
    1.5 + 0.4), the whole optimum is that column.
    """
    model = LinearModel()
    *ends, every = (model.column((name,), True) for name in ("a", "b", "c", "every"))
    for left, right in combinations(ends, 2):
        model.row({left: 1.0, right: 1.0, every: 1.0}, 1.0, 9.0)
    costs = {**dict.fromkeys(ends, 1.0), every: 1.9}
    _, least, bound, optimal = model.minimise(costs, relax=True)
    assert (round(least, 6), round(bound, 6), optimal) == (1.9, 1.9, True)
    model.limit(costs, least)
    values, _, _, optimal = model.minimise(dict.fromkeys(ends, 1.0))
    assert optimal
    assert values.round(6).tolist() == [0, 0, 0, 1]
