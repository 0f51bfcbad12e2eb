"""Functions that keep their results by the values of their arguments (`functools.lru_cache`), while a model is traced.

An integer that remembers where it came from equals one that does not. A function that keeps results would give the
second of two layers what it computed for the first, sizes of another attribute or tensor included (einops keeps shapes
so), and later calls integers of a trace that is over. Inside `memos_aside` such functions compute anew wherever they
are given integers that remember, and keep nothing of it.

Only functions that are names of a module are seen, not methods; torch's own and the standard library's are left alone.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType
from typing import Any

from axisplit.capture.provenance import TracedInt

_LEFT_ALONE = sys.stdlib_module_names | {"torch"}
_MEMO = type(functools.lru_cache(int))
_seen: dict[str, tuple[int, int, tuple[str, ...]]] = {}  # module -> its names (id, number), and which keep results


@contextmanager
def memos_aside() -> Iterator[None]:
    """For the duration, functions that keep results go by what integers remember, not by their values alone."""
    found = list(_memos())
    for names, name, memo in found:
        names[name] = _remembering(memo)
    try:
        yield
    finally:
        for names, name, memo in found:
            names[name] = memo


def _memos() -> Iterator[tuple[dict[str, Any], str, Any]]:
    """(names of a module, name, function) of every function that keeps its results."""
    for path, module in list(sys.modules.items()):
        names = getattr(module, "__dict__", {})
        known = _seen.get(path)
        if known is None or known[:2] != (id(names), len(names)):
            alone = path.partition(".")[0] in _LEFT_ALONE
            found = () if alone else tuple(name for name, held in names.items() if _is_memo(held))
            known = _seen[path] = (id(names), len(names), found)
        yield from ((names, name, names[name]) for name in known[2] if _is_memo(names.get(name)))


def _is_memo(held: Any) -> bool:
    """Whether something is a Python function that keeps its results."""
    return type(held) is _MEMO and isinstance(held.__wrapped__, FunctionType)


@functools.cache
def _remembering(memo: Any) -> Callable[..., Any]:
    @functools.wraps(memo)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (memo.__wrapped__ if _remembers((args, kwargs)) else memo)(*args, **kwargs)

    for name in ("cache_clear", "cache_info", "cache_parameters"):
        setattr(call, name, getattr(memo, name))
    return call


def _remembers(tree: Any) -> bool:
    """Whether an argument tree holds an integer that remembers where it came from."""
    if isinstance(tree, (tuple, list)):
        return any(map(_remembers, tree))
    if isinstance(tree, Mapping):
        return any(map(_remembers, tree.values()))
    return isinstance(tree, TracedInt)
