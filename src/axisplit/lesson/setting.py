"""A formula at its sizes, over a number of ranks: its axes, and the ways in which each op can run.

The rules are those of models (`axes/`): an op runs whole, on parts of an axis, or on partial sums. Beside these legal
runs stand the tempting ones that change the answer, each with what is wrong in it (`Fault`).

    state   R whole on every rank     P the sum over ranks is the value     S:c every rank has its range of axis c
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import combinations

import torch

from axisplit.axes.derive import Derived, derive_axes
from axisplit.capture.trace import capture
from axisplit.errors import InputError
from axisplit.lesson.formula import Formula, Made, Name
from axisplit.solve.shards import layout_of
from axisplit.solve.splits import Range, Split, make_split
from axisplit.solve.states import PARTIAL, WHOLE, split_state, strategies
from axisplit.solve.ties import AxisKeys

Value = str | int  # a named tensor, or what the op of this number makes


class Fault(StrEnum):
    """What is wrong in a step that changes the answer."""

    none = ""
    partial = "a non-linear op on partial sums"
    counted = "what is to be added once is added on every rank"
    parts = "an op that needs all of an axis, on parts of it"
    joined = "partial sums are put side by side, not added"
    added = "parts are added, not put side by side"
    repeated = "every rank has all of it already"
    missing = "an op that needs other parts than the rank has"
    unfinished = "no rank has the whole result"


@dataclass(frozen=True)
class Run:
    """One way to run an op: the state of each operand, and what the result is taken for."""

    inputs: tuple[str, ...]
    output: str
    fault: Fault = Fault.none


@dataclass(frozen=True)
class Axis:
    """An index axis of the expression, and where it appears: named tensors and ops' results, each with a dim."""

    letter: str
    size: int
    places: tuple[tuple[Value, int], ...]


