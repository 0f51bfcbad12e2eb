"""Wrap one expression of one module's own forward: the module gets a copy of its forward with a call inserted.

The expression is found by its exact place in the source (Python 3.11 keeps line and column of every instruction), the
source is parsed, `E` becomes `self._axisplit["name"](E)`, and the function is compiled with the globals, defaults and
closure of the original. Decorators around the forward are kept: the chain of wrappers is copied with the inner function
replaced in its closure. Only this module's instance sees the copy.
"""

from __future__ import annotations

import ast
import copy
import functools
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from axisplit.errors import LoweringError

Position = tuple[int, int, int, int]


@dataclass(frozen=True)
class Insertion:
    """Wrap the expression at a source position (or one operand of it) in the call of a named step."""

    name: str
    function: str
    position: Position  # line, end line, column, end column, as `co_positions` gives them
    operand: int  # -1: the expression itself
    call: bool = False  # `f(x, ...)` becomes `step(f, x, ...)`


def position_of(code: types.CodeType, instruction: int) -> Position | None:
    """Source position of an instruction, if the code kept it whole."""
    places = _positions(code)
    place = places[instruction] if instruction < len(places) else (None,)
    return None if any(p is None for p in place) else place  # type: ignore[return-value]


@functools.lru_cache(maxsize=512)
def _positions(code: types.CodeType) -> list[tuple[int | None, ...]]:
    return list(code.co_positions())


def insert_calls(module: torch.nn.Module, insertions: Sequence[Insertion]) -> None:
    """Give a module a copy of its forward with calls inserted. Raises: LoweringError where a place is not found."""
    for function in dict.fromkeys(i.function for i in insertions):
        name = function.rpartition(".")[2]
        method = getattr(module, name, None)
        outer = getattr(method, "__func__", None)
        inner = _find(outer, function)
        if outer is None or inner is None:
            raise LoweringError(f"{type(module).__name__} has no method {function} to change")
        chosen = [i for i in insertions if i.function == function]
        setattr(module, name, types.MethodType(_replaced(outer, inner, _rewritten(inner, chosen)), module))


def reachable(module: torch.nn.Module, code: types.CodeType) -> bool:
    """Whether a method of the module is, or wraps, the function with this code: then the instance can have its own."""
    method = getattr(module, code.co_name, None)
    return (
        getattr(method, "__self__", None) is module and _find_code(getattr(method, "__func__", None), code) is not None
    )


def can_insert(code: types.CodeType, instruction: int, operand: int, call: bool = False) -> bool:
    """Whether the expression at an instruction (or its operand) is found in the source; with `call`, it must be a call
    with at least one plain argument.
    """
    position = position_of(code, instruction)
    if position is None:
        return False
    found = _expressions(code.co_filename, code.co_name, code.co_firstlineno).get(position)
    if not found:
        return False
    if call:
        return isinstance(found[0], ast.Call) and bool(found[0].args) and not isinstance(found[0].args[0], ast.Starred)
    return operand < 0 or _operand(found[0], operand) is not None


@functools.lru_cache(maxsize=512)
def _expressions(file: str, name: str, first_line: int) -> dict[Position, list[ast.AST]]:
    """Expressions of a method by place, outer ones first; empty where the method or its first argument is not there."""
    tree = _parsed(file)
    definition = None if tree is None else _definition(tree, name, first_line)
    found: dict[Position, list[ast.AST]] = {}
    if definition is not None and definition.args.args:
        for node in ast.walk(definition):
            if isinstance(node, ast.expr | ast.AugAssign):
                place = _place(node)
                assert place is not None
                found.setdefault(place, []).append(node)
    return found


def _find(function: Any, name: str) -> types.FunctionType | None:
    for candidate in _wrapped(function):
        if candidate.__code__.co_qualname == name:
            return candidate
    return None


def _find_code(function: Any, code: types.CodeType) -> types.FunctionType | None:
    return next((candidate for candidate in _wrapped(function) if candidate.__code__ is code), None)


def _wrapped(function: Any) -> list[types.FunctionType]:
    """A function and those it holds in its closure, outermost first."""
    found: list[types.FunctionType] = []
    waiting = [function]
    while waiting:
        current = waiting.pop(0)
        if isinstance(current, functools.partial):
            waiting.append(current.func)
        if not isinstance(current, types.FunctionType) or any(current is f for f in found):
            continue
        found.append(current)
        waiting += [_content(cell) for cell in current.__closure__ or ()]
    return found


def _replaced(outer: types.FunctionType, old: types.FunctionType, new: types.FunctionType) -> types.FunctionType:
    """A copy of a wrapper chain with one function exchanged: the functions on the shortest way to it are copied."""
    if outer is old:
        return new
    way = _way(outer, old)
    cells = []
    for cell in outer.__closure__ or ():
        follow = len(way) > 1 and _content(cell) is way[1]
        cells.append(types.CellType(_replaced(way[1], old, new)) if follow else cell)
    return _like(outer, outer.__code__, tuple(cells))


def _way(outer: types.FunctionType, old: types.FunctionType) -> list[types.FunctionType]:
    """The shortest chain of closures from one function to another, both ends included."""
    waiting, seen = [[outer]], {id(outer)}
    while waiting:
        way = waiting.pop(0)
        if way[-1] is old:
            return way
        for cell in way[-1].__closure__ or ():
            content = _content(cell)
            if isinstance(content, types.FunctionType) and id(content) not in seen:
                seen.add(id(content))
                waiting.append([*way, content])
    return []


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # a cell that is not filled yet


