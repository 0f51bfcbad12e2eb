"""Wrap one expression of the Python that one module runs: the module gets a copy of its method with a call inserted.

The expression is found by its exact place in the source (`source.py`), `E` becomes `_axisplit["name"](E)`, and the
function is compiled with the globals, defaults and closure of the original; `_axisplit` is one cell more. Decorators
around it are kept: the chain of wrappers is copied with the inner function replaced in its closure.

Only a method of the module can be exchanged on the instance. An expression elsewhere (a base class's method behind
`super()`, a function of the model's file) is reached through the calls on the way to it: in the copy of the method,
`super().forward(x)` becomes `_axisplit["…"](super().forward)(x)`, which calls a changed copy of whatever function
stands there, and so on inwards. Other callers of that function do not see the copy. A function that was not traced at
such a call is refused: it would leave out what was inserted.

    method of the module --call--> function --call--> function with the expression
    `Insertion.through`: (function, place of the call) for each arrow, outermost first
"""

from __future__ import annotations

import ast
import copy
import functools
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from axisplit.capture.graph import Frame
from axisplit.capture.integers import Path
from axisplit.errors import LoweringError
from axisplit.lower.functions import find_function, like, replaced
from axisplit.lower.source import (
    Position,
    as_loaded,
    can_insert,
    definition_of,
    exchange_argument,
    is_call,
    operand_of,
    places_of,
    with_enclosed,
)


@dataclass(frozen=True)
class Insertion:
    """Wrap the expression at a source position (or an operand or argument of it) in the call of a named step."""

    name: str
    function: str
    position: Position
    operand: int = -1  # -1: the expression itself, or an argument
    call: bool = False  # `f(x, ...)` becomes `step(f, x, ...)`
    through: tuple[tuple[str, Position], ...] = ()  # calls on the way from the module's own method, outermost first
    argument: Path = ()  # of the call that stands there, this argument is wrapped


@dataclass
class _Changes:
    """What changes in one function: expressions, and calls whose callee changes (by the callee's qualified name)."""

    insertions: list[Insertion] = field(default_factory=list)
    calls: dict[Position, dict[str, _Changes]] = field(default_factory=dict)


Steps = Mapping[str, Callable[..., Any]]


def way_to(
    module: torch.nn.Module, frames: Sequence[Frame], operand: int, call: bool = False, argument: Path = ()
) -> tuple[Frame, ...] | None:
    """The frames from an expression out to a method that the instance can have its own of, or None if there are none.

    The outermost such method is taken: what is wrapped is then the expression on this way only, as decisions are.
    Functions on the way must be the module's methods or stand in the same file as one. Arguments are also reached in
    comprehensions and lambdas.
    """
    frames = with_enclosed(frames) if argument else frames
    if not frames or not can_insert(frames[0], operand, call, argument):
        return None
    files = {frame.code.co_filename for frame in frames if frame.module is not None}
    for last in reversed(range(len(frames))):
        way = tuple(frames[: last + 1])
        own = all(frame.module is not None or frame.code.co_filename in files for frame in way)
        if own and reachable(module, way[-1].code) and all(map(is_call, way[1:])):
            return way
    return None


def is_method(module: torch.nn.Module, code: types.CodeType) -> bool:
    """Whether a method of the module's class or of a base class is, or wraps, the function with this code."""
    named = (vars(kind).get(code.co_name) for kind in type(module).__mro__)
    return any(find_function(getattr(f, "__func__", f), lambda c: c is code) is not None for f in named)


def reachable(module: torch.nn.Module, code: types.CodeType) -> bool:
    """Whether a method of the module is, or wraps, the function with this code: then the instance can have its own."""
    method = getattr(module, code.co_name, None)
    function = getattr(method, "__func__", None)
    return getattr(method, "__self__", None) is module and find_function(function, lambda c: c is code) is not None


