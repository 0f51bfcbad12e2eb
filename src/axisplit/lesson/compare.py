"""compare: expression, shapes, ranks -> Comparison, the ways to distribute it, judged, and the best with its reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from axisplit.errors import InputError
from axisplit.lesson.formula import Formula, parse_formula
from axisplit.lesson.judge import Judged, judge
from axisplit.lesson.reason import beside, reason
from axisplit.lesson.setting import Fault, Setting
from axisplit.lesson.ways import Collect, Compute, Layout, Way, all_ways, collect_bytes, layout_of_way
from axisplit.lesson.words import read_way, words_of
from axisplit.solve.states import PARTIAL, WHOLE

if TYPE_CHECKING:
    from axisplit.lesson.exercise import Checked

MOST_ELEMENTS = 1 << 24  # of all tensors and results together; beyond it nothing is run and the rules alone judge
Shape = Sequence[int]


@dataclass(frozen=True)
class Strategy:
    """One way to distribute the expression, judged.

    `name` is the text that was given, or what it does to each weight; `steps` are in an exercise's words.
    """

    name: str
    steps: tuple[str, ...]
    layout: Layout
    judged: Judged
    reason: str
    collectives: tuple[dict[str, Any], ...]  # kind, where (the result and what made it), bytes

    @property
    def valid(self) -> bool:
        return self.judged.valid

    @property
    def comm_bytes(self) -> float:
        """Bytes that the busiest rank sends."""
        return self.judged.comm_bytes

    @property
    def splits_every_weight(self) -> bool:
        """Whether there are weights, and no rank holds one whole."""
        return bool(self.layout) and all(state != WHOLE for _, state in self.layout)

    @property
    def cost(self) -> tuple[float, int]:
        return round(self.comm_bytes, 3), len(self.collectives)


@dataclass(frozen=True)
class Comparison:
    """The ways to distribute an expression. `print` shows them; `trace` every rank's values, step by step."""

    setting: Setting
    strategies: tuple[Strategy, ...]
    best: Strategy | None  # of the right ones that split every weight: fewest bytes, then fewest collectives
    tensors: Mapping[str, torch.Tensor] | None
    seed: int | None
    given: bool  # whether the strategies were given, not found

    @property
    def formula(self) -> Formula:
        return self.setting.formula

    @cached_property
    def result(self) -> torch.Tensor | None:
        """The whole computation's."""
        return None if self.tensors is None else self.formula.evaluate(self.tensors)

    def to_json(self) -> dict[str, Any]:
        """Plain data: `strategies` (name, steps, valid, reason, collectives, comm_bytes_per_rank, max_error), `best` (a
        name), and what was compared.
        """
        return {
            "expression": self.formula.text,
            "ranks": self.setting.ranks,
            "shapes": {name: list(shape) for name, shape in self.setting.shapes.items()},
            "weights": list(self.setting.weights),
            "seed": self.seed,
            "axes": [
                {"name": axis.letter, "size": axis.size, "places": [[self.name_of(v), dim] for v, dim in axis.places]}
                for axis in self.setting.axes
            ],
            "strategies": [
                {
                    "name": s.name,
                    "steps": list(s.steps),
                    "valid": s.valid,
                    "reason": s.reason,
                    "collectives": list(s.collectives),
                    "comm_bytes_per_rank": s.comm_bytes,
                    "max_error": s.judged.max_error,
                    "splits_every_weight": s.splits_every_weight,
                }
                for s in self.strategies
            ],
            "best": None if self.best is None else self.best.name,
            "result": None if self.result is None else self.result.tolist(),
        }

    def name_of(self, value: str | int) -> str:
        """A named tensor, or an op's result in words."""
        return value if isinstance(value, str) else self.formula.ops[value].text

    def check(self, solution: Callable[..., torch.Tensor]) -> Checked:
        """What a learner's own solution is worth; see `lesson.exercise`. Raises: InputError."""
        from axisplit.lesson.exercise import check

        return check(solution, self)

    def trace(self) -> str:
        """Every strategy as Python for each rank, with the values that come of it."""
        from axisplit.report.compare import trace_text

        return trace_text(self)

    def draw(self, strategy: Strategy | None = None) -> Drawing:
        """The steps of a strategy (the best one by default) as drawings, for a notebook.

        Raises: InputError if none is right and splits every weight, and none is given.
        """
        from axisplit.report.compare_html import way_html

        chosen = strategy or self.best
        if chosen is None:
            raise InputError("there is no best way to draw", do="pass one of .strategies")
        return Drawing(way_html(self, chosen), f"{chosen.name}: {' -> '.join(chosen.steps)}")

    def _repr_html_(self) -> str:
        from axisplit.report.compare_html import comparison_html

        return comparison_html(self)

    def __str__(self) -> str:
        from axisplit.report.compare import comparison_text

        return comparison_text(self)


