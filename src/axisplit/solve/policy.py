"""What must be split: the purpose that makes "fewest bytes" a question (no split at all moves nothing).

Every parameter of two or more dims that has an axis to split is split. Left free to follow or stay whole are

    small     the smallest ones that together hold under 1% of the parameter bytes
    kept      those the user names
    lone      those whose split nobody shares: no axis of theirs is closed, splitting them costs at least what it would
              cost to split them alone, and more for each byte than the others' split does

An axis is closed if no op needs all of it and no mean is taken over it: split, it runs from op to op until sums reduce
it (ffn, heads, vocab). Where two closed axes meet in an op only one can be split there: the one that covers more bytes
counts (a single value head's features lose to the query heads). A parameter without a closed axis (the single key head
of multi-query attention, a low-rank projection in front of a norm, a router) can often only be split by a collective of
its own in the middle of a block. Whether that is so is measured, by solving with and without it: if its split rides on
collectives that are there anyway (mamba's x_proj, q_proj before olmo2's norm), it is split. Beside larger parameters
of its module that are split it has to ride more cheaply. Alone in its module (a convolution
between norms) a parameter may only stay whole while all lone ones hold under a tenth of the bytes: beyond it the
cheapest for each byte are split.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from math import inf

from axisplit.solve.build import Search, build_problem, conversion_bytes, phase_weight, share_bytes
from axisplit.solve.problem import LeastBytes, Problem, Solution, common_strategies, solve_problem
from axisplit.solve.splits import Split
from axisplit.solve.states import PARTIAL, WHOLE

SMALL_FRACTION = 0.01
# of the parameter bytes: what is too dear may stay whole up to here, if it is no smaller part of its module
LONE_FRACTION = 0.1
# a split that costs less than this part of its own price shares the others' collectives
SHARED, SHARED_BESIDE_LARGER = 0.9, 0.25


@dataclass(frozen=True)
class Choice:
    """A solution and, for each parameter class left whole on purpose, why."""

    solution: Solution
    problem: Problem
    whole_reasons: dict[str, str]


def choose(search: Search, keep: tuple[str, ...] = (), memory_per_rank: float | None = None) -> Choice | None:
    """The best plan's decisions; None if a memory bound cannot be met."""
    problem = build_problem(search)
    reasons = _apply_keep(search, problem, keep)
    sizes = _class_bytes(search)
    problem.shares = _shares(search, problem)
    if memory_per_rank is not None:
        problem.memory = memory_per_rank
        solution = solve_problem(problem)
        return None if solution is None else Choice(solution, problem, reasons)
    candidates = _splittable(search, problem, reasons)
    reasons.update(_small(sizes, candidates, reasons))
    must = {n: (float(sizes[n]), _truly_split(search, problem, n, sizes[n])) for n in candidates if n not in reasons}
    least = LeastBytes(problem)
    reasons.update(_lone(search, problem, must, least))
    problem.must_split = {name: must[name] for name in must if name not in reasons}
    solution = solve_problem(problem, least)
    assert solution is not None, "a problem without a memory bound always has the whole model as a solution"
    return Choice(solution, problem, reasons)


def least_with(search: Search, choice: Choice, keep: tuple[str, ...] = ()) -> float | None:
    """Fewest bytes with the parameters split that another search's choice had to split, and in its memory; None if that
    cannot be.
    """
    problem = build_problem(search)
    _apply_keep(search, problem, keep)
    return LeastBytes(problem)(choice.problem.must_split)


def _lone(
    search: Search, problem: Problem, must: dict[str, tuple[float, frozenset[str]]], least: LeastBytes
) -> dict[str, str]:
    """Parameters without a closed axis of their own whose split nobody shares.

    They are added to those with one, largest first, and stay if that costs clearly less than splitting them alone, or
    no more for each byte than what is split already; and where too much would be left whole, the cheapest of the rest.
    """
    closed = _closed_splits(search, must)
    inner = _inner_parameters(search)
    doubtful = [name for name in must if name in inner and not _covered(search, problem, name, closed)]
    chosen = {name: must[name] for name in must if name not in doubtful}
    if not doubtful:
        return {}
    now, together = least(chosen), least(must)
    if now is None:
        return {}  # the others cannot all be split: whole bytes decide then
    prices = {n: _price(search, problem, n, doubtful, must) for n in doubtful}
    if together is not None and together - now < min(prices.values()):
        return {}  # none of them alone costs more than all of them
    real = _real_bytes(search)
    usual = now / max(sum(real[name] for name in chosen), 1)  # bytes moved for each byte that is split
    lone: dict[str, float] = {}  # name -> bytes moved for each byte that it would split
    for name in sorted(doubtful, key=lambda n: (-must[n][0], n)):
        forced = least({**chosen, name: must[name]})
        if forced is None or forced - now >= max(prices[name], usual * real[name]) > 0:
            lone[name] = inf if forced is None else (forced - now) / real[name]
        else:
            chosen[name], now = must[name], forced
    major = {n: (real[n], rate) for n, rate in lone.items() if rate < inf and not _is_minor(n, doubtful, must)}
    minor = sum(real[name] for name in lone if name not in major)
    split = _beyond(major, LONE_FRACTION * sum(real.values()) - minor)
    reason = "its axes end in the middle of the block: splitting it would need a collective of its own"
    return {name: reason for name in lone if name not in split}