def _like(function: types.FunctionType, code: types.CodeType, closure: tuple[Any, ...] | None) -> types.FunctionType:
    made = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure or None)
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    made.__qualname__ = function.__qualname__
    made.__doc__, made.__annotations__ = function.__doc__, function.__annotations__
    return made


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


def _place(node: ast.AST) -> Position | None:
    if not isinstance(node, ast.expr | ast.stmt):
        return None
    return (node.lineno, node.end_lineno or 0, node.col_offset, node.end_col_offset or 0)


def _operand(node: ast.AST, operand: int) -> ast.expr | None:
    """The sub-expression that is an op's tensor operand, in the order of the op's own arguments."""
    if isinstance(node, ast.BinOp):
        return (node.left, node.right)[operand] if operand < 2 else None
    if isinstance(node, ast.AugAssign):
        return (_loaded(node.target), node.value)[operand] if operand < 2 else None
    if isinstance(node, ast.Call):
        arguments = list(node.args)
        if isinstance(node.func, ast.Attribute) and not _is_namespace(node.func.value):
            arguments.insert(0, node.func.value)
        found = arguments[operand] if operand < len(arguments) else None
        return None if isinstance(found, ast.Starred) else found
    return None


def _loaded(target: ast.expr) -> ast.expr:
    """What an assignment's target reads as."""
    copied = copy.deepcopy(target)
    copied.ctx = ast.Load()  # type: ignore[attr-defined]
    return copied


def _is_namespace(node: ast.expr) -> bool:
    """`torch.add(x, y)`, `nn.functional.linear(x, w)`: what stands in front of the dot is a module, not an operand."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in ("torch", "F", "nn", "functional")


def _rewritten(function: types.FunctionType, insertions: Sequence[Insertion]) -> types.FunctionType:
    code = function.__code__
    tree = _parsed(code.co_filename)
    definition = None if tree is None else _definition(tree, code.co_name, code.co_firstlineno)
    if definition is None:
        raise LoweringError(f"the source of {function.__qualname__} is not to be found")
    first = definition.args.args[0].arg
    changed = _Inserter(first, insertions).visit(copy.deepcopy(definition))
    changed.decorator_list = []
    free = list(code.co_freevars)
    maker = ast.parse(f"def _maker({', '.join(free)}): pass").body[0]
    assert isinstance(maker, ast.FunctionDef)
    maker.body = [changed]
    module = ast.fix_missing_locations(ast.Module(body=[maker], type_ignores=[]))
    compiled = compile(module, code.co_filename, "exec", dont_inherit=True, flags=code.co_flags & _FUTURE)
    inner = _code_named(_code_named(compiled, "_maker"), code.co_name)
    cells = dict(zip(free, function.__closure__ or (), strict=True))
    return _like(function, inner, tuple(cells[name] for name in inner.co_freevars))


_FUTURE = 0x1000000  # from __future__ import annotations


def _code_named(code: types.CodeType, name: str) -> types.CodeType:
    return next(c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name == name)


class _Inserter(ast.NodeTransformer):
    """Wraps the chosen expressions, innermost first so that places stay valid."""

    def __init__(self, first: str, insertions: Sequence[Insertion]) -> None:
        self._first = first
        self._left = list(insertions)

    def _call(
        self, name: str, inner: ast.expr, more: Sequence[ast.expr] = (), keywords: Sequence[ast.keyword] = ()
    ) -> ast.expr:
        holder = ast.Attribute(ast.Name(self._first, ast.Load()), "_axisplit", ast.Load())
        chosen = ast.Subscript(holder, ast.Constant(name), ast.Load())
        return ast.copy_location(ast.Call(chosen, [inner, *more], list(keywords)), inner)

    def visit(self, node: ast.AST) -> Any:
        place = _place(node) if isinstance(node, ast.expr | ast.AugAssign) else None
        here = [i for i in self._left if i.position == place] if place else []
        targets = [(i, _operand(node, i.operand)) for i in here if i.operand >= 0]
        visited = self.generic_visit(node)
        if here and isinstance(visited, ast.AugAssign):  # `x += y` becomes `x = x + y`, whose parts can be wrapped
            inner = ast.BinOp(_loaded(visited.target), visited.op, visited.value)
            wrapped = self._wrap(ast.copy_location(inner, visited), here, targets)
            return ast.copy_location(ast.Assign([visited.target], wrapped), visited)
        return self._wrap(visited, here, targets)

    def _wrap(self, visited: Any, here: list[Insertion], targets: list[tuple[Insertion, ast.expr | None]]) -> Any:
        for insertion, target in targets:
            self._left.remove(insertion)
            assert target is not None, "checked by can_insert"
            visited = _swap(visited, insertion.operand, functools.partial(self._call, insertion.name))
        for insertion in [i for i in here if i.operand < 0]:
            self._left.remove(insertion)
            if insertion.call:
                visited = self._call(insertion.name, visited.func, visited.args, visited.keywords)
            else:
                visited = self._call(insertion.name, visited)
        return visited


def _swap(node: Any, operand: int, wrap: Callable[[ast.expr], ast.expr]) -> Any:
    if isinstance(node, ast.BinOp):
        if operand == 0:
            node.left = wrap(node.left)
        else:
            node.right = wrap(node.right)
    elif isinstance(node, ast.Call):
        method = isinstance(node.func, ast.Attribute) and not _is_namespace(node.func.value)
        if method and operand == 0:
            node.func.value = wrap(node.func.value)  # type: ignore[attr-defined]
        else:
            node.args[operand - method] = wrap(node.args[operand - method])
    return node
