"""An expression such as `y = gelu(X @ W1) @ W2` -> Formula: named tensors and ops, innermost first.

    expression   + - *  on expressions and numbers,  @,  - (sign),  .T,  f(expression),  expression / number,  ( )
    f            an activation, softmax or layer_norm (both along the last dim)

Parsed by Python's own grammar and never evaluated: whatever is not in this list is refused with its place. Ops form a
tree, in which named tensors may occur more than once.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from axisplit.errors import InputError

if TYPE_CHECKING:
    import torch

ACTIVATIONS = (
    "relu",
    "relu6",
    "gelu",
    "silu",
    "tanh",
    "sigmoid",
    "softplus",
    "softsign",
    "elu",
    "selu",
    "celu",
    "mish",
    "leaky_relu",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "logsigmoid",
)
SYNONYMS = {"swish": "silu", "leakyrelu": "leaky_relu", "layernorm": "layer_norm"}
ALONG_LAST = ("softmax", "layer_norm")
MOST_CHARACTERS, MOST_OPS, MOST_DEPTH = 2000, 64, 100
_BINARY: dict[type, tuple[str, str]] = {
    ast.MatMult: ("matmul", "@"),
    ast.Add: ("add", "+"),
    ast.Sub: ("subtract", "-"),
    ast.Mult: ("multiply", "*"),
    ast.Div: ("divide", "/"),
}


@dataclass(frozen=True)
class Name:
    """A named tensor as an operand."""

    name: str


@dataclass(frozen=True)
class Made:
    """What an earlier op made, as an operand."""

    op: int


Operand = Name | Made


@dataclass(frozen=True)
class Op:
    """One operation on one or two tensors. `word` is its name in a strategy; `pattern` its Python, `{0}` and `{1}`
    being the operands; `text` is the part of the expression that it computes.
    """

    word: str
    pattern: str
    operands: tuple[Operand, ...]
    apply: Callable[..., Any]
    text: str = ""


@dataclass(frozen=True)
class Formula:
    """Ops in the order in which they are computed; the last one makes the result."""

    text: str
    result: str
    names: tuple[str, ...]  # in order of appearance
    ops: tuple[Op, ...]

    def evaluate(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The result on whole tensors. Raises: InputError as `results` does."""
        return self.results(tensors)[-1]

    def results(self, tensors: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """What each op makes of whole tensors.

        Raises: InputError if the shapes do not fit together, naming the op.
        """
        made: list[torch.Tensor] = []
        for op in self.ops:
            operands = [tensors[o.name] if isinstance(o, Name) else made[o.op] for o in op.operands]
            try:
                made.append(op.apply(*operands))
            except RuntimeError as error:
                raise _misfit(self, op, operands, error) from error
        return made

    @cached_property
    def slots(self) -> tuple[int, ...]:
        """For each op how many results wait for their use while its own is made: 0 along a chain."""
        waiting: list[int] = []
        found: list[int] = []
        for number, op in enumerate(self.ops):
            for operand in reversed(op.operands):
                if isinstance(operand, Made):
                    assert waiting.pop() == operand.op, "ops form a tree, innermost first"
            found.append(len(waiting))
            waiting.append(number)
        return tuple(found)


def parse_formula(text: str) -> Formula:
    """Parse an expression, with `name =` before it or without.

    Raises: InputError for what is not in the language, naming it.
    """
    if len(text) > MOST_CHARACTERS:
        raise _refuse(text[:40] + "…", f"{len(text)} characters", f"at most {MOST_CHARACTERS}")
    try:
        body = ast.parse(text.strip(), mode="exec").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise _refuse(text, str(getattr(error, "msg", error)), "an expression in Python's notation") from error
    if len(body) != 1 or not isinstance(body[0], (ast.Expr, ast.Assign)):
        raise _refuse(text, f"{len(body)} statements", "one expression")
    reader = _Reader(text)
    outcome = reader.read(body[0].value, 0)
    if not isinstance(outcome, Made):
        raise _refuse(text, "nothing is computed", "at least one operation")
    return Formula(text.strip(), _result(body[0], reader.names, text), tuple(reader.names), tuple(reader.ops))


def _result(statement: ast.stmt, names: Sequence[str], text: str) -> str:
    """What the result is called: as the text says, else y, or what is free."""
    if isinstance(statement, ast.Assign):
        target = statement.targets[0]
        if len(statement.targets) != 1 or not isinstance(target, ast.Name) or target.id in names:
            raise _refuse(text, ast.unparse(target), "one new name before =")
        return target.id
    return next(name for name in ("y", "z", "out", *(f"y{i}" for i in range(len(names) + 1))) if name not in names)


class _Reader:
    """Walks the syntax tree; ops come out innermost first, left before right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.names: list[str] = []
        self.ops: list[Op] = []

    def read(self, tree: ast.expr, depth: int) -> Operand | float:
        if depth > MOST_DEPTH:
            raise _refuse(self._text, "too deep", f"at most {MOST_DEPTH} operations inside one another")
        if isinstance(tree, ast.Name):
            if tree.id not in self.names:
                self.names.append(tree.id)
            return Name(tree.id)
        if isinstance(tree, ast.Constant) and isinstance(tree.value, int | float) and type(tree.value) is not bool:
            return float(tree.value)
        if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
            return self._negated(tree, self.read(tree.operand, depth + 1))
        if isinstance(tree, ast.Attribute) and tree.attr == "T":
            return self._transposed(tree, self.read(tree.value, depth + 1))
        if isinstance(tree, ast.BinOp) and type(tree.op) in _BINARY:
            return self._binary(tree, self.read(tree.left, depth + 1), self.read(tree.right, depth + 1))
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
            return self._called(tree, depth)
        raise _refuse(self._text, ast.unparse(tree), "names, numbers, @ + - * / .T ( ) and functions of one argument")

    def _add(self, tree: ast.expr, op: Op) -> Made:
        if len(self.ops) == MOST_OPS:
            raise _refuse(self._text, "too many operations", f"at most {MOST_OPS}")
        self.ops.append(replace(op, text=ast.unparse(tree)))
        return Made(len(self.ops) - 1)

    def _negated(self, tree: ast.expr, operand: Operand | float) -> Operand | float:
        if isinstance(operand, float):
            return -operand
        return self._add(tree, Op("negate", "-{0}", (operand,), lambda x: -x))

    def _transposed(self, tree: ast.expr, operand: Operand | float) -> Operand:
        if isinstance(operand, float):
            raise _refuse(self._text, "a number's .T", "a tensor before .T")
        return self._add(tree, Op("transpose", "{0}.mT", (operand,), lambda x: x.mT))

    def _called(self, tree: ast.Call, depth: int) -> Operand:
        assert isinstance(tree.func, ast.Name)
        given = tree.func.id.lower()
        name = SYNONYMS.get(given, given)
        if name not in (*ACTIVATIONS, *ALONG_LAST):
            raise _refuse(self._text, f"{tree.func.id}(…)", ", ".join((*ACTIVATIONS, *ALONG_LAST)))
        if len(tree.args) != 1 or tree.keywords or isinstance(tree.args[0], ast.Starred):
            raise _refuse(self._text, ast.unparse(tree), f"{tree.func.id} of one argument")
        operand = self.read(tree.args[0], depth + 1)
        if isinstance(operand, float):
            raise _refuse(self._text, ast.unparse(tree), "a tensor as the argument")
        return self._add(tree, _function(name, operand))

    def _binary(self, tree: ast.BinOp, left: Operand | float, right: Operand | float) -> Operand | float:
        word, sign = _BINARY[type(tree.op)]
        numbers = [o for o in (left, right) if isinstance(o, float)]
        if len(numbers) == 2:
            raise _refuse(self._text, ast.unparse(tree), "a tensor on one side")
        if numbers and word == "matmul":
            raise _refuse(self._text, ast.unparse(tree), "tensors on both sides of @; * for numbers")
        if word == "divide" and not isinstance(right, float):
            raise _refuse(self._text, ast.unparse(tree), "a number behind /")
        if right == 0.0 and word == "divide":
            raise _refuse(self._text, ast.unparse(tree), "a number other than 0 behind /")
        return self._add(tree, _combined(word, sign, left, right))


def _function(name: str, operand: Operand) -> Op:
    from torch.nn import functional

    function = getattr(functional, name)
    if name == "softmax":
        return Op("softmax", "F.softmax({0}, dim=-1)", (operand,), lambda x: function(x, dim=-1))
    if name == "layer_norm":
        pattern = "F.layer_norm({0}, {0}.shape[-1:])"
        return Op("layer-norm", pattern, (operand,), lambda x: function(x, x.shape[-1:]))
    return Op(name.replace("_", "-"), f"F.{name}({{0}})", (operand,), function)


def _combined(word: str, sign: str, left: Operand | float, right: Operand | float) -> Op:
    functions: dict[str, Callable[[Any, Any], Any]] = {
        "@": lambda a, b: a @ b,
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
    }
    function = functions[sign]
    if isinstance(left, float):
        assert not isinstance(right, float)
        number = left
        return Op(word, f"{number!r} {sign} {{0}}", (right,), lambda x: function(number, x))
    if isinstance(right, float):
        other = right
        return Op(word, f"{{0}} {sign} {other!r}", (left,), lambda x: function(x, other))
    return Op(word, f"{{0}} {sign} {{1}}", (left, right), function)


def _misfit(formula: Formula, op: Op, operands: Sequence[torch.Tensor], error: RuntimeError) -> InputError:
    shapes = " and ".join(str(list(o.shape)) for o in operands)
    return InputError(
        "the shapes do not fit together",
        where=f"{op.word} in {formula.text}",
        got=f"{shapes}: {str(error).partition(chr(10))[0]}",
        needed="for a @ b: as many columns of a as rows of b",
        do="change --shape",
    )


def _refuse(text: str, got: str, needed: str) -> InputError:
    return InputError(
        "this is not an expression that can be compared",
        where=text,
        got=got,
        needed=needed,
        do='write "gelu(X @ W1) @ W2"',
    )