class _Expression(torch.nn.Module):
    """The formula as a model: inputs are given, all else are its parameters."""

    def __init__(self, formula: Formula, parameters: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._formula = formula
        self._held = torch.nn.ParameterDict({name: torch.nn.Parameter(tensor) for name, tensor in parameters.items()})

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return self._formula.evaluate({**self._held, **inputs})


_SMALL = 2**20


def _most_numbers(shapes: Mapping[str, Sequence[int]]) -> int:
    """More than any op can make of such tensors: none makes a dim that is longer, or more dims."""
    longest = max((size for shape in shapes.values() for size in shape), default=1)
    dims: int = longest ** max((len(shape) for shape in shapes.values()), default=0)
    return dims


class Setting:
    """What is known of a formula before any way to distribute it is chosen.

    Args:
        shapes: of every named tensor.
        inputs: names of tensors that every rank may have whole; the others of two or more dims are weights.
    Raises: InputError if shapes are missing or do not fit, or if an input's name does not occur.
    """

    def __init__(
        self, formula: Formula, shapes: Mapping[str, Sequence[int]], ranks: int, inputs: Sequence[str]
    ) -> None:
        self.formula, self.ranks = formula, ranks
        self.shapes = _checked(formula, shapes)
        self.weights = _weights(formula, self.shapes, inputs)
        small = _most_numbers(self.shapes) <= _SMALL
        tensors = {name: torch.zeros(shape, device="cpu" if small else "meta") for name, shape in self.shapes.items()}
        formula.evaluate(tensors)  # shapes that do not fit are told of here, in the user's words
        given = {name: tensors.pop(name) for name in inputs}
        traced = capture(_Expression(formula, tensors), given, ("forward",), on_values=small)
        self._derived = derive_axes(traced.graph)
        graph = self._derived.graph
        assert len(graph.nodes) == len(formula.ops), "each op is one node"
        named = {value.name.rpartition(":")[2]: value.index for value in graph.values if value.origin == "input"}
        named |= {name.removeprefix("_held."): value for name, value in graph.parameters.items()}
        self._index: dict[Value, int] = {name: named[name] for name in formula.names}
        self._index |= {number: node.outputs[0] for number, node in enumerate(graph.nodes)}
        self._keys = _letters(self._derived, self._index)

    def shape(self, value: Value) -> tuple[int, ...]:
        """Whole shape of a named tensor or of an op's result."""
        return self._derived.graph.values[self._index[value]].shape

    def letters(self, value: Value) -> list[str]:
        """The axes in a value's dims; those of size 1 have none."""
        return [letter for letter in self.dim_letters(value) if letter]

    def dim_letters(self, value: Value) -> list[str]:
        """For each dim of a value its axis; nothing for one of size 1."""
        dims = self._derived.dims[self._index[value]]
        return ["".join(self._keys.get(leaf, "") for leaf in self._derived.axes.leaves(dim)) for dim in dims]

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """Every axis of more than one index, in order of appearance."""
        found: dict[str, Axis] = {}
        for value, index in self._index.items():
            for dim, expression in enumerate(self._derived.dims[index]):
                for leaf in self._derived.axes.leaves(expression):
                    if leaf in self._keys:
                        axis = found.get(self._keys[leaf], Axis(self._keys[leaf], leaf.size, ()))
                        found[axis.letter] = Axis(axis.letter, axis.size, (*axis.places, (value, dim)))
        return tuple(found.values())

    @cached_property
    def splits(self) -> dict[str, Split]:
        """Axes that are long enough to give every rank a part."""
        found = (make_split(a.letter, (a.letter,), (a.size,), self.ranks, uneven=True) for a in self.axes)
        return {split.name: split for split in found if split is not None}

    def ranges(self, value: Value, state: str) -> tuple[int, tuple[Range, ...]] | None:
        """(dim, each rank's range of it) of a value in state `S:axis`; None unless parts are one range of one dim."""
        split = self.splits[state[2:]]
        layout = layout_of(self._derived, self._index[value], split, self._keys)
        if layout is None or layout[1] != self.shape(value)[layout[0]] or any(len(ranges) != 1 for ranges in layout[2]):
            return None
        return layout[0], tuple(ranges[0] for ranges in layout[2])

    def states(self, value: Value) -> list[str]:
        """Split states that a value can be in."""
        return [state for state in map(split_state, self.splits) if self.ranges(value, state) is not None]

    def state_along(self, value: Value, dim: int) -> str | None:
        """The state in which a dim (negative: from the last) is split, if it can be."""
        ndim = len(self.shape(value))
        for state in self.states(value):
            found = self.ranges(value, state)
            if found is not None and found[0] == dim % max(ndim, 1):
                return state
        return None

    def share_bytes(self, value: Value, state: str, itemsize: int) -> list[int]:
        """Bytes of each rank's part."""
        found = self.ranges(value, state)
        assert found is not None, f"{value} cannot be in {state}"
        dim, ranges = found
        row = itemsize * math.prod(self.shape(value)) // self.shape(value)[dim]
        return [(end - start) * row for start, end in ranges]

    @cached_property
    def runs(self) -> tuple[tuple[Run, ...], ...]:
        """For each op its legal runs, then the faulty ones."""
        return tuple(tuple(self._runs(number)) for number in range(len(self.formula.ops)))

    def _runs(self, number: int) -> Iterator[Run]:
        node = self._derived.graph.nodes[number]
        operands = [value_of(operand) for operand in self.formula.ops[number].operands]
        found = strategies(self._derived, node, self._keys, list(self.splits.values()))
        legal = [Run(strategy.inputs, strategy.outputs[0]) for strategy in found]
        yield from (run for run in legal if self._possible(number, operands, run))
        yield from self._on_partial(operands, {run.inputs for run in legal})
        yield from self._on_parts(number, operands)

    def _possible(self, number: int, operands: Sequence[Value], run: Run) -> bool:
        """Whether every part is one range, and partial sums are of something computed."""
        partial = [value for value, state in zip(operands, run.inputs, strict=True) if state == PARTIAL]
        if partial and all(isinstance(value, str) for value in partial):
            return False
        pairs = [*zip(operands, run.inputs, strict=True), (number, run.output)]
        return all(state[0] != "S" or self.ranges(value, state) is not None for value, state in pairs)

    def _on_partial(self, operands: Sequence[Value], legal: set[tuple[str, ...]]) -> Iterator[Run]:
        """Partial sums of results where no law allows them, to be summed later or taken for whole."""
        made = [position for position, value in enumerate(operands) if isinstance(value, int)]
        for size in range(1, len(made) + 1):
            for chosen in combinations(made, size):
                inputs = tuple(PARTIAL if position in chosen else WHOLE for position in range(len(operands)))
                if inputs not in legal:
                    adds = len(operands) > size and (PARTIAL,) * len(operands) in legal
                    fault = Fault.counted if adds else Fault.partial
                    yield Run(inputs, PARTIAL, fault)
                    yield from () if adds else [Run(inputs, WHOLE, fault)]

    def _on_parts(self, number: int, operands: Sequence[Value]) -> Iterator[Run]:
        """A function of one tensor that needs an axis whole, on parts: the result is taken for parts of that dim."""
        law = self._derived.laws[number]
        letters = {self._keys.get(leaf) for axis in law.whole for leaf in self._derived.axes.leaves(axis)}
        for letter in sorted(letters & self.splits.keys(), key=str) if len(operands) == 1 else ():
            state = split_state(str(letter))
            place = self.ranges(operands[0], state)
            output = None if place is None else self.state_along(number, place[0])
            if output is not None:
                yield Run((state,), output, Fault.parts)


def value_of(operand: Name | Made) -> Value:
    """The value that an operand is."""
    return operand.name if isinstance(operand, Name) else operand.op


def _checked(formula: Formula, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Shapes of the formula's names, in its order."""
    missing = [name for name in formula.names if name not in shapes]
    unknown = [name for name in shapes if name not in formula.names]
    bad = [name for name in formula.names if name in shapes and not all(size >= 1 for size in shapes[name])]
    if missing or unknown or bad:
        raise InputError(
            "every tensor of the expression needs a shape",
            where=formula.text,
            got=", ".join([*(f"{n} has none" for n in missing), *(f"{n} does not occur" for n in unknown), *bad]),
            needed=", ".join(formula.names),
            do="--shape " + " ".join(f"{name}=4x4" for name in formula.names),
        )
    return {name: tuple(shapes[name]) for name in formula.names}


def _weights(formula: Formula, shapes: Mapping[str, Sequence[int]], inputs: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in inputs if name not in formula.names]
    if unknown:
        raise InputError(
            "no such tensor in the expression",
            where=formula.text,
            got=", ".join(unknown),
            needed=f"among {', '.join(formula.names)}",
            do=f"--input {formula.names[0]}",
        )
    return tuple(name for name in formula.names if name not in inputs and len(shapes[name]) >= 2)


def _letters(derived: Derived, index: Mapping[Value, int]) -> AxisKeys:
    """Axes of more than one index -> a, b, c … in order of appearance."""
    keys = AxisKeys()
    for value in index.values():
        for expression in derived.dims[value]:
            for leaf in derived.axes.leaves(expression):
                if leaf.size > 1 and leaf not in keys:
                    keys[leaf] = _letter(len(keys))
    return keys


def _letter(number: int) -> str:
    """
    >>> [_letter(n) for n in (0, 1, 25, 26)]
    ['a', 'b', 'z', 'a1']
    """
    return "abcdefghijklmnopqrstuvwxyz"[number % 26] + (str(number // 26) if number >= 26 else "")