@dataclass(frozen=True)
class Drawing:
    """Something to look at in a notebook, with a text for where there is none."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __str__(self) -> str:
        return self.text


def compare(
    expression: str,
    shapes: Mapping[str, Shape | torch.Tensor],
    ranks: int = 2,
    *,
    strategies: Sequence[str] = (),
    inputs: Sequence[str] = (),
    seed: int = 0,
) -> Comparison:
    """Judge every way to distribute an expression over ranks, or the strategies that are given.

    Args:
        expression: such as "gelu(X @ W1) @ W2"; see `lesson.formula`.
        shapes: of every tensor in it, or the tensors themselves (float32 is computed with).
        ranks: how many ranks, at least 2.
        strategies: in an exercise's words, such as "column-wise-split -> distributed-matmul -> gelu ->
            distributed-matmul -> all-reduce"; then exactly these are judged, in this order.
        inputs: names that are inputs, which every rank has; the first name if none is given. The other tensors of two
            or more dims are weights: the best way splits all of them.
        seed: of the normal random values, drawn in the order in which names appear.
    Raises: InputError for an expression, shape or strategy that cannot be read.

    >>> found = compare("gelu(X @ W1) @ W2", {"X": (2, 4), "W1": (4, 4), "W2": (4, 4)})
    >>> found.best.name, found.best.comm_bytes
    ('column-wise W1, row-wise W2', 32.0)
    """
    if not isinstance(ranks, int) or ranks < 2:
        raise InputError(
            "there is nothing to distribute", got=f"{ranks} ranks", needed="2, 3, 4, ...", do="pass ranks=2"
        )
    formula = parse_formula(expression)
    sizes = {n: tuple(s.shape) if isinstance(s, torch.Tensor) else tuple(s) for n, s in shapes.items()}
    setting = Setting(formula, sizes, ranks, tuple(inputs) or formula.names[:1])
    values = [*formula.names, *range(len(formula.ops))]
    small = sum(math.prod(setting.shape(value)) for value in values) <= MOST_ELEMENTS
    tensors = _tensors(formula, shapes, sizes, seed) if small else None
    found = [judge_steps(setting, text, tensors) for text in strategies] if strategies else _all_named(setting, tensors)
    best = min((s for s in found if s.valid and s.splits_every_weight), key=lambda s: s.cost, default=None)
    drawn = small and not any(isinstance(s, torch.Tensor) for s in shapes.values())
    told = tuple(replace(s, reason=s.reason + _beside(setting, s, best)) for s in found)
    chosen = None if best is None else told[found.index(best)]
    return Comparison(setting, told, chosen, tensors, seed if drawn else None, bool(strategies))


def _beside(setting: Setting, strategy: Strategy, best: Strategy | None) -> str:
    """What a right way has to do with the best one, and what it leaves whole."""
    if not strategy.valid:
        return ""
    whole = [name for name, state in strategy.layout if state == WHOLE]
    if whole and not strategy.collectives and len(whole) == len(strategy.layout):
        return "; every rank holds every weight and computes everything"
    kept = f"; every rank holds {' and '.join(whole)} whole" if whole else ""
    if best is None or strategy is best:
        return kept
    return f"{kept}; {beside(setting, strategy.judged.way, best.judged.way)}"


def _tensors(
    formula: Formula, given: Mapping[str, Shape | torch.Tensor], sizes: Mapping[str, tuple[int, ...]], seed: int
) -> dict[str, torch.Tensor]:
    """The named tensors: as given, else normal. torch's generator draws what `torch.manual_seed(seed)` would."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name in formula.names:
        tensor = given[name]
        if isinstance(tensor, torch.Tensor):
            found[name] = tensor.detach().float()
        else:
            found[name] = torch.randn(sizes[name], generator=generator)
    return found


