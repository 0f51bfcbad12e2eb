"""Integers that remember which attribute or tensor size they came from.

A module's integer attributes (`num_heads`, `split_size`, `config.hidden_size` …) are replaced, on the copy of the model
that is traced, by `TracedInt`s: plain `int`s that also carry an expression over attributes. Arithmetic keeps the
expression, so when a `view(B, S, self.num_heads, self.hidden // self.num_heads)` reaches the recorder, each size tells
which attributes it depends on and how. Rewriting an attribute for a rank is then solving for it, not guessing by value:
two attributes of equal value stay apart.

>>> heads, width = TracedInt(4, Attribute("attn", "num_heads")), TracedInt(64, Attribute("attn", "width"))
>>> (width // heads).expression.evaluate({Attribute("attn", "num_heads"): 2, Attribute("attn", "width"): 32})
16
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Attribute:
    """An integer held by a module: `path` is dotted, through a config object or an index where there is one."""

    module: str
    path: str

    def evaluate(self, values: Mapping[Leaf, int]) -> int:
        return values[self]

    def attributes(self) -> Iterator[Attribute]:
        yield self

    def dims(self) -> Iterator[Dim]:
        yield from ()

    def __str__(self) -> str:
        return f"{self.module}.{self.path}" if self.module else self.path


@dataclass(frozen=True, slots=True)
class Dim:
    """A size read off a tensor: dim `position` of value `value`. A rank reads its own."""

    value: int
    position: int

    def evaluate(self, values: Mapping[Leaf, int]) -> int:
        return values[self]

    def attributes(self) -> Iterator[Attribute]:
        yield from ()

    def dims(self) -> Iterator[Dim]:
        yield self


@dataclass(frozen=True, slots=True)
class Operation:
    """An arithmetic operation on expressions and constants."""

    symbol: str
    operands: tuple[Attribute | Dim | Operation | int, ...]

    def evaluate(self, values: Mapping[Leaf, int]) -> int:
        """Raises ZeroDivisionError where a divisor becomes 0."""
        numbers = [x if isinstance(x, int) else x.evaluate(values) for x in self.operands]
        return apply_operator(self.symbol, numbers)

    def attributes(self) -> Iterator[Attribute]:
        for operand in self.operands:
            if not isinstance(operand, int):
                yield from operand.attributes()

    def dims(self) -> Iterator[Dim]:
        for operand in self.operands:
            if not isinstance(operand, int):
                yield from operand.dims()


Leaf = Attribute | Dim
Expression = Attribute | Dim | Operation

_OPERATORS: dict[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "neg": operator.neg,
}


def apply_operator(symbol: str, numbers: Sequence[int]) -> int:
    """The value of an operation on numbers."""
    return int(_OPERATORS[symbol](*numbers))


class TracedInt(int):
    """An int with the expression it was computed by."""

    expression: Expression

    def __new__(cls, value: int, expression: Expression) -> TracedInt:
        self = super().__new__(cls, value)
        self.expression = expression
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (TracedInt, (int(self), self.expression))

    def __neg__(self) -> TracedInt:
        return TracedInt(-int(self), Operation("neg", (self.expression,)))


def _binary(symbol: str, reflected: bool) -> Callable[[TracedInt, Any], Any]:
    function = _OPERATORS[symbol]

    def method(self: TracedInt, other: Any) -> Any:
        if not isinstance(other, int) or isinstance(other, bool):
            return NotImplemented
        mine, theirs = self.expression, other.expression if isinstance(other, TracedInt) else other
        left, right = (int(other), int(self)) if reflected else (int(self), int(other))
        operands = (theirs, mine) if reflected else (mine, theirs)
        return TracedInt(function(left, right), Operation(symbol, operands))

    return method


for _symbol, _name in {"+": "add", "-": "sub", "*": "mul", "//": "floordiv", "%": "mod"}.items():
    setattr(TracedInt, f"__{_name}__", _binary(_symbol, reflected=False))
    setattr(TracedInt, f"__r{_name}__", _binary(_symbol, reflected=True))


def trace_attributes(model: torch.nn.Module) -> dict[Attribute, int]:
    """Replace the integer attributes of a model's modules by `TracedInt`s, in place, and list them.

    Config objects are replaced by copies, one for each module, so that a module's reads are its own.
    """
    found: dict[Attribute, int] = {}
    for path, module in model.named_modules():
        for key, value in list(module.__dict__.items()):
            if key.startswith("_") or key == "training":
                continue
            module.__dict__[key] = _traced(value, path, key, found, depth=0)
    return found


def _traced(value: Any, module: str, key: str, found: dict[Attribute, int], depth: int) -> Any:
    if type(value) is int:
        attribute = Attribute(module, key)
        found[attribute] = value
        return TracedInt(value, attribute)
    if type(value) in (tuple, list) and value and all(type(item) is int for item in value):
        return type(value)(_traced(item, module, f"{key}.{i}", found, depth) for i, item in enumerate(value))
    if depth < 2 and is_plain_record(value):
        copied = shallow_copy(value)
        for inner, item in list(vars(copied).items()):
            if not inner.startswith("_"):
                vars(copied)[inner] = _traced(item, module, f"{key}.{inner}", found, depth + 1)
        return copied
    return value


def is_plain_record(value: Any) -> bool:
    """Whether an attribute is a configuration-like object: plain fields, no tensors, not code."""
    if isinstance(value, (torch.nn.Module, torch.Tensor, type, Enum, str, int, float)) or callable(value):
        return False
    if not hasattr(value, "__dict__"):
        return False
    fields = vars(value)
    return any(type(item) is int for item in fields.values()) and not any(
        isinstance(item, (torch.Tensor, torch.nn.Module)) for item in fields.values()
    )


def shallow_copy(record: Any) -> Any:
    """A copy of a record's fields, its class's own copying and validation not run."""
    copied = object.__new__(type(record))
    vars(copied).update(vars(record))
    return copied


def set_attribute(model: torch.nn.Module, attribute: Attribute, value: int | None) -> None:
    """Rewrite an integer attribute of one module; a config is copied first, so that nobody else sees the change."""
    module = model.get_submodule(attribute.module)
    head, *rest = attribute.path.split(".")
    module.__dict__[head] = _rewritten(module.__dict__[head], rest, value)


def _rewritten(holder: Any, path: list[str], value: int | None) -> Any:
    if not path:
        return value
    if isinstance(holder, (tuple, list)):
        items = list(holder)
        items[int(path[0])] = _rewritten(items[int(path[0])], path[1:], value)
        return type(holder)(items)
    copied = shallow_copy(holder)
    vars(copied)[path[0]] = _rewritten(vars(copied)[path[0]], path[1:], value)
    return copied
