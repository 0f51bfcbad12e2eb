"""Where gradients are summed over ranks: the states of cotangents, chosen after the forward's.

A whole value's cotangent is whole too (R: every rank holds the true one), or partial (V: the true one is the sum over
ranks). Everything else follows from the forward's states (DESIGN 5):

    op on parts        operands without the split axis are V: each rank computes the contribution of its part
    op run whole       all its operands and results are R, or all are V: backward is linear in the cotangent
    split values       each rank's cotangent counts in its place; where ranks hold the same indices they are summed
    partial sums       every rank's cotangent is the true one
    a parameter in V   its gradient is summed over ranks once, after backward

    m[v] = 1 where v is made in V,  u[n] = 1 where op n, run whole, is in V
    R -> V     c >= u - m    backward all-reduces: 2 (n - 1) / n S        V -> R   l >= m - u   nothing moves
    P -> V     c >= u        the same                                     P -> R   nothing
    S -> V     c >= u        where all read it in V, backward reduce-scatters: (n - 1) / n S; else as R -> V
    R -> S     1 - m         backward all-gathers: (n - 1) / n S          V -> S   nothing

Fewest bytes of one backward pass, then fewest collectives at natural places: the same exact solver as the forward's,
whose choices stay as they are. Example: x -> norm -> q, k, v split by heads. q, k, v's matmuls make their input V; the
norm can run in R and its result enter V (one all-reduce of x's size for the three of them), or in V, then its weight's
gradient is summed too and x enters.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch

from axisplit.capture.graph import Node
from axisplit.errors import PlanMismatchError
from axisplit.lower.decision import Decision
from axisplit.runtime.costs import all_reduce_bytes, busiest_all_gather_bytes
from axisplit.solve.build import MID_FORWARD, has_place, share_bytes
from axisplit.solve.cotangents import Cotangents
from axisplit.solve.linear import LinearModel
from axisplit.solve.plan import CotangentPlan, Plan
from axisplit.solve.states import WHOLE

VARIED_OP, VARIED_PARAMETER = 0.01, 1.0  # efforts: among equals things stay R; a summed gradient is a collective
Mode = int | tuple[str, str]  # 0 for R, 1 for V, or the variable that says so


@dataclass
class _Class:
    """What is known of the values of one key together."""

    source: str
    mode: Mode = 0
    wanted: set[Mode] = field(default_factory=set)  # modes in which ops (run whole or on parts) read it whole
    as_made: set[Mode] = field(default_factory=set)  # of these, the modes that must be the one it is made in
    taken: set[str] = field(default_factory=set)  # split states it is cut into
    enter_bytes: float = 0.0  # of one pass, all members together
    born_bytes: float = 0.0
    take_bytes: dict[str, float] = field(default_factory=dict)
    reachable: bool = True
    natural: bool = True
    parameter: bool = False


def carrying(decision: Decision, origins: tuple[str, ...] = ("parameter", "input")) -> set[int]:
    """Values that have a cotangent: real or complex numbers that depend on leaves of these origins, or on values whose
    gradient the model's Python asks for, and that an output of such numbers needs; what is detached, or computed where
    gradients are off, has none.
    """
    graph = decision.graph
    found = {v.index for v in graph.values if v.origin in origins and _is_continuous(v.dtype)} | graph.watched
    for node in graph.nodes:
        if node.op._opname != "detach" and not node.detached and any(v in found for v in node.inputs()):
            found |= {v for v in node.outputs if _is_continuous(graph.values[v].dtype)}
    needed = {value for _, value in graph.outputs} & found
    for node in reversed(graph.nodes):
        if any(v in needed for v in node.outputs):
            needed |= set(node.inputs()) & found
    return needed


def _is_continuous(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def choose_cotangents(decision: Decision, forbidden: frozenset[str] = frozenset()) -> Cotangents | None:
    """The cotangents' states that move the fewest bytes in one backward pass; None if there are none.

    Args:
        forbidden: value classes that cannot be converted between R and V anywhere in the Python, and `reader` names
            of ops in front of which no value can be.
    """
    values = frozenset(carrying(decision))
    classes, live = _classes(decision, values, forbidden)
    model, bytes_of, effort_of = LinearModel(), dict[int, float](), dict[int, float]()
    for key, found in sorted(classes.items()):
        _add_class(model, key, found, bytes_of, effort_of)
    for column in [c for key, c in model.columns.items() if key[0] == "node"]:
        effort_of[column] = effort_of.get(column, 0.0) + VARIED_OP
    if not model.columns:
        return Cotangents(frozenset(), frozenset(), frozenset(classes), values, frozenset(live), 0.0)
    chosen_at, least, _, optimal = model.minimise(bytes_of)
    if not optimal:
        return None
    model.limit(bytes_of, least)
    better, _, _, optimal = model.minimise(effort_of)
    chosen_at = better if optimal else chosen_at
    chosen = {key for key, column in model.columns.items() if chosen_at[column] > 0.5}
    return Cotangents(
        frozenset(name for kind, name in (k[:2] for k in chosen) if kind == "node"),
        frozenset(name for kind, name in (k[:2] for k in chosen) if kind == "leaf"),
        frozenset(classes),
        values,
        frozenset(live),
        least,
    )


def planned_cotangents(chosen: Cotangents | None) -> CotangentPlan | None:
    """What was chosen, for a plan; the rest of it follows from the forward's choices (`restored_cotangents`)."""
    return None if chosen is None else CotangentPlan(tuple(sorted(chosen.nodes)), tuple(sorted(chosen.leaves)))


