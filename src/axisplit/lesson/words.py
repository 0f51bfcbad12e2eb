"""A way in the words of an exercise, and back:

    column-wise-split -> distributed-matmul -> gelu -> distributed-matmul -> all-reduce

    column-wise-split, row-wise-split, batch-split   of the tensors that the next op reads; a weight's name may follow
    distributed-matmul, gelu, add, softmax, …        the ops of the expression, in its order
    all-reduce, all-gather, reduce-scatter, all-to-all   on what was computed last

What words leave open (how W2 is split in the line above) is settled by what makes the strategy right, or as little
wrong as possible; then by how little is read into them, how many weights are split, and what moves least. So a strategy
that is wrong is wrong in every reading, and its verdict names the first fault of the least wrong one.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from axisplit.errors import InputError
from axisplit.lesson.formula import Formula
from axisplit.lesson.setting import Fault, Run, Setting, Value, value_of
from axisplit.lesson.ways import (
    ALL_GATHER,
    ALL_REDUCE,
    COLLECTIVES,
    REDUCE_SCATTER,
    Action,
    Collect,
    Compute,
    Way,
    collect_bytes,
    collects,
    state_after,
    usable,
)
from axisplit.solve.states import PARTIAL, WHOLE

COLUMN, ROW, BATCH = "column-wise-split", "row-wise-split", "batch-split"
_SPLITS = (COLUMN, ROW, BATCH)
_SPLIT = re.compile(r"(column|row|batch)(?:-wise)?(?:-parallel)?-split(?:\s+(\w+))?")
Price = tuple[int, int, int, float]  # faults, splits that the words do not say, weights read whole, bytes


@dataclass(frozen=True)
class Split:
    """A split that is asked for: its kind, and of which weight, if it is named."""

    kind: str
    name: str = ""


Token = Split | str  # a split, an op's word or a collective


def words_of(setting: Setting, way: Way) -> tuple[str, ...]:
    """The steps of a way."""
    found: list[str] = []
    states: dict[int, str] = {}
    for action in way:
        if isinstance(action, Collect):
            states[action.op] = action.target
            found.append(action.word)
            continue
        kind = split_word(setting, action.op, action.run, states)
        op = setting.formula.ops[action.op]
        parts = any(state != WHOLE for state in action.run.inputs)
        found += [kind] if kind else []
        found.append(f"distributed-{op.word}" if op.word == "matmul" and parts else op.word)
        states[action.op] = action.run.output
    return tuple(found)


def split_word(setting: Setting, op: int, run: Run, states: dict[int, str]) -> str:
    """How a run splits what was whole; nothing where an operand comes split, or nothing is."""
    values = [value_of(operand) for operand in setting.formula.ops[op].operands]
    came = [states.get(value, "") if isinstance(value, int) else "" for value in values]
    if any(state[:1] == "S" for state in came):
        return ""
    return kind_of_split(setting, op, run)


def kind_of_split(setting: Setting, op: int, run: Run) -> str:
    """The name of a run's split: by the dim of the last operand that it cuts, or of the first, which is the batch's."""
    values = [value_of(operand) for operand in setting.formula.ops[op].operands]
    for position in reversed(range(len(values))):
        if run.inputs[position][0] == "S":
            found = setting.ranges(values[position], run.inputs[position])
            assert found is not None
            if found[0] == len(setting.shape(values[position])) - 1 and (position or len(values) == 1):
                return COLUMN
            return ROW if position else BATCH
    return ""


def read_way(setting: Setting, text: str) -> Way:
    """The way that words describe, with as few faults as they allow.

    Raises: InputError for words that are not known, or ops that are not the expression's.
    """
    tokens = tokens_of(setting.formula, text)
    order = count()
    heap: list[tuple[Price, int, int, Way, tuple[Split, ...]]] = [((0, 0, 0, 0.0), 0, next(order), (), ())]
    while heap:
        paid, negative, _, way, asked = heapq.heappop(heap)
        done = -negative
        if done == len(tokens):
            return way
        for price, action, left in _readings(setting, tokens[done], way, asked):
            longer = way if action is None else (*way, action)
            total = (paid[0] + price[0], paid[1] + price[1], paid[2] + price[2], paid[3] + price[3])
            heapq.heappush(heap, (total, -done - 1, next(order), longer, left))
    raise AssertionError("every token has a reading")


def tokens_of(formula: Formula, text: str) -> list[Token]:
    """The steps in order; the ops among them are the expression's, each once."""
    tokens = [_token(formula, step) for step in re.split(r"->|→", text) if step.strip()]
    ops = [token for token in tokens if isinstance(token, str) and token not in COLLECTIVES]
    wanted = [op.word for op in formula.ops]
    if ops != wanted:
        raise InputError(
            "the strategy does not compute the expression",
            where=text,
            got=", ".join(ops) or "no computation",
            needed=", ".join(wanted),
            do=f"name each op of {formula.text} once, in this order, splits before and collectives behind them",
        )
    _check_splits(formula, text, tokens)
    return tokens


def _check_splits(formula: Formula, text: str, tokens: Sequence[Token]) -> None:
    """Raise unless every split stands before an op that reads what it names."""
    computed = 0
    for token in tokens:
        if isinstance(token, Split):
            left = [value_of(operand) for op in formula.ops[computed:] for operand in op.operands]
            if not left or (token.name and token.name not in left):
                raise InputError(
                    "nothing is left for this split",
                    where=text,
                    got=f"{token.kind} {token.name}".strip(),
                    do="write it before the op that reads what it splits",
                )
        elif token not in COLLECTIVES:
            computed += 1


