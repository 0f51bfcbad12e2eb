"""Why a way is right or wrong, in words and with the numbers that show it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping

from axisplit.lesson.judge import Difference, Judged
from axisplit.lesson.setting import Fault, Setting
from axisplit.lesson.ways import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    REDUCE_SCATTER,
    Action,
    Collect,
    Way,
    state_after,
    way_bytes,
)
from axisplit.solve.states import PARTIAL


def reason(setting: Setting, judged: Judged) -> str:
    """One or two sentences."""
    if judged.valid:
        collectives = [action for action in judged.way if isinstance(action, Collect)]
        told = ", then ".join(_collective(setting, step) for step in collectives)
        return f"right: {told}" if told else "right: nothing is exchanged"
    action = judged.way[-1] if judged.at is None else judged.way[judged.at]
    op = setting.formula.ops[action.op]
    numbers = "" if judged.difference is None else _numbers(op.word, judged.fault, judged.difference)
    return f"{_WRONG[judged.fault](setting, action)}{numbers}"


def _collective(setting: Setting, step: Collect) -> str:
    return f"{step.word} of {setting.formula.ops[step.op].text} {list(setting.shape(step.op))}"


def _partial(setting: Setting, action: Action) -> str:
    word = setting.formula.ops[action.op].word
    return f"{word} is not linear, and each rank has only its term of a sum: {word}(a) + {word}(b) ≠ {word}(a + b)"


def _counted(setting: Setting, action: Action) -> str:
    text = setting.formula.ops[action.op].text
    return f"in {text} every rank adds to its partial sum what is to be added once: it counts {setting.ranks} times"


def _parts(setting: Setting, action: Action) -> str:
    word = setting.formula.ops[action.op].word
    return f"{word} needs all of the axis, and each rank has a part of it: {word}(part) ≠ part of {word}(whole)"


def _joined(setting: Setting, action: Action) -> str:
    text = setting.formula.ops[action.op].text
    return f"each rank has a partial sum of all of {text}: they are to be added (all-reduce), not put side by side"


def _added(setting: Setting, action: Action) -> str:
    text = setting.formula.ops[action.op].text
    return f"each rank has another part of {text}: they are to be put side by side (all-gather), not added"


def _repeated(setting: Setting, action: Action) -> str:
    text = setting.formula.ops[action.op].text
    if isinstance(action, Collect) and action.kind in (ALL_REDUCE, REDUCE_SCATTER):
        return f"every rank has all of {text} already: the sum is {setting.ranks} times as much"
    return f"every rank has all of {text} already: it would be there {setting.ranks} times"


def _missing(setting: Setting, action: Action) -> str:
    text = setting.formula.ops[action.op].text
    return f"{text}, split like this, needs other parts of what was computed before than the rank has: gather it first"


def _unfinished(setting: Setting, action: Action) -> str:
    what, how = ("a partial sum", "all-reduce") if state_after(action) == PARTIAL else ("a part", "all-gather")
    return f"each rank ends with {what} of the result: an {how} is missing"


_WRONG = {
    Fault.partial: _partial,
    Fault.counted: _counted,
    Fault.parts: _parts,
    Fault.joined: _joined,
    Fault.added: _added,
    Fault.repeated: _repeated,
    Fault.missing: _missing,
    Fault.unfinished: _unfinished,
}


def beside(setting: Setting, way: Way, best: Way) -> str:
    """What a way moves beside the best one: here, and at other sizes where those decide.

    Bytes of a collective grow with the product of the sizes of what it moves, so two ways differ by a few such
    products; where one stands against one, their ratio decides.
    """
    here = way_bytes(setting, way) / (way_bytes(setting, best) or 1.0)
    numbers = [sum(isinstance(action, Collect) for action in each) for each in (way, best)]
    text = "as many bytes as the best" if here == 1 else f"{here:.3g} times the bytes of the best"
    if numbers[0] != numbers[1]:
        text += f", in {numbers[0]} {'collective' if numbers[0] == 1 else 'collectives'} instead of {numbers[1]}"
    more, less = _unlike(_terms(setting, way), _terms(setting, best))
    if len(more) != 1 or len(less) != 1:
        return text
    ((product, factor),), ((against, other_factor),) = more.items(), less.items()
    grows, other = Counter(product) - Counter(against), Counter(against) - Counter(product)
    if not grows or not other:
        return text
    left, right = "·".join(sorted(grows.elements())), "·".join(sorted(other.elements()))
    times = other_factor / factor
    scaled = right if times == 1 else f"{times:.3g} {right}"
    usual = _at_four(setting, way, best, grows, other)
    return f"{text}; more where {left} > {scaled}{usual}, less where {left} < {scaled}"


def _at_four(setting: Setting, way: Way, best: Way, grows: Counter[str], other: Counter[str]) -> str:
    """The ratio where one axis is four times another, as hidden sizes usually are."""
    if grows.total() != 1 or other.total() != 1:
        return ""
    (left,), (right,) = grows, other
    sizes = {axis.letter: float(axis.size) for axis in setting.axes}
    sizes[left] = 4 * sizes[right]
    ratio = _evaluate(_terms(setting, way), sizes) / _evaluate(_terms(setting, best), sizes)
    return f" ({ratio:.3g} times as much at {left} = 4 {right})"


Product = tuple[str, ...]  # letters of axes whose sizes are multiplied
Terms = dict[Product, float]


def _terms(setting: Setting, way: Way) -> Terms:
    """Elements that a rank sends, in units of (n - 1) / n, as a sum of products of sizes; for even parts."""
    factors = {ALL_REDUCE: 2.0, ALL_GATHER: 1.0, REDUCE_SCATTER: 1.0, ALL_TO_ALL: 1.0 / setting.ranks}
    found: dict[Product, float] = defaultdict(float)
    for action in way:
        if isinstance(action, Collect):
            found[tuple(sorted(setting.letters(action.op)))] += factors[action.kind]
    return dict(found)


def _unlike(one: Terms, other: Terms) -> tuple[Terms, Terms]:
    """What one has more of, and what the other has."""
    more = {p: one.get(p, 0.0) - other.get(p, 0.0) for p in one.keys() | other.keys()}
    return {p: by for p, by in more.items() if by > 0}, {p: -by for p, by in more.items() if by < 0}


def _evaluate(terms: Terms, sizes: Mapping[str, float]) -> float:
    return sum(factor * math.prod(sizes[letter] for letter in product) for product, factor in terms.items())


def _numbers(word: str, fault: Fault, found: Difference) -> str:
    """The two numbers that differ.

    >>> _numbers("gelu", Fault.partial, Difference(1, (0, 2), (-1.0, 2.0), 1.7957, 0.8413))
    '. At [0, 2]: gelu(-1) + gelu(2) = 1.796, gelu(-1 + 2) = 0.8413'
    """
    at = f". At {list(found.index)}: "
    if fault is Fault.partial and found.parts:
        each = [_number(part) for part in found.parts]
        terms, total = (
            " + ".join(f"{word}({n})" for n in each),
            " + ".join(f"({n})" if n[0] == "-" else n for n in each),
        )
        total = total.removeprefix("(").replace(")", "", 1) if each[0][0] == "-" else total
        return f"{at}{terms} = {_number(found.got)}, {word}({total}) = {_number(found.needed)}"
    return f"{at}{_number(found.got)} instead of {_number(found.needed)}"


def _number(value: float) -> str:
    return f"{value:.4g}"
