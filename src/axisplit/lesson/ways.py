"""Every way to run a formula on ranks, by what it does to each weight: the cheapest, and what ties with it.

    Way      computations and collectives in order; slices of what a rank has whole are free and not listed
    layout   the state in which each weight is held
    cost     bytes that the busiest rank sends, then the number of collectives, then slices of what was computed whole

Ops form a tree, so the cheapest way to make each result in each state, for each layout, is made of the cheapest ways of
its operands. For each layout there may also be a way with one faulty step that costs no more than the right one: what
is tempting, and wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from axisplit.lesson.formula import Name
from axisplit.lesson.setting import Fault, Run, Setting, Value
from axisplit.runtime.costs import all_gather_bytes, all_reduce_bytes, all_to_all_bytes, reduce_scatter_bytes
from axisplit.solve.states import PARTIAL, WHOLE

ITEMSIZE = 4  # float32
MOST_TIES = 4  # ways of equal cost that are told apart
ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL = "all_reduce", "all_gather", "reduce_scatter", "all_to_all"
COLLECTIVES = (ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL)


@dataclass(frozen=True)
class Compute:
    """An op, run in one of its ways."""

    op: int
    run: Run

    @property
    def fault(self) -> Fault:
        return self.run.fault


@dataclass(frozen=True)
class Collect:
    """A collective on what an op made: from one state to another."""

    kind: str
    op: int
    source: str
    target: str
    fault: Fault = Fault.none

    @property
    def word(self) -> str:
        """Its name in a strategy."""
        return self.kind.replace("_", "-")


Action = Compute | Collect
Way = tuple[Action, ...]
Layout = tuple[tuple[str, str], ...]  # (weight, state)


@dataclass(frozen=True)
class Found:
    """A way to make something, its cost and what it does to the weights."""

    way: Way
    bytes: float
    layout: Layout
    splits: bool = False  # whether any op runs on parts
    slices: int = 0  # of results that every rank computed whole

    @property
    def collectives(self) -> int:
        return sum(isinstance(action, Collect) for action in self.way)

    @property
    def faults(self) -> int:
        return sum(bool(action.fault) for action in self.way)

    @property
    def cost(self) -> tuple[float, int, int]:
        return round(self.bytes, 3), self.collectives, self.slices

    @property
    def repeated(self) -> int:
        """Ops that every rank computes whole."""
        steps = (action for action in self.way if isinstance(action, Compute))
        return sum(not any(state[0] == "S" for state in (*step.run.inputs, step.run.output)) for step in steps)


def all_ways(setting: Setting) -> list[Found]:
    """For every layout the cheapest right ways, and the cheapest faulty one if it costs no more; cheapest first."""
    made: list[list[Found]] = []
    for number, op in enumerate(setting.formula.ops):
        children = [None if isinstance(operand, Name) else made[operand.op] for operand in op.operands]
        found = [f for run in setting.runs[number] for f in _computed(setting, number, run, children)]
        made.append(list(_cheapest(_converted(setting, number, found))))
    ends: dict[tuple[Layout, bool, bool], list[Found]] = defaultdict(list)
    for f in made[-1]:
        if state_after(f.way[-1]) == WHOLE and (not f.faults or f.collectives):
            ends[f.layout, f.splits, bool(f.faults)].append(f)
    return sorted(_worth_telling(ends), key=lambda f: (f.faults, *f.cost, f.repeated))


def _worth_telling(ends: dict[tuple[Layout, bool, bool], list[Found]]) -> Iterator[Found]:
    for (layout, splits, faulty), found in ends.items():
        least = min(f.cost for f in found)
        right = min((f.cost for f in ends.get((layout, splits, False), ())), default=None)
        if not faulty:
            yield from (f for f in found if f.cost == least)
        elif right is not None and least[:2] <= right[:2]:
            yield next(f for f in found if f.cost == least)


def _computed(setting: Setting, number: int, run: Run, children: list[list[Found] | None]) -> Iterator[Found]:
    """An op run in one way, on every way to make its operands as that needs them."""
    operands = setting.formula.ops[number].operands
    options: list[list[Found]] = []
    for operand, state, known in zip(operands, run.inputs, children, strict=True):
        if isinstance(operand, Name):
            layout = ((operand.name, state),) if operand.name in setting.weights else ()
            options.append([Found((), 0.0, layout)])
        else:
            assert known is not None
            options.append([f for f in known if usable(state_after(f.way[-1]), state)])
    for chosen in product(*options):
        faults = sum(f.faults for f in chosen) + bool(run.fault)
        if faults <= 1:
            way = (*(action for f in chosen for action in f.way), Compute(number, run))
            splits = any(f.splits for f in chosen) or any(state[0] == "S" for state in run.inputs)
            slices = sum(f.slices for f in chosen)
            for f, state in zip(chosen, run.inputs, strict=True):
                slices += bool(f.way) and isinstance(f.way[-1], Compute) and state_after(f.way[-1]) != state
            yield Found(way, sum(f.bytes for f in chosen), _merged(f.layout for f in chosen), splits, slices)


def usable(state: str, needed: str) -> bool:
    """Whether a value in a state can be read in another without asking other ranks."""
    return state == needed or (state == WHOLE and needed[0] == "S")


def state_after(action: Action) -> str:
    """What an action's result is taken for."""
    return action.run.output if isinstance(action, Compute) else action.target


