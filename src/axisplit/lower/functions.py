"""Functions and what is wrapped around them: find the one that a decorator holds, copy the chain with it exchanged."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any


def find_function(function: Any, fits: Callable[[types.CodeType], bool]) -> types.FunctionType | None:
    """The outermost of a function and those it holds in its closure whose code fits."""
    return next((candidate for candidate in _wrapped(function) if fits(candidate.__code__)), None)


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


def replaced(outer: types.FunctionType, old: types.FunctionType, new: types.FunctionType) -> types.FunctionType:
    """A copy of a wrapper chain with one function exchanged: the functions on the shortest way to it are copied."""
    if outer is old:
        return new
    way = _way(outer, old)
    cells = []
    for cell in outer.__closure__ or ():
        follow = len(way) > 1 and _content(cell) is way[1]
        cells.append(types.CellType(replaced(way[1], old, new)) if follow else cell)
    return like(outer, outer.__code__, tuple(cells))


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


def like(function: types.FunctionType, code: types.CodeType, closure: tuple[Any, ...] | None) -> types.FunctionType:
    """A function with other code and closure, else as the given one."""
    made = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure or None)
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    made.__qualname__ = function.__qualname__
    made.__doc__, made.__annotations__ = function.__doc__, function.__annotations__
    return made
