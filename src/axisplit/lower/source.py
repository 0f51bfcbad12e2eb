"""Expressions of the model's Python by their exact place in the source.

Python 3.11 keeps line and column of every instruction; the file is parsed once and its expressions are found again by
these places. A call of a method that stands on a later line than what it is a method of has a place of its own: its
instructions are said to begin at the method's name.
"""

from __future__ import annotations

import ast
import copy
import functools
import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from axisplit.capture.graph import Frame
from axisplit.capture.integers import Path

Position = tuple[int, int, int, int]  # line, end line, column, end column, as `co_positions` gives them


def position_of(frame: Frame) -> Position | None:
    """Source position of a frame's instruction, if the code kept it whole."""
    code, instruction = frame.inner or (frame.code, frame.instruction)
    places = _positions(code)
    place = places[instruction] if instruction < len(places) else (None,)
    return None if any(p is None for p in place) else place  # type: ignore[return-value]


@functools.lru_cache(maxsize=512)
def _positions(code: types.CodeType) -> list[tuple[int | None, ...]]:
    return list(code.co_positions())


def definition_of(code: types.CodeType) -> ast.FunctionDef | None:
    """The definition in the source that a code object was compiled from; None for lambdas and code without a file."""
    tree = _parsed(code.co_filename)
    return None if tree is None else _definition(tree, code.co_name, code.co_firstlineno)


_INSIDE = ("<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>", "<lambda>")