def restored_cotangents(decision: Decision, plan: Plan) -> Cotangents | None:
    """What a plan's `cotangents` were made of, on a freshly captured graph; None if it has none.

    Raises: PlanMismatchError if the graph has not the ops or parameters that are named.
    """
    planned = plan.cotangents
    if planned is None:
        return None
    values = frozenset(carrying(decision))
    classes, live = _classes(decision, values, frozenset())
    unknown = [key for key in planned.ops if key not in live] + [
        key for key in planned.parameters if key not in classes
    ]
    if unknown:
        raise PlanMismatchError(
            "the plan's backward is another model's",
            got="\n".join(unknown),
            needed="ops and parameters that carry a cotangent",
            do="plan this model again with these versions",
        )
    moved = sum(c.bytes for c in plan.collectives if c.phase == "backward")
    ops, parameters = frozenset(planned.ops), frozenset(planned.parameters)
    return Cotangents(ops, parameters, frozenset(classes), values, frozenset(live), moved)


def _classes(
    decision: Decision, values: frozenset[int], forbidden: frozenset[str]
) -> tuple[dict[str, _Class], set[str]]:
    """(classes of the values, which carry a cotangent; node classes that pass one on)."""
    graph, ties = decision.graph, decision.search.ties
    trained = carrying(decision, ("parameter",))
    live = {ties.node[n.index] for n in graph.nodes if any(v in values for v in n.outputs)}
    found: dict[str, _Class] = {}
    producer = graph.producer
    for value in sorted(values):
        key, made = ties.value[value], decision.made_in(value)
        entry = found.setdefault(key, _Class(made, _made_mode(decision, value, producer.get(value), key)))
        if value in trained:
            _weigh(decision, entry, value, producer.get(value))
        entry.reachable &= key not in forbidden and (made != WHOLE or has_place(decision.search, value))
        entry.natural &= value in decision.search.given or value in decision.search.returned
    for node in graph.nodes:
        key = ties.node[node.index]
        strategy = decision.strategy(node)
        for value, state in zip(node.inputs(), strategy.inputs, strict=True):
            entry_key = ties.value[value]
            if value not in values or key not in live:
                continue
            if state == WHOLE:
                mode: Mode = ("node", key) if strategy.name == "whole" else 1
                found[entry_key].wanted.add(mode)
                if reader(key) in forbidden:
                    found[entry_key].as_made.add(mode)
            elif state[0] == "S" and found[entry_key].source != state:
                found[entry_key].taken.add(state)
    for _, value in graph.outputs:
        if value in values:
            found[ties.value[value]].wanted.add(0)
    return found, live


def reader(key: str) -> str:
    """What says, among forbidden classes, that an op of this class takes its operands as they are made."""
    return f"reader {key}"


def _made_mode(decision: Decision, value: int, node: Node | None, key: str) -> Mode:
    if decision.made_in(value) != WHOLE:
        return 0
    if node is None:
        return ("leaf", key) if decision.graph.values[value].origin == "parameter" else 0
    return ("node", decision.search.ties.node[node.index]) if decision.strategy(node).name == "whole" else 1