def insert_calls(module: torch.nn.Module, insertions: Sequence[Insertion]) -> None:
    """Give a module copies of its methods with calls inserted; the steps are those in its `_axisplit`.

    Raises: LoweringError where a method or place is not found.
    """
    steps = vars(module)["_axisplit"]
    for function, changes in _gathered(insertions).items():
        name = function.rpartition(".")[2]
        outer = getattr(getattr(module, name, None), "__func__", None)
        inner = _named(outer, function)
        if outer is None or inner is None:
            raise LoweringError(f"{type(module).__name__} has no method {function} to change")
        made = _with_code(inner, _rewritten(inner.__code__, changes), changes, steps)
        setattr(module, name, types.MethodType(replaced(outer, inner, made), module))


def _gathered(insertions: Sequence[Insertion]) -> dict[str, _Changes]:
    """Insertions that begin in the same method, and pass through the same calls, together."""
    methods: dict[str, _Changes] = {}
    for insertion in insertions:
        names = [*(function for function, _ in insertion.through), insertion.function]
        changes = methods.setdefault(names[0], _Changes())
        for (_, position), callee in zip(insertion.through, names[1:], strict=True):
            changes = changes.calls.setdefault(position, {}).setdefault(callee, _Changes())
        changes.insertions.append(insertion)
    return methods


def _named(function: Any, name: str) -> types.FunctionType | None:
    return find_function(function, lambda code: code.co_qualname == name)


class _Redirect:
    """Stands around the callee of a call: what was traced there is exchanged for its changed copy."""

    def __init__(self, callees: dict[str, _Changes], steps: Steps, place: str) -> None:
        self._callees, self._steps, self._place = callees, steps, place
        self._known: dict[types.FunctionType, types.FunctionType] = {}
        self._codes: dict[types.CodeType, types.CodeType] = {}

    def __call__(self, called: Any) -> Any:
        function = getattr(called, "__func__", called)
        made = self._known.get(function) if isinstance(function, types.FunctionType) else None
        made = made or self._changed(function)
        return types.MethodType(made, called.__self__) if isinstance(called, types.MethodType) else made

    def _changed(self, function: Any) -> types.FunctionType:
        for name, changes in self._callees.items():
            inner = _named(function, name) if isinstance(function, types.FunctionType) else None
            if inner is not None:
                code = inner.__code__
                if code not in self._codes:
                    self._codes[code] = _rewritten(code, changes)
                made = replaced(function, inner, _with_code(inner, self._codes[code], changes, self._steps))
                if function.__closure__ is None:  # others may be made anew at each call
                    self._known[function] = made
                return made
        raise LoweringError(
            "a function is called that was not there when the plan was made, and would run without its collectives",
            where=self._place,
            got=str(getattr(function, "__qualname__", type(function).__name__)),
            needed=" or ".join(self._callees),
            do="plan again with the model as it is now",
        )


CELL = "_axisplit"  # the variable in which a copy finds its steps


def _with_code(
    function: types.FunctionType, code: types.CodeType, changes: _Changes, steps: Steps
) -> types.FunctionType:
    """The function with its rewritten code, and the steps that this calls for in a cell."""
    chosen: dict[str, Callable[..., Any]] = {i.name: steps[i.name] for i in changes.insertions}
    for position, callees in changes.calls.items():
        chosen[_call_name(position)] = _Redirect(callees, steps, f"{function.__qualname__}, line {position[0]}")
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    cells[CELL] = types.CellType(chosen)
    return like(function, code, tuple(cells[name] for name in code.co_freevars))


def _call_name(position: Position) -> str:
    return "call:" + ":".join(map(str, position))