def _beyond(lone: dict[str, tuple[int, float]], budget: float) -> set[str]:
    """Of parameters with (bytes, bytes moved for each byte that is split): those to split so that the others are within
    the budget. The cheapest first, equally cheap ones together.

    >>> sorted(_beyond({"a": (60, 1.0), "b": (60, 2.0), "c": (60, 2.0), "d": (40, 3.0)}, 100))
    ['a', 'b', 'c']
    """
    left, found = sum(size for size, _ in lone.values()), set[str]()
    for rate in sorted({rate for _, rate in lone.values()}):
        if left <= budget:
            break
        alike = {name for name, (_, other) in lone.items() if name not in found and other <= rate * (1 + 1e-6)}
        found |= alike
        left -= sum(lone[name][0] for name in alike)
    return found


def _price(
    search: Search, problem: Problem, name: str, doubtful: list[str], must: dict[str, tuple[float, frozenset[str]]]
) -> float:
    """Bytes that a doubtful parameter's split may not cost."""
    part = SHARED_BESIDE_LARGER if _is_minor(name, doubtful, must) else SHARED
    return part * _lone_price(search, problem, name)


def _is_minor(name: str, doubtful: list[str], must: dict[str, tuple[float, frozenset[str]]]) -> bool:
    """Whether the doubtful parameters of a module hold less than half of what must be split there."""
    module = name.rsplit(".", 2)[0]
    beside = {n: size for n, (size, _) in must.items() if n.rsplit(".", 2)[0] == module}
    return sum(size for n, size in beside.items() if n in doubtful) < sum(beside.values()) / 2


def _apply_keep(search: Search, problem: Problem, keep: tuple[str, ...]) -> dict[str, str]:
    reasons = {}
    for name, value in search.derived.graph.parameters.items():
        for pattern in keep:
            if fnmatch(name, pattern):
                key = search.ties.value[value]
                problem.held[key] = [WHOLE]
                reasons[key] = f"kept whole as asked (--keep {pattern!r})"
    return reasons


def _class_bytes(search: Search) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for value in set(search.derived.graph.parameters.values()):
        key = search.ties.value[value]
        sizes[key] = sizes.get(key, 0) + search.derived.graph.values[value].bytes
    return sizes


def _real_bytes(search: Search) -> dict[str, int]:
    """Bytes of each class in the real model: a folded block's as often as it stands for one, as bytes moved are."""
    sizes: dict[str, int] = {}
    for value in set(search.derived.graph.parameters.values()):
        key = search.ties.value[value]
        sizes[key] = sizes.get(key, 0) + search.derived.graph.values[value].bytes * search.times_read(value)
    return sizes


def _splittable(search: Search, problem: Problem, kept: dict[str, str]) -> list[str]:
    """Classes of parameters of two or more dims for which some op offers a split that can be stored."""
    offered: set[tuple[str, str]] = set()
    for instances in problem.instances.values():
        names = common_strategies(instances)
        for instance in instances:
            for name in names:
                offered |= set(zip(instance.operands, instance.strategies[name].inputs, strict=True))
    found = []
    for value in dict.fromkeys(search.derived.graph.parameters.values()):
        key = search.ties.value[value]
        deep = len(search.derived.graph.values[value].shape) > 1
        if deep and key not in kept and any((key, state) in offered for state in problem.held[key] if state[0] == "S"):
            found.append(key)
    return list(dict.fromkeys(found))


def _small(sizes: dict[str, int], candidates: list[str], kept: dict[str, str]) -> dict[str, str]:
    budget, used, found = SMALL_FRACTION * sum(sizes.values()), 0, {}
    for name in sorted(candidates, key=lambda n: (sizes[n], n)):
        used += sizes[name]
        if used > budget:
            break
        found[name] = f"small ({sizes[name]:,} bytes): free to follow its neighbours"
    return found


