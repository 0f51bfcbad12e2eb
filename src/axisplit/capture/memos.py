"""Functions that keep their results by the values of their arguments (`functools.lru_cache`), while a model is traced.

An integer that remembers where it came from equals one that does not. A function that keeps results would give the
second of two layers what it computed for the first, sizes of another attribute or tensor included (einops keeps shapes
so), and later calls integers of a trace that is over. One that makes tensors (positions by shape, device and dtype)
would give a trace what it made for an earlier call, and later calls fake tensors. Inside `memos_aside` such functions
compute anew wherever they are given integers that remember, or anything of torch's, and keep nothing of it.

They are names of modules, attributes of classes, or stand in closures (a decorator around `lru_cache`). torch's own,
the standard library's and ours are left alone.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import Any

import torch

from axisplit.capture.provenance import TracedInt

_LEFT_ALONE = sys.stdlib_module_names | {"torch", "axisplit"}
_MEMO = type(functools.lru_cache(int))
_CELL = type((lambda x: lambda: x)(0).__closure__[0])  # type: ignore[index]
_Exchange = Callable[[Any], None]  # puts something in the place of a function
_seen: list[tuple[int, list[tuple[_Exchange, Any]]]] = [(-1, [])]  # number of modules, and what was found with them


@contextmanager
def memos_aside() -> Iterator[None]:
    """For the duration, functions that keep results do not do so for what a trace gives them."""
    if _seen[0][0] != len(sys.modules):
        _seen[0] = (len(sys.modules), list(_memos()))
    found = _seen[0][1]
    for exchange, memo in found:
        exchange(_remembering(memo))
    try:
        yield
    finally:
        for exchange, memo in found:
            exchange(memo)


def _memos() -> Iterator[tuple[_Exchange, Any]]:
    """(how to exchange it, function) of every function that keeps its results, wherever it is called by."""
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        yield from ((partial(names.__setitem__, name), held) for name, held in list(names.items()) if _is_memo(held))
    for held in gc.get_objects():
        if type(held) is _CELL and _is_memo(_content(held)):
            yield partial(setattr, held, "cell_contents"), _content(held)
        elif issubclass(type(held), type):  # what an object claims to be may be computed
            yield from _of_class(held)


def _of_class(kind: type) -> Iterator[tuple[_Exchange, Any]]:
    for name, held in list(vars(kind).items()):
        if _is_memo(held):
            yield partial(setattr, kind, name), held
        elif isinstance(held, staticmethod) and _is_memo(held.__func__):
            yield lambda made, name=name: setattr(kind, name, staticmethod(made)), held.__func__  # type: ignore[misc]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _is_memo(held: Any) -> bool:
    """Whether something is a Python function that keeps its results, and nobody's machinery."""
    if type(held) is not _MEMO or not isinstance(held.__wrapped__, FunctionType):
        return False
    return (held.__wrapped__.__module__ or "").partition(".")[0] not in _LEFT_ALONE


@functools.cache
def _remembering(memo: Any) -> Callable[..., Any]:
    @functools.wraps(memo)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (memo.__wrapped__ if _remembers((args, kwargs)) else memo)(*args, **kwargs)

    for name in ("cache_clear", "cache_info", "cache_parameters"):
        setattr(call, name, getattr(memo, name))
    return call


_OF_TORCH = (torch.Tensor, torch.Size, torch.device, torch.dtype, torch.nn.Module)


def _remembers(tree: Any) -> bool:
    """Whether an argument tree holds an integer that remembers where it came from, or anything of torch's."""
    if isinstance(tree, (TracedInt, *_OF_TORCH)):
        return True
    if isinstance(tree, (tuple, list)):
        return any(map(_remembers, tree))
    return isinstance(tree, Mapping) and any(map(_remembers, tree.values()))