def _rewritten(code: types.CodeType, changes: _Changes) -> types.CodeType:
    """A function's code with calls inserted. Raises: LoweringError where its source or a place is not found."""
    definition = definition_of(code)
    if definition is None:
        raise LoweringError(f"the source of {code.co_qualname} is not to be found")
    inserter = _Inserter(changes)
    changed = inserter.visit(copy.deepcopy(definition))
    if inserter.left:
        raise LoweringError(f"{code.co_qualname} has no expression at {inserter.left[0]}")
    changed.decorator_list = []
    maker = ast.parse(f"def _maker({', '.join([*code.co_freevars, CELL])}): pass").body[0]
    assert isinstance(maker, ast.FunctionDef)
    maker.body = [changed]
    module = ast.fix_missing_locations(ast.Module(body=[maker], type_ignores=[]))
    compiled = compile(module, code.co_filename, "exec", dont_inherit=True, flags=code.co_flags & _FUTURE)
    inner = _code_named(_code_named(compiled, "_maker"), code.co_name)
    return _as_in(inner, inner.co_qualname, code.co_qualname)


_FUTURE = 0x1000000  # from __future__ import annotations


def _code_named(code: types.CodeType, name: str) -> types.CodeType:
    return next(c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name == name)


def _as_in(code: types.CodeType, made: str, original: str) -> types.CodeType:
    """The code and the functions in it under the names they had before."""
    constants = tuple(_as_in(c, made, original) if isinstance(c, types.CodeType) else c for c in code.co_consts)
    return code.replace(co_consts=constants, co_qualname=original + code.co_qualname.removeprefix(made))


class _Inserter(ast.NodeTransformer):
    """Wraps the chosen expressions, innermost first so that places stay valid; `left` are the places not found."""

    def __init__(self, changes: _Changes) -> None:
        self._insertions = list(changes.insertions)
        self._calls = set(changes.calls)

    @property
    def left(self) -> list[Position]:
        return [i.position for i in self._insertions] + sorted(self._calls)

    def visit(self, node: ast.AST) -> Any:
        places = places_of(node)
        here = [i for i in self._insertions if i.position in places]
        calls = [place for place in places if place in self._calls] if isinstance(node, ast.Call) else []
        self._insertions = [i for i in self._insertions if i not in here]
        self._calls.difference_update(calls)
        visited = self.generic_visit(node)
        if here and isinstance(visited, ast.AugAssign):  # `x += y` becomes `x = x + y`, whose parts can be wrapped
            inner = ast.BinOp(as_loaded(visited.target), visited.op, visited.value)
            wrapped = _wrap(ast.copy_location(inner, visited), here, calls)
            return ast.copy_location(ast.Assign([visited.target], wrapped), visited)
        return _wrap(visited, here, calls)


def _wrap(visited: Any, here: list[Insertion], calls: list[Position]) -> Any:
    """An expression with its insertions: arguments and operands first, then what it calls, then the whole."""
    for insertion in [i for i in here if i.argument]:
        exchange_argument(visited, insertion.argument, functools.partial(_step_call, insertion.name))
    for insertion in [i for i in here if i.operand >= 0]:
        visited = _swap(visited, insertion.operand, functools.partial(_step_call, insertion.name))
    for place in calls:
        visited.func = _step_call(_call_name(place), visited.func)
    for insertion in [i for i in here if i.operand < 0 and not i.argument]:
        if insertion.call:
            visited = _step_call(insertion.name, visited.func, visited.args, visited.keywords)
        else:
            visited = _step_call(insertion.name, visited)
    return visited


def _step_call(
    name: str, inner: ast.expr, more: Sequence[ast.expr] = (), keywords: Sequence[ast.keyword] = ()
) -> ast.expr:
    chosen = ast.Subscript(ast.Name(CELL, ast.Load()), ast.Constant(name), ast.Load())
    return ast.copy_location(ast.Call(chosen, [inner, *more], list(keywords)), inner)


def _swap(node: Any, operand: int, wrap: Callable[[ast.expr], ast.expr]) -> Any:
    """The expression with one operand wrapped, in place."""
    found = operand_of(node, operand)
    assert found is not None, "checked by can_insert"
    for parent in ast.walk(node):
        for name, held in ast.iter_fields(parent):
            if held is found:
                setattr(parent, name, wrap(found))
                return node
            if isinstance(held, list) and any(item is found for item in held):
                held[:] = [wrap(found) if item is found else item for item in held]
                return node
    raise AssertionError("an operand is part of its expression")
