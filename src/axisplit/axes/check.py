"""Whether a stated rule holds on exact integers, claim by claim, as trials of unknown ops do it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from axisplit.axes.discover import TIME_LIMIT_S, Search
from axisplit.axes.pattern import WHOLE_DIM, Pattern
from axisplit.axes.trial import Budget, CannotTry, OpCall, Shape, Trial
from axisplit.capture.apart import apart, why_not_run
from axisplit.capture.graph import Node


def failed_claims(node: Node, shapes: tuple[Shape, ...], dtypes: tuple[Any, ...], pattern: Pattern) -> list[str]:
    """What an expanded pattern claims of an op and is not so, in words; nothing if all claims hold.

    Raises: CannotTry if the op is not to be run, or does not run on small operands on the CPU; Refused.
    """
    refusal = why_not_run(node.op)
    if refusal:
        raise CannotTry(refusal)
    sizes = {
        position: tuple(None if letter == WHOLE_DIM else pattern.positions(letter)[0] for letter in term)
        for position, term in pattern.sizes
    }
    with apart():
        search = Search(OpCall(node, dtypes, Budget(TIME_LIMIT_S), sizes), shapes)
        small = search.runnable()
        trials = [Trial(search.call, small)]
        trials[0].check_function()
        for letter in pattern.letters:
            trials += [Trial(search.call, other) for other in search.varied(small, pattern.positions(letter))]
        return list(dict.fromkeys(wrong for trial in trials for wrong in _wrong(trial, pattern)))


def _wrong(trial: Trial, pattern: Pattern) -> Iterator[str]:
    for letter in pattern.passing:
        places = [term.index(letter) if letter in term else None for term in pattern.outputs]
        wrong = trial.passes(pattern.positions(letter), places)
        if wrong:
            yield f"{letter} does not pass: {wrong}"
    for letter in pattern.reduced:
        added = [o for o in pattern.added if letter not in pattern.operands[o]]
        wrong = trial.reduces(pattern.positions(letter), added)
        if wrong:
            yield f"{letter} is not summed over: {wrong}"
    for group in pattern.linear:
        wrong = trial.linear(group)
        if wrong:
            yield f"not linear in operand {' and '.join(map(str, group))}: {wrong}"
