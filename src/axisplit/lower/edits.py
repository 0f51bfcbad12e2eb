"""Solve for the integer attributes that make a module's own Python issue the local ops.

Every op whose arguments change on a rank gives equations: the expression that Python evaluated over attributes must now
come to the local number, and every other expression over the same attributes must keep its value. All equations of a
rank are solved together, first those that name one attribute alone, then the rest by search over the attributes left
open. An attribute that would need two values has no solution: the strategies that asked for them are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from axisplit.capture.graph import Node
from axisplit.capture.integers import flat_integers
from axisplit.capture.provenance import Attribute, Dim, Expression, Leaf
from axisplit.lower.decision import Decision
from axisplit.lower.places import Refusal


@dataclass(frozen=True)
class Equation:
    """On some rank, `expression` must come to `value`; `node` says which op wants it."""

    expression: Expression
    value: int
    node: int
    sizes: tuple[tuple[Dim, int], ...] = ()  # what the rank reads where the expression reads a tensor's size
    position: int = -1  # of the number among the op's integers


def equations(decision: Decision, rank: int) -> list[Equation]:
    """What one rank's ops ask of the attributes."""
    found = []
    for node in decision.graph.nodes:
        if node.traced and node.index not in decision.captured_in:
            wanted = _local_integers(decision, node, rank)
            for position, expression in node.traced:
                if any(True for _ in expression.attributes()):
                    sizes = tuple((dim, size_read(decision, dim, rank)) for dim in expression.dims())
                    found.append(Equation(expression, wanted[position], node.index, sizes, position))
    return found


def size_read(decision: Decision, dim: Dim, rank: int) -> int:
    """A tensor's size as the rank's Python reads it."""
    return decision.local_shape(dim.value, state_read(decision, dim), rank)[dim.position]


def state_read(decision: Decision, dim: Dim) -> str:
    """The state in which Python reads a tensor's size: that which all its uses agree on, else as it was made; what is
    cut along an index of the inputs is cut behind that (`places`).
    """
    wanted = {s for _, _, s in decision.uses(dim.value)}
    if len(wanted) == 1:
        (state,) = wanted
        if state[0] != "I" and not (state[0] == "S" and decision.split(state).follows):
            return state
    return decision.made_in(dim.value)


def _local_integers(decision: Decision, node: Node, rank: int) -> list[int]:
    return list(flat_integers(decision.local_arguments(node, decision.strategy(node), rank)))


class Wrapping(Protocol):
    """Which integers can be wrapped in the source instead (`sizes.Sizes`)."""

    def can_wrap(self, equation: Equation) -> bool: ...

    def other_way(self, equation: Equation) -> bool:
        """Whether what would be done first failed the proof: attributes, or wrapping where these cannot be."""


def solve_edits(
    decision: Decision, attributes: dict[Attribute, int], wrapping: Wrapping
) -> tuple[list[dict[Attribute, int]], list[Refusal]]:
    """Attributes to rewrite on each rank (only those that change), and what cannot be had. Integers that can be wrapped
    in the source need not come out right where that is the only way (`sizes.py`).
    """
    edits: dict[int, dict[Attribute, int]] = {rank: {} for rank in decision.one_of_each}
    refusals: list[Refusal] = []
    for groups in zip(*(_connected(equations(decision, rank)) for rank in edits), strict=True):
        solutions = _solve_on_all(groups, attributes, wrapping)
        for group, changed, solution in zip(groups, edits.values(), solutions, strict=True):
            if solution is None:
                refusals += _blame(decision, group, attributes)
            else:
                changed.update({a: v for a, v in solution.items() if v != attributes[a]})
    return [edits[kind] for kind in decision.kinds], refusals


Solution = dict[Attribute, int] | None


def _solve_on_all(
    groups: Sequence[list[Equation]], attributes: dict[Attribute, int], wrapping: Wrapping
) -> list[Solution]:
    """Equations over the same attributes on all ranks: all of them by attributes; or without the integers that change
    and can be wrapped; or without all that can be wrapped.
    """
    first = [_solve(group, attributes) for group in groups]
    other = {(e.node, e.position) for e in groups[0] if wrapping.other_way(e)}
    if None not in first and not other:
        return first
    can = {(e.node, e.position) for e in groups[0] if wrapping.can_wrap(e)}
    changed = {(e.node, e.position) for group in groups for e in group if not _holds(e, attributes)}
    can = can - other if None in first else can & other
    for free in (can & changed, can):
        rest = [[e for e in group if (e.node, e.position) not in free] for group in groups]
        found = [_solve(group, attributes) for group in rest]
        if None not in found:
            return found
    return first


def _connected(found: list[Equation]) -> list[list[Equation]]:
    """Equations that share attributes, together."""
    group_of: dict[Attribute, int] = {}
    groups: dict[int, list[Equation]] = {}
    for number, equation in enumerate(found):
        members, names = [equation], set(equation.expression.attributes())
        for old in {group_of[name] for name in names if name in group_of}:
            members = groups.pop(old) + members
        for name in names | {n for e in members for n in e.expression.attributes()}:
            group_of[name] = number
        groups[number] = members
    return list(groups.values())


def _solve(group: list[Equation], attributes: dict[Attribute, int]) -> Solution:
    known: dict[Attribute, int] = {}
    for equation in group:
        name = equation.expression
        if isinstance(name, Attribute) and known.setdefault(name, equation.value) != equation.value:
            return None
    names = sorted({n for e in group for n in e.expression.attributes()} - known.keys(), key=str)
    compound = [e for e in group if not isinstance(e.expression, Attribute)]
    return _search(names, known, compound, attributes)


def _search(
    names: list[Attribute], known: dict[Attribute, int], compound: list[Equation], attributes: dict[Attribute, int]
) -> dict[Attribute, int] | None:
    """Depth first over the open attributes; each tries its present value first, then smaller ones."""
    if any(not _holds(e, known) for e in compound if set(e.expression.attributes()) <= known.keys()):
        return None
    if not names:
        return known
    name, *rest = names
    present = attributes[name]
    for value in [present, *range(min(present, 1 << 16) - 1, 0, -1)]:
        found = _search(rest, {**known, name: value}, compound, attributes)
        if found is not None:
            return found
    return None


def _holds(equation: Equation, values: dict[Attribute, int]) -> bool:
    known: dict[Leaf, int] = {name: value for name, value in values.items()}  # noqa: C416  a wider key
    known.update(equation.sizes)
    try:
        return equation.expression.evaluate(known) == equation.value
    except ZeroDivisionError:
        return False


def _blame(decision: Decision, group: list[Equation], attributes: dict[Attribute, int]) -> list[Refusal]:
    """Forbid the strategies that asked for a change (where none did, all that are not whole); whole ones stay."""
    found: dict[str, Refusal] = {}
    for only_changed in (True, False):
        for equation in group:
            key = decision.search.ties.node[equation.node]
            strategy = decision.choice.solution.strategy[key]
            if strategy != "whole" and not (only_changed and _holds(equation, attributes)):
                names = ", ".join(sorted({str(n) for n in equation.expression.attributes()}))
                found[key] = Refusal(("run", key, strategy), f"{names} would need more than one value", equation.node)
        if found:
            break
    return list(found.values())