def judge_steps(setting: Setting, text: str, tensors: Mapping[str, torch.Tensor] | None) -> Strategy:
    """A strategy in words, judged. Raises: InputError."""
    return _strategy(setting, text.strip(), read_way(setting, text), tensors)


def _strategy(setting: Setting, name: str, way: Way, tensors: Mapping[str, torch.Tensor] | None) -> Strategy:
    judged = judge(setting, way, tensors)
    collectives = tuple(
        {"kind": a.kind, "where": setting.formula.ops[a.op].text, "bytes": collect_bytes(setting, a)}
        for a in way
        if isinstance(a, Collect)
    )
    return Strategy(
        name, words_of(setting, way), layout_of_way(setting, way), judged, reason(setting, judged), collectives
    )


def _all_named(setting: Setting, tensors: Mapping[str, torch.Tensor] | None) -> list[Strategy]:
    """Every way under a name of its own."""
    found = [_strategy(setting, layout_text(setting, way), way, tensors) for way in (f.way for f in all_ways(setting))]
    placed = _told_apart(found, [", ".join(_placed(setting, s)) for s in found])
    return _told_apart(placed, [" -> ".join(s.steps) for s in placed])


def _told_apart(found: list[Strategy], more: list[str]) -> list[Strategy]:
    """Strategies, those of the same name with more in it."""
    names = Counter(s.name for s in found)
    return [
        replace(s, name=f"{s.name}; {text}") if names[s.name] > 1 else s for s, text in zip(found, more, strict=True)
    ]


def layout_text(setting: Setting, way: Way) -> str:
    """What a way does to each weight, in words."""
    held = layout_of_way(setting, way)
    parts = [_weight_text(setting, name, state) for name, state in held]
    if all(state == WHOLE for _, state in held):
        parts = [_without_weights(setting, way)]
    fault = next((a for a in way if a.fault), None)
    wrong = [f"{setting.formula.ops[fault.op].word} on {FAULTY_OPERANDS[fault.fault]}"] if fault else []
    return ", ".join([*parts, *wrong])


def _without_weights(setting: Setting, way: Way) -> str:
    """What a way does that holds every weight whole."""
    runs = [action.run for action in way if isinstance(action, Compute)]
    used = {state for run in runs for state in (*run.inputs, run.output) if state[0] == "S"}
    if not used:
        return "everything on every rank"
    for name in setting.formula.names:
        if name not in setting.weights and used == {setting.state_along(name, 0)}:
            return f"data parallelism: rows of {name}"
    return "every weight whole"


FAULTY_OPERANDS = {Fault.partial: "partial sums", Fault.counted: "partial sums", Fault.parts: "parts"}


def _weight_text(setting: Setting, name: str, state: str) -> str:
    """Of a matrix: column-wise or row-wise; else the dim."""
    if state == WHOLE:
        return f"{name} whole"
    found = setting.ranges(name, state) if state != PARTIAL else None
    if found is None:
        return f"{name} on the first rank"
    if len(setting.shape(name)) != 2:
        return f"dim {found[0]} of {name}"
    return f"{'column' if found[0] else 'row'}-wise {name}"


def _placed(setting: Setting, strategy: Strategy) -> list[str]:
    """Where a way's collectives stand, which tells it from most others of its kind."""
    steps = [action for action in strategy.judged.way if isinstance(action, Collect)]
    return [f"{step.word} of {setting.formula.ops[step.op].text}" for step in steps]