def layout_of_way(setting: Setting, way: Way) -> Layout:
    """The state in which a way holds each weight."""
    found: list[Layout] = []
    for action in way:
        if isinstance(action, Compute):
            operands = setting.formula.ops[action.op].operands
            read = [(o, state) for o, state in zip(operands, action.run.inputs, strict=True) if isinstance(o, Name)]
            found += [((o.name, state),) for o, state in read if o.name in setting.weights]
    return _merged(found)


def _merged(layouts: Iterable[Layout]) -> Layout:
    """One state for each weight: one that is used in two is held whole."""
    states: dict[str, str] = {}
    for name, state in (pair for layout in layouts for pair in layout):
        states[name] = state if states.get(name, state) == state else WHOLE
    return tuple(states.items())


def _converted(setting: Setting, number: int, found: list[Found]) -> Iterator[Found]:
    """What was made, as it is and after each collective."""
    for f in found:
        yield f
        for step in collects(setting, number, state_after(f.way[-1])):
            yield Found((*f.way, step), f.bytes + collect_bytes(setting, step), f.layout, f.splits, f.slices)


def collects(setting: Setting, number: int, state: str) -> Iterator[Collect]:
    """The collectives that change a result's state."""
    others = [other for other in setting.states(number) if other != state]
    if state == PARTIAL:
        yield Collect(ALL_REDUCE, number, state, WHOLE)
        yield from (Collect(REDUCE_SCATTER, number, state, other) for other in others)
    elif state[0] == "S":
        yield Collect(ALL_GATHER, number, state, WHOLE)
        yield from (Collect(ALL_TO_ALL, number, state, other) for other in others)


def collect_bytes(setting: Setting, step: Collect) -> float:
    """Bytes that the busiest rank sends."""
    value: Value = step.op
    ranks = range(setting.ranks)
    whole = ITEMSIZE
    for size in setting.shape(value):
        whole *= size
    held = setting.share_bytes(value, step.source, ITEMSIZE) if step.source[0] == "S" else [whole] * setting.ranks
    if step.kind == ALL_REDUCE:
        return all_reduce_bytes(max(held), setting.ranks)
    if step.kind == ALL_GATHER:
        return max(all_gather_bytes(held, rank) for rank in ranks)
    wanted = setting.share_bytes(value, step.target, ITEMSIZE)
    if step.kind == REDUCE_SCATTER:
        return max(reduce_scatter_bytes(wanted, rank) for rank in ranks)
    return max(all_to_all_bytes([held[rank] * share // whole for share in wanted], rank) for rank in ranks)


def way_bytes(setting: Setting, way: Way) -> float:
    """Bytes that the busiest rank sends in all."""
    return sum(collect_bytes(setting, action) for action in way if isinstance(action, Collect))


def _cheapest(found: Iterable[Found]) -> Iterator[Found]:
    """Of what ends in one state with one layout, the cheapest."""
    groups: dict[tuple[object, ...], list[Found]] = defaultdict(list)
    for f in found:
        groups[state_after(f.way[-1]), f.layout, f.splits, f.faults, bool(f.collectives)].append(f)
    for group in groups.values():
        least = min(f.cost for f in group)
        yield from [f for f in group if f.cost == least][:MOST_TIES]