def with_enclosed(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """Frames in which comprehensions and lambdas are part of the function that they stand in, if it is what runs
    them: its definition can be rewritten, theirs alone cannot.
    """
    found: list[Frame] = []
    for frame in frames:
        last = found[-1] if found else None
        if last is not None and last.code.co_name in _INSIDE and last.code in frame.code.co_consts:
            found[-1] = replace(frame, inner=last.inner or (last.code, last.instruction))
        else:
            found.append(frame)
    return tuple(found)


def can_insert(frame: Frame, operand: int, call: bool = False, argument: Path = ()) -> bool:
    """Whether the expression that a frame is at (or its operand, or an argument) is found in the source; with `call`,
    it must be a call with at least one plain argument.
    """
    found = _expression(frame)
    if found is None:
        return False
    if argument:
        return argument_of(found, argument) is not None
    if call:
        return isinstance(found, ast.Call) and bool(found.args) and not isinstance(found.args[0], ast.Starred)
    return operand < 0 or operand_of(found, operand) is not None


def is_call(frame: Frame) -> bool:
    """Whether a call stands in the source where a frame is."""
    return isinstance(_expression(frame), ast.Call)


def _expression(frame: Frame) -> ast.AST | None:
    position, code = position_of(frame), frame.code
    if position is None:
        return None
    found = _expressions(code.co_filename, code.co_name, code.co_firstlineno).get(position)
    return found[0] if found else None


@functools.lru_cache(maxsize=512)
def _expressions(file: str, name: str, first_line: int) -> dict[Position, list[ast.AST]]:
    """Expressions of a function by place, outer ones first; empty where the function is not there."""
    tree = _parsed(file)
    definition = None if tree is None else _definition(tree, name, first_line)
    found: dict[Position, list[ast.AST]] = {}
    for node in ast.walk(definition) if definition is not None else ():
        for place in places_of(node):
            found.setdefault(place, []).append(node)
    return found


@functools.lru_cache(maxsize=64)
def _parsed(file: str) -> ast.Module | None:
    try:
        with open(file, encoding="utf-8") as source:
            return ast.parse(source.read())
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def _definition(tree: ast.Module, name: str, first_line: int) -> ast.FunctionDef | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if start == first_line:
                return node
    return None


def places_of(node: ast.AST) -> list[Position]:
    """Where the instructions of an expression (or of an assignment such as `+=`) say they are."""
    if not isinstance(node, ast.expr | ast.AugAssign):
        return []
    end = (node.end_lineno or 0, node.end_col_offset or 0)
    places = [(node.lineno, end[0], node.col_offset, end[1])]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.end_lineno != node.lineno:
        name = node.func
        places.append((name.end_lineno or 0, end[0], (name.end_col_offset or 0) - len(name.attr), end[1]))
    return places


def operand_of(node: ast.AST, operand: int) -> ast.expr | None:
    """The sub-expression that is an op's tensor operand, in the order of the op's own arguments: literals (`"ij,jk"`,
    `-1`) are none, and what stands in a literal list (`torch.cat((x, y))`) counts one by one.
    """
    if isinstance(node, ast.BinOp):
        return _nth(operand, node.left, node.right)
    if isinstance(node, ast.AugAssign):
        return _nth(operand, as_loaded(node.target), node.value)
    if isinstance(node, ast.Call):
        arguments = list(node.args)
        if isinstance(node.func, ast.Attribute) and not is_namespace(node.func.value):
            arguments.insert(0, node.func.value)
        return _nth(operand, *arguments)
    return None


def _nth(operand: int, *arguments: ast.expr) -> ast.expr | None:
    """An operand among arguments, of which none before it may be of unknown length."""
    given = [found for argument in arguments for found in _tensors_in(argument)]
    unknown = any(isinstance(found, ast.Starred) for found in given[: operand + 1])
    return given[operand] if operand < len(given) and not unknown else None


def _tensors_in(argument: ast.expr) -> list[ast.expr]:
    """What an argument may hold of tensors."""
    if isinstance(argument, ast.Tuple | ast.List):
        return [found for item in argument.elts for found in _tensors_in(item)]
    inner = argument.operand if isinstance(argument, ast.UnaryOp) else argument
    return [] if isinstance(inner, ast.Constant) else [argument]


def argument_of(node: ast.AST, path: Path) -> ast.expr | None:
    """The expression of one argument of a call, or of one item of a tuple, list or slice that is written there. None
    where it does not stand in the source by itself: behind a star, or inside a variable.
    """
    slot = _slot(node, path)
    found = None if slot is None else slot[0]()
    return None if isinstance(found, ast.Starred | ast.Tuple | ast.List | ast.Slice) else found


def is_number(frame: Frame, path: Path) -> bool:
    """Whether an argument of the call that a frame is at is a number that stands in the source."""
    found = _expression(frame)
    return found is not None and isinstance(argument_of(found, path), ast.Constant)


def exchange_argument(node: ast.AST, path: Path, change: Callable[[ast.expr], ast.expr]) -> None:
    """Replace the expression that `argument_of` finds, in place."""
    slot = _slot(node, path)
    assert slot is not None, "checked by can_insert"
    get, put = slot
    put(change(get()))


def _slot_of(node: ast.AST, head: int | str) -> Slot | None:
    """An argument of a call, or what stands in square brackets (argument 1)."""
    if isinstance(node, ast.Subscript) and head == 1:
        return _field(node, "slice")
    if not isinstance(node, ast.Call):
        return None
    if isinstance(head, str):
        keyword = next((k for k in node.keywords if k.arg == head), None)
        return None if keyword is None else _field(keyword, "value")
    method = isinstance(node.func, ast.Attribute) and not is_namespace(node.func.value)
    return _item(node.args, head - method)


Slot = tuple[Callable[[], ast.expr], Callable[[ast.expr], None]]  # read an expression where it stands, write it there


def _slot(node: ast.AST, path: Path) -> Slot | None:
    head, *items = path
    slot = _slot_of(node, head)
    for item in items:
        holder = None if slot is None else slot[0]()
        if isinstance(holder, ast.Slice) and getattr(holder, _BOUNDS[str(item)]) is not None:
            slot = _field(holder, _BOUNDS[str(item)])
        else:
            slot = _item(holder.elts, int(item)) if isinstance(holder, ast.Tuple | ast.List) else None
    return slot


_BOUNDS = {"start": "lower", "stop": "upper", "step": "step"}


def _field(holder: Any, name: str) -> Slot:
    return lambda: getattr(holder, name), lambda made: setattr(holder, name, made)


def _item(expressions: list[ast.expr], index: int) -> Slot | None:
    """One of several; behind a star nobody knows how many stand in front of it."""
    if not 0 <= index < len(expressions) or any(isinstance(e, ast.Starred) for e in expressions[: index + 1]):
        return None
    return lambda: expressions[index], lambda made: expressions.__setitem__(index, made)


def as_loaded(target: ast.expr) -> ast.expr:
    """What an assignment's target reads as."""
    copied = copy.deepcopy(target)
    copied.ctx = ast.Load()  # type: ignore[attr-defined]
    return copied


def is_namespace(node: ast.expr) -> bool:
    """`torch.add(x, y)`, `nn.functional.linear(x, w)`: what stands in front of the dot is a module, not an operand."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in ("torch", "F", "nn", "functional")
