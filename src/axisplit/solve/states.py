"""How a value is held by the ranks, what moving between the ways costs, and each op's ways to run.

R       whole on every rank
S:t     split: each rank holds its ranges of split t's axes
P       partial: the value is the sum over ranks
M:t     weighted partial: the value is the weighted sum over ranks (means over their own parts of split t)
I:t     indices into split t's axis, made local to the rank's range (for table look-ups)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from axisplit.axes.derive import Derived
from axisplit.axes.expression import Axis
from axisplit.axes.law import Law
from axisplit.capture.graph import Node
from axisplit.solve.following import followed
from axisplit.solve.shards import LocalPart, held_by, local_length, self_products
from axisplit.solve.splits import Split
from axisplit.solve.ties import AxisKeys

WHOLE, PARTIAL = "R", "P"


def split_state(split: str) -> str:
    """The state of values that a split cuts."""
    return f"S:{split}"


@dataclass(frozen=True)
class Strategy:
    """One way to run a node: the state of every operand and of every output."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    split: str = ""  # the split under which the op runs on parts, "" if none


def strategies(derived: Derived, node: Node, axis_keys: AxisKeys, splits: list[Split]) -> list[Strategy]:
    """All legal ways to run a node."""
    law = derived.laws[node.index]
    operands = list(node.inputs())
    here = [_keys(derived, derived.dims[v], axis_keys) for v in operands]
    there = [_keys(derived, derived.dims[v], axis_keys) for v in node.outputs]
    whole = _keys(derived, law.whole, axis_keys)
    reduced = _keys(derived, law.reduce, axis_keys)
    whole |= _keys(derived, [a for v in (*operands, *node.outputs) for a in self_products(derived, v)], axis_keys)
    found = [Strategy("whole", (WHOLE,) * len(operands), (WHOLE,) * len(node.outputs))]
    touched = set().union(*here, *there)
    for split in splits:
        if split.follows:
            index = followed(derived, split)
            if node.index in index.passing or not index.known:
                found.append(_following_strategy(derived, node, split))
            continue
        axes = set(split.axes)
        if not axes & touched or axes & whole or not _fits(derived, law, split, axis_keys, bool(reduced & axes)):
            continue
        strategy = _split_strategy(law, split, axes, here, there, reduced & axes)
        if strategy is not None:
            found.append(strategy)
    for number, group in enumerate(law.linear):
        inputs = tuple(PARTIAL if position in group else WHOLE for position in range(len(operands)))
        if any(state == PARTIAL for state in inputs):
            found.append(Strategy(f"partial {number}", inputs, (PARTIAL,) * len(node.outputs)))
    return found


def _following_strategy(derived: Derived, node: Node, split: Split) -> Strategy:
    """The op on parts of an index of the inputs, which it passes; of an index of length 1 everything is a part."""
    index = followed(derived, split)

    def states(values: Iterable[int]) -> tuple[str, ...]:
        return tuple(split_state(split.name) if index.touches(v) or not index.known else WHOLE for v in values)

    return Strategy(f"split {split.name}", states(node.inputs()), states(node.outputs), split.name)


def _split_strategy(
    law: Law, split: Split, axes: set[str], here: list[set[str]], there: list[set[str]], reduced: set[str]
) -> Strategy | None:
    """The op on parts. An axis that leaves without being reduced was cut away (a slice): what stays is whole."""
    state = split_state(split.name)
    inputs = []
    for position, keys in enumerate(here):
        if keys & axes:
            inputs.append(state)
        elif position in law.additive and reduced:
            inputs.append(PARTIAL)
        else:
            inputs.append(WHOLE)
    if not reduced:
        outputs = tuple(state if keys & axes else WHOLE for keys in there)
        return Strategy(f"split {split.name}", tuple(inputs), outputs, split.name)
    if any(keys & axes for keys in there):
        return None
    if law.lookup is not None:
        inputs[1] = f"I:{split.name}"
    output = f"M:{split.name}" if law.mean else PARTIAL
    return Strategy(f"split {split.name}", tuple(inputs), (output,) * len(there), split.name)


def _fits(derived: Derived, law: Law, split: Split, axis_keys: AxisKeys, reduces: bool) -> bool:
    """Whether every rank's part of the op is an instance of the op, and (where it reduces) counts every index once."""
    if not law.fits and not reduces:
        return True
    for rank in range(len(split.boxes)) if law.fits else ():
        part = LocalPart(derived.axes, held_by(split, axis_keys, rank))
        if not all(fits(part) for fits in law.fits):
            return False
    ranks_of, counted = Counter(split.lengths), 0
    for lengths, rank in split.kinds.items():
        held = held_by(split, axis_keys, rank)
        counted += ranks_of[lengths] * prod(local_length(derived.axes, axis, held) for axis in law.reduce)
    return counted == prod(axis.size for axis in law.reduce) or not reduces


def _keys(derived: Derived, axes: Sequence[Axis], axis_keys: AxisKeys) -> set[str]:
    found = {axis_keys.get(leaf) for axis in axes for leaf in derived.axes.leaves(axis)}
    return {key for key in found if key is not None}
