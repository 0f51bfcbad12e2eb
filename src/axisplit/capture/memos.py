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
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import Any

import torch

from axisplit.capture.provenance import TracedInt

_LEFT_ALONE = sys.stdlib_module_names | {"torch", "axisplit"}
_MEMO = type(functools.lru_cache(int))
_CELL = type((lambda x: lambda: x)(0).__closure__[0])  # type: ignore[index]
_Exchange = Callable[[Any], None]  # puts something in the place of a function
_own: set[int] = set()  # cells of the functions that stand in for others


@dataclass
class _Aside:
    """What stands in for what, and how many traces want it so: ranks of one process trace at the same time."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    traces: int = 0
    modules: int = -1  # how many there were when functions were last looked for
    found: list[tuple[_Exchange, Any]] = field(default_factory=list)


_aside = _Aside()


@contextmanager
def memos_aside() -> Iterator[None]:
    """For the duration, functions that keep results do not do so for what a trace gives them."""
    with _aside.lock:
        if not _aside.traces:
            if _aside.modules != len(sys.modules):
                _aside.modules, _aside.found = len(sys.modules), list(_memos())
            for exchange, memo in _aside.found:
                exchange(_remembering(memo))
        _aside.traces += 1
    try:
        yield
    finally:
        with _aside.lock:
            _aside.traces -= 1
            if not _aside.traces:
                for exchange, memo in _aside.found:
                    exchange(memo)


def _memos() -> Iterator[tuple[_Exchange, Any]]:
    """(how to exchange it, function) of every function that keeps its results, wherever it is called by."""
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        yield from ((partial(names.__setitem__, name), held) for name, held in list(names.items()) if _is_memo(held))
    for held in gc.get_objects():
        kind: Any = type(held)  # not what it claims to be, which may be computed
        if kind is _CELL and id(held) not in _own and _is_memo(_content(held)):
            yield partial(setattr, held, "cell_contents"), _content(held)
        elif issubclass(kind, type) and kind.__setattr__ is type.__setattr__:
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
    _own.update(map(id, getattr(call, "__closure__", ())))  # what this calls must not be exchanged for itself
    return call


_OF_TORCH = (torch.Tensor, torch.Size, torch.device, torch.dtype, torch.nn.Module)


def _remembers(tree: Any) -> bool:
    """Whether an argument tree holds an integer that remembers where it came from, or anything of torch's."""
    if isinstance(tree, (TracedInt, *_OF_TORCH)):
        return True
    if isinstance(tree, (tuple, list)):
        return any(map(_remembers, tree))
    return isinstance(tree, Mapping) and any(map(_remembers, tree.values()))