def _token(formula: Formula, step: str) -> Token:
    word = re.sub(r"[\s_]*-[\s_]*|_", "-", step.strip())
    found = _SPLIT.fullmatch(word)
    if found and (found[2] is None or found[2] in formula.names):
        return Split(f"{found[1]}-split" if found[1] == "batch" else f"{found[1]}-wise-split", found[2] or "")
    plain = word.lower().removeprefix("distributed-")
    if plain.replace("-", "_") in COLLECTIVES:
        return plain.replace("-", "_")
    if plain in {op.word for op in formula.ops}:
        return plain
    raise InputError(
        "this step of the strategy is not known",
        where=step.strip(),
        needed=", ".join([*_SPLITS, *(k.replace("_", "-") for k in COLLECTIVES), *{op.word: 0 for op in formula.ops}]),
        do="write steps with -> between them; a split may name its weight: column-wise-split W1",
    )


Reading = tuple[Price, Action | None, tuple[Split, ...]]  # its price, what is done, splits still to come


def _readings(setting: Setting, token: Token, way: Way, asked: tuple[Split, ...]) -> Iterator[Reading]:
    if isinstance(token, Split):
        yield (0, 0, 0, 0.0), None, (*asked, token)
    elif token in COLLECTIVES:
        for step in _collected(setting, token, way):
            yield (int(bool(step.fault)), 0, 0, collect_bytes(setting, step)), step, asked
    else:
        yield from _computed(setting, way, asked)


def _computed(setting: Setting, way: Way, asked: tuple[Split, ...]) -> Iterator[Reading]:
    """The next op in all its runs that the splits before it allow; if none can start from what the ranks have, in
    those that would need something else.
    """
    number = sum(isinstance(action, Compute) for action in way)
    operands = [value_of(operand) for operand in setting.formula.ops[number].operands]
    states = {action.op: state_after(action) for action in way}
    here = [split for split in asked if not split.name or split.name in operands]
    left = tuple(split for split in asked if split not in here)
    allowed = [run for run in setting.runs[number] if all(_is_asked(setting, number, run, split) for split in here)]
    ready = [run for run in allowed if _is_ready(operands, run, states)]
    for run in ready:
        opened = not here and split_word(setting, number, run, states) != ""
        whole = sum(v in setting.weights and state == WHOLE for v, state in zip(operands, run.inputs, strict=True))
        yield (int(bool(run.fault)), int(opened), whole, 0.0), Compute(number, run), left
    for run in () if ready else allowed:
        if not run.fault:
            yield (1, 0, 0, 0.0), Compute(number, replace(run, fault=Fault.missing)), left
    if not allowed:
        raise _cannot_split(setting, number, here)


def _is_ready(operands: Sequence[Value], run: Run, states: dict[int, str]) -> bool:
    made = [(states[v], needed) for v, needed in zip(operands, run.inputs, strict=True) if isinstance(v, int)]
    return all(usable(state, needed) for state, needed in made)


def _is_asked(setting: Setting, number: int, run: Run, split: Split) -> bool:
    """Whether a run splits what is asked: a named weight in that dim, or the op as a whole."""
    if not split.name:
        return kind_of_split(setting, number, run) == split.kind
    operands = [value_of(operand) for operand in setting.formula.ops[number].operands]
    states = [state for value, state in zip(operands, run.inputs, strict=True) if value == split.name]
    dim = -1 if split.kind == COLUMN else 0
    return all(state[0] == "S" and state == setting.state_along(split.name, dim) for state in states)


def _cannot_split(setting: Setting, number: int, asked: Sequence[Split]) -> InputError:
    op = setting.formula.ops[number]
    shapes = [f"{v if isinstance(v, str) else 'a result'} {list(setting.shape(v))}" for v in map(value_of, op.operands)]
    return InputError(
        "the op cannot be split like this",
        where=f"{op.word} of {', '.join(shapes)}",
        got=", ".join(f"{split.kind} {split.name}".strip() for split in asked),
        needed=f"a dim of at least {setting.ranks} indices that the op passes on or sums over",
        do="name another split, or none",
    )


def _collected(setting: Setting, kind: str, way: Way) -> Iterator[Collect]:
    """A collective on what was computed last, right or not."""
    if not way:
        raise InputError(
            "a collective needs something that was computed",
            got=f"{kind.replace('_', '-')} as the first step",
            do="compute first: column-wise-split -> distributed-matmul -> all-gather",
        )
    number, state = way[-1].op, state_after(way[-1])
    right = [step for step in collects(setting, number, state) if step.kind == kind]
    yield from right
    if right:
        return
    targets = [WHOLE] if kind in (ALL_REDUCE, ALL_GATHER) else setting.states(number)
    for target in targets:
        yield Collect(kind, number, state, target, _fault(kind, state))


def _fault(kind: str, state: str) -> Fault:
    if state == WHOLE:
        return Fault.repeated
    if state == PARTIAL:
        return Fault.joined
    return Fault.added if kind in (ALL_REDUCE, REDUCE_SCATTER) else Fault.repeated
