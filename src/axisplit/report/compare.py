"""A comparison as text: the axes, the ways by what they split, the best and why; and a trace of every rank's values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from axisplit.lesson.setting import value_of
from axisplit.report.text import bytes_text, columns, hang, unbroken

if TYPE_CHECKING:
    import torch

    from axisplit.lesson.compare import Comparison, Strategy

MOST_ROWS = 12  # of a group; the rest is in --json


def comparison_text(found: Comparison) -> str:
    """The whole comparison."""
    ways = [_ways(title, found, some) for title, some in groups_of(found)]
    blocks = [_head(found), _axes(found), *ways, _best(found)]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def _head(found: Comparison) -> list[str]:
    setting = found.setting
    tensors = [f"{name} {list(shape)}" for name, shape in setting.shapes.items()]
    drawn = "" if found.seed is None else f", normal values from seed {found.seed}"
    weights = f" · weights {', '.join(setting.weights)}" if setting.weights else ""
    lines = [f"{found.formula.text} over {setting.ranks} ranks", f"  {', '.join(tensors)}{weights} · float32{drawn}"]
    if found.tensors is None:
        lines.append("  too large to be run here: judged by the rules alone")
    elif found.result is not None and found.seed is not None and found.result.numel() <= 32:
        lines += _tensor(f"  {found.formula.result} = ", found.result)
    return lines


def _axes(found: Comparison) -> list[str]:
    rows = []
    for axis in found.setting.axes:
        named = [f"{_dim_text(found, value, dim)} of {value}" for value, dim in axis.places if isinstance(value, str)]
        last = len(found.formula.ops) - 1
        made = [f"{_dim_text(found, v, dim)} of {found.formula.result}" for v, dim in axis.places if v == last]
        rows.append((axis.letter, f"{axis.size:,}", unbroken([*named, *made])))
    return ["AXES", *columns(rows, "lrw")]


def _dim_text(found: Comparison, value: str | int, dim: int) -> str:
    ndim = len(found.setting.shape(value))
    return {1: "entries", 2: ("rows", "columns")[min(dim, 1)]}.get(ndim, f"dim {dim}")


def groups_of(found: Comparison) -> list[tuple[str, Sequence[Strategy]]]:
    """Strategies under their headings: as given, or those that split every weight first."""
    if found.given:
        return [("STRATEGIES  in the order given", found.strategies)]
    right = [s for s in found.strategies if s.valid]
    whole = "WAYS THAT KEEP A WEIGHT WHOLE ON EVERY RANK" if found.setting.weights else "WAYS"
    groups = [
        ("WAYS THAT SPLIT EVERY WEIGHT", [s for s in right if s.splits_every_weight]),
        ("WRONG, THOUGH NOT DEARER", [s for s in found.strategies if not s.valid and s.splits_every_weight]),
        (whole, _first_of_each([s for s in right if not s.splits_every_weight])),
    ]
    return [(title, some) for title, some in groups if some]


def _first_of_each(strategies: Iterable[Strategy]) -> list[Strategy]:
    """Of ways that treat the weights alike and cost the same the first, which repeats the least work."""
    first: dict[object, Strategy] = {}
    for strategy in strategies:
        first.setdefault((strategy.layout, strategy.cost), strategy)
    return list(first.values())


def _ways(title: str, found: Comparison, strategies: Sequence[Strategy]) -> list[str]:
    lines = [f"{title}  bytes that the busiest rank sends, collectives, largest error"]
    for number, strategy in enumerate(strategies[:MOST_ROWS], 1):
        mark = "★" if strategy is found.best else "✓" if strategy.valid else "✗"
        label = f"{number} {mark}" if found.given else mark
        cost = f"{bytes_text(strategy.comm_bytes):>8}  {len(strategy.collectives)}×  {_error(strategy):>8}"
        lines += hang(f"  {label}  {cost}   ", " -> ".join(strategy.steps) if found.given else strategy.name)
        indent = " " * (9 + len(label) + 23)
        lines += [] if found.given else hang(indent, " -> ".join(strategy.steps))
        lines += hang(indent, strategy.reason)
    left = len(strategies) - MOST_ROWS
    return [*lines, f"  … and {left} more: --json lists all"] if left > 0 else lines


def _error(strategy: Strategy) -> str:
    error = strategy.judged.max_error
    return "–" if error is None else f"{error:.1e}"


def _best(found: Comparison) -> list[str]:
    best = found.best
    if best is None:
        none = "there are no weights to split: every tensor is an input"
        return [f"BEST  {'none of these is right and splits every weight' if found.setting.weights else none}"]
    number = f"strategy {found.strategies.index(best) + 1}: " if found.given else ""
    lines = hang("BEST  ", f"{number}{' -> '.join(best.steps) if found.given else best.name}")
    letters = {state[2:] for _, state in best.layout if state[0] == "S"}
    for axis in found.setting.axes:
        if axis.letter in letters:
            lines += hang("  ", f"axis {axis.letter} is split: {_life(found, axis.letter)}")
    moved = f"{bytes_text(best.comm_bytes)} in {len(best.collectives)} " + (
        "collective" if len(best.collectives) == 1 else "collectives"
    )
    return [*lines, *hang("  ", f"moves {moved}: the fewest of the ways that split every weight")]


def _life(found: Comparison, letter: str) -> str:
    """Where an axis comes from, what it passes and where it ends."""
    setting, formula = found.setting, found.formula
    axis = next(axis for axis in setting.axes if axis.letter == letter)
    named = [f"{_dim_text(found, value, dim)} of {value}" for value, dim in axis.places if isinstance(value, str)]
    made = {value for value, _ in axis.places if isinstance(value, int)}
    read = [
        number
        for number, op in enumerate(formula.ops)
        if any(letter in setting.letters(value_of(operand)) for operand in op.operands)
    ]
    passed = [formula.ops[number].word for number in read if number in made and formula.ops[number].word != "matmul"]
    summed = [formula.ops[number].text for number in read if number not in made]
    parts = [", ".join(named)]
    parts += [f"{', '.join(dict.fromkeys(passed))} on each rank's own part"] if passed else []
    parts += [f"summed over in {', '.join(summed)}"] if summed else []
    return "; ".join(parts)


def trace_text(found: Comparison) -> str:
    """Each strategy as Python for every rank, as a learner would write it, with the values."""
    if found.tensors is None:
        return "nothing was run: too large"
    blocks = []
    for strategy in found.strategies:
        lines = [f"TRACE  {strategy.name}"]
        for step in strategy.judged.steps:
            lines += ["", *(f"  {line}" for line in step.code)]
            for rank, value in enumerate(step.values):
                lines += _tensor(f"    {step.name}_GPU{rank}  ", value)
        if strategy.judged.why_not_run:
            lines += ["", *hang("  cannot go on: ", strategy.judged.why_not_run)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _tensor(label: str, value: torch.Tensor) -> list[str]:
    first, *rest = str(value).splitlines()
    return [label + first, *(" " * len(label) + line for line in rest)]
