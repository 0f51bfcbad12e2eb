"""Copies of models whose functions belong to the copy, and whose kept state need not be a leaf.

`copy.deepcopy` takes functions as they are: a lambda that a model keeps (`self.path = lambda x: mlp.out(mlp.in(x))`)
would go on running the first model's layers in every copy of it. It refuses tensors that know what they were computed
from: the last state that a recurrent layer keeps after a forward pass with gradients.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import torch

M = TypeVar("M", bound=torch.nn.Module)


def copy_model(model: M, memo: dict[int, Any] | None = None) -> M:
    """`copy.deepcopy`, and functions kept in the model that close over its layers or tensors close over the copy's.
    Computed tensors are copied detached.

    Args:
        memo: as for `deepcopy`: id of an object -> what takes its place.
    """
    memo = {} if memo is None else memo
    kept = list(_kept(model))
    for held in kept:
        if isinstance(held, torch.Tensor) and not held.is_leaf:
            memo.setdefault(id(held), held.detach().clone())
        elif type(held) is OrderedDict and not held:  # a module has a dozen for hooks, which deepcopy rebuilds slowly
            memo.setdefault(id(held), OrderedDict())
    functions = [held for held in kept if isinstance(held, FunctionType)]
    closures = [function for function in functions if any(map(_holds_state, _enclosed(function)))]
    for function in closures:
        memo[id(function)] = _unbound(function)
    copied = copy.deepcopy(model, memo)
    for function in closures:
        made = memo[id(function)]
        made.__defaults__ = copy.deepcopy(function.__defaults__, memo)
        made.__kwdefaults__ = copy.deepcopy(function.__kwdefaults__, memo)
        for cell, given in zip(made.__closure__ or (), function.__closure__ or (), strict=True):
            if _is_filled(given):
                held = given.cell_contents
                cell.cell_contents = copy.deepcopy(held, memo) if _holds_state(held) else held
    return copied


def _unbound(function: FunctionType) -> FunctionType:
    """The function with empty cells."""
    cells = tuple(CellType() for _ in function.__closure__ or ())
    made = FunctionType(function.__code__, function.__globals__, function.__name__, None, cells or None)
    made.__dict__.update(function.__dict__)
    made.__qualname__, made.__module__ = function.__qualname__, function.__module__
    return made


def _kept(model: torch.nn.Module) -> Iterator[Any]:
    """All that can be reached from what a model's modules keep: tensors and Python functions among it."""
    waiting, seen = [model], set[int]()
    while waiting:
        held: Any = waiting.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        yield held
        waiting += _parts(held)


def _parts(held: Any) -> list[Any]:
    """What an object keeps that `deepcopy` would copy with it, or that a function encloses."""
    if isinstance(held, (torch.Tensor, type, ModuleType, MethodType, str, bytes)):
        return []
    if isinstance(held, Mapping):
        return list(held.values())
    if isinstance(held, (list, tuple, set, frozenset)):
        return list(held)
    if isinstance(held, FunctionType):
        return _enclosed(held)
    if isinstance(held, partial):
        return [held.func, *held.args, *held.keywords.values()]
    return list(getattr(held, "__dict__", {}).values())


def _enclosed(function: FunctionType) -> list[Any]:
    """What a function reaches without being given it: cells that it closes over, and defaults."""
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    return [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a name that its function has not bound yet
        return False


def _holds_state(held: Any, depth: int = 4) -> bool:
    """Whether an object is, or keeps in containers or functions, a layer or a tensor."""
    if isinstance(held, (torch.nn.Module, torch.Tensor)):
        return True
    if isinstance(held, MethodType):
        return _holds_state(held.__self__, depth - 1)
    if depth == 0 or not isinstance(held, (list, tuple, set, Mapping, FunctionType, partial)):
        return False
    return any(_holds_state(part, depth - 1) for part in _parts(held))