def _weigh(decision: Decision, entry: _Class, value: int, node: Node | None) -> None:
    """Add one value's bytes in the first phase (the one that is trained) to its class."""
    graph, search, n = decision.graph, decision.search, decision.num_ranks
    info = graph.values[value]
    if info.origin == "parameter":
        entry.parameter, count = True, search.times_read(value)
    else:
        count = search.times(node.index) if node is not None and node.phase == graph.phases[0] else 0
    if not count:
        return
    entry.enter_bytes += count * all_reduce_bytes(info.bytes, n)
    entry.born_bytes += count * _born_bytes(decision, value, entry.source)
    for use in decision.uses(value):
        state = use[2]
        if state[0] == "S" and state != entry.source:
            shares = share_bytes(search, value, state)
            entry.take_bytes[state] = entry.take_bytes.get(state, 0.0) + count * busiest_all_gather_bytes(shares)


def _born_bytes(decision: Decision, value: int, source: str) -> float:
    """What backward sends where a value becomes V at once from the state it is made in."""
    if source[0] != "S":
        return all_reduce_bytes(decision.graph.values[value].bytes, decision.num_ranks)
    return busiest_all_gather_bytes(share_bytes(decision.search, value, source))


def _add_class(
    model: LinearModel, key: str, found: _Class, bytes_of: dict[int, float], effort_of: dict[int, float]
) -> None:
    """Columns and rows of one class of values."""
    place = 0.0 if found.natural else MID_FORWARD
    if found.source != WHOLE:
        _add_made_whole(model, key, found, place, bytes_of, effort_of)
        return
    if found.parameter and isinstance(found.mode, tuple):
        column = model.column(found.mode, True)
        bytes_of[column], effort_of[column] = found.enter_bytes, VARIED_PARAMETER
    for state in found.taken:
        if isinstance(found.mode, tuple):
            column = model.column(found.mode, True)
            bytes_of[column] = bytes_of.get(column, 0.0) - found.take_bytes.get(state, 0.0)
    for mode in sorted(found.wanted, key=str):
        if mode == found.mode:
            continue
        if found.parameter or not found.reachable or mode in found.as_made:
            _row(model, {}, [(mode, 1.0), (found.mode, -1.0)], low=0.0, high=0.0)
            continue
        enter, leave = model.column(("enter", key), False), model.column(("leave", key), False)
        bytes_of[enter], effort_of[enter] = found.enter_bytes, 1.0 + place
        effort_of[leave] = 0.5 + place
        _row(model, {enter: 1.0}, [(mode, -1.0), (found.mode, 1.0)], low=0.0)
        _row(model, {leave: 1.0}, [(mode, 1.0), (found.mode, -1.0)], low=0.0)


def _add_made_whole(
    model: LinearModel,
    key: str,
    found: _Class,
    place: float,
    bytes_of: dict[int, float],
    effort_of: dict[int, float],
) -> None:
    """A split or partial value that some ops read whole: V at once where all of them want that, else R and then V."""
    modes = sorted(found.wanted, key=str)
    if not any(modes):
        return
    born, enter = model.column(("born", key), True), model.column(("enter", key), False)
    bytes_of[born], effort_of[born] = found.born_bytes, 1.0
    bytes_of[enter], effort_of[enter] = found.enter_bytes, 1.0 + place
    for mode in modes:
        _row(model, {enter: 1.0, born: 1.0}, [(mode, -1.0)], low=0.0)
        _row(model, {born: -1.0}, [(mode, 1.0)], low=0.0)
        if not found.reachable:  # one state for all that read it
            _row(model, {}, [(mode, 1.0), (modes[0], -1.0)], low=0.0, high=0.0)


def _row(
    model: LinearModel, terms: dict[int, float], modes: list[tuple[Mode, float]], low: float, high: float = np.inf
) -> None:
    """Low <= terms + modes <= high, constant modes moved to the sides."""
    row, constant = defaultdict(float, terms), 0.0
    for mode, weight in modes:
        if isinstance(mode, tuple):
            row[model.column(mode, True)] += weight
        else:
            constant += weight * mode
    model.row(dict(row), low - constant, high - constant)