def _shares(search: Search, problem: Problem) -> dict[tuple[str, str], float]:
    shares: dict[tuple[str, str], float] = {}
    for value in set(search.derived.graph.parameters.values()):
        key = search.ties.value[value]
        for state in problem.held[key]:
            shares[key, state] = shares.get((key, state), 0.0) + _share(search, value, state)
    return shares


def _share(search: Search, value: int, state: str) -> float:
    """Bytes on the fullest rank; among equals, less in all."""
    if state in (WHOLE, PARTIAL):
        return search.derived.graph.values[value].bytes * 1.001
    held = share_bytes(search, value, state)
    return max(held) + 0.001 * sum(held) / len(held)


def _truly_split(search: Search, problem: Problem, name: str, size: int) -> frozenset[str]:
    """States in which no rank holds more than halfway between an even share and all: splitting one segment of a packed
    matrix is not splitting the matrix.
    """
    most = 1.002 * size * (1 + 1 / search.num_ranks) / 2  # shares carry a trace of the mean
    return frozenset(s for s in problem.held[name] if s[0] == "S" and problem.shares[name, s] <= most)


def _inner_parameters(search: Search) -> set[str]:
    """Parameter classes that work on what other parameters made; those that face the model's inputs are not in the
    middle of anything.
    """
    graph, made, inner = search.derived.graph, set(_parameter_values(search)), set[str]()
    for node in graph.nodes:
        operands = set(node.inputs())
        for value in operands & set(search.ties.parameter):
            if (operands - {value}) & made - _parameter_values(search):
                inner.add(search.ties.parameter[value])
        if operands & made:
            made |= set(node.outputs)
    return inner


def _parameter_values(search: Search) -> set[int]:
    return set(search.derived.graph.parameters.values())


def _covered(search: Search, problem: Problem, name: str, closed: list[Split]) -> bool:
    """Whether a parameter class can be held in one of these splits."""
    return any(f"S:{split.name}" in problem.held[name] for split in closed)


def _closed_splits(search: Search, must: dict[str, tuple[float, frozenset[str]]]) -> list[Split]:
    """Splits of closed axes that can all be used at once: where two meet in an op, the one that covers more bytes."""
    open_axes = _open_axes(search)
    candidates = [s for s in search.splits.values() if not s.follows and not set(s.axes) & open_axes]
    axes_of = {n: _axes_of(search, v) for v, n in search.ties.parameter.items() if n in must}
    covers = {s.name: sum(must[n][0] for n, axes in axes_of.items() if axes & set(s.axes)) for s in candidates}
    derived = search.derived
    meetings = set()
    for node in derived.graph.nodes:
        touched = set().union(*(_axes_of(search, v) for v in (*node.inputs(), *node.outputs)))
        if len(touched) > 1:
            meetings.add(frozenset(touched))
    taken: list[Split] = []
    for split in sorted(candidates, key=lambda s: (-covers[s.name], s.name)):
        mine = set(split.axes)
        if not any(m & mine and m & set(other.axes) for other in taken for m in meetings):
            taken.append(split)
    return taken


def _axes_of(search: Search, value: int) -> set[str]:
    return {search.keys[leaf] for leaf in search.derived.leaves(value) if leaf in search.keys}


def _open_axes(search: Search) -> set[str]:
    """Axes that some op needs whole or takes a mean over."""
    found = set()
    for law in search.derived.laws:
        for axis in law.whole + (law.reduce if law.mean else []):
            found |= {search.keys[leaf] for leaf in search.derived.axes.leaves(axis) if leaf in search.keys}
    return found


def _lone_price(search: Search, problem: Problem, name: str) -> float:
    """Bytes to split a parameter and make the result whole at once: the least over its ops' strategies."""
    graph, ties = search.derived.graph, search.ties
    total = 0.0
    for value in {v for v in graph.parameters.values() if ties.value[v] == name}:
        for index in graph.uses.get(value, ()):
            node = graph.nodes[index]
            position = list(node.inputs()).index(value)
            prices = [
                sum(conversion_bytes(search, o, s) for o, s in zip(node.outputs, strategy.outputs, strict=True))
                for instance in problem.instances[ties.node[index]]
                for strategy in instance.strategies.values()
                if position < len(strategy.inputs) and strategy.inputs[position].startswith("S:")
            ]
            total += phase_weight(node.phase) * search.times(index) * min(prices, default=0.0)
    return total
