"""Trace deep models shallow: of a long run of equal blocks four are traced and stand for all.

    run      consecutive children of a container that are the same but for their number: class, parameters' names,
             shapes and dtypes, every plain attribute but one that equals the child's own index
    traced   the first, the second, the third and the fourth; the second stands for all inside, the last for the last
             (its neighbour behind the run differs)

A run is only folded where nothing tells its blocks apart from outside: per-layer lists of the config must be constant
over it. If the folded model does not run, or returns something for each block, the whole one is traced instead.

Worked example: 126 equal layers become 4: layers.0 -> 0, layers.1 -> 1 and 3 … 124, layers.2 -> 2, layers.3 -> 125.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

SHORTEST_RUN, KEPT = 6, 4


@dataclass(frozen=True)
class Fold:
    """One container: which real children each traced child stands for, and which real one it is a copy of."""

    container: str
    members: tuple[tuple[int, ...], ...]
    sources: tuple[int, ...]

    def source_of(self, name: str) -> str | None:
        """The traced name of a real module or parameter; None if it is not traced."""
        head, rest = self._below(name)
        if rest is None:
            return name
        index, _, tail = rest.partition(".")
        if int(index) not in self.sources:
            return None
        return head + str(self.sources.index(int(index))) + ("." + tail if tail else "")

    def expand(self, name: str) -> Iterator[str]:
        """The real names that a traced name stands for."""
        head, rest = self._below(name)
        if rest is None:
            yield name
            return
        index, dot, tail = rest.partition(".")
        for real in self.members[int(index)]:
            yield f"{head}{real}{dot}{tail}"

    def traced_of(self, name: str) -> str | None:
        """The traced name whose first stand-in is a real name; None if it is another's."""
        head, rest = self._below(name)
        if rest is None:
            return name
        index, dot, tail = rest.partition(".")
        first = [group[0] for group in self.members]
        return f"{head}{first.index(int(index))}{dot}{tail}" if int(index) in first else None

    def count(self, name: str) -> int:
        """How many real modules a traced module's name stands for."""
        _, rest = self._below(name)
        return 1 if rest is None else len(self.members[int(rest.partition(".")[0])])

    def _below(self, name: str) -> tuple[str, str | None]:
        head = f"{self.container}." if self.container else ""
        rest = name[len(head) :]
        inside = name.startswith(head) and rest.partition(".")[0].partition(":")[0].isdigit()
        return head, rest if inside else None


def find_folds(model: nn.Module) -> tuple[Fold, ...]:
    """Containers with long runs of equal blocks; containers inside a block are left alone."""
    found: list[Fold] = []
    for path, module in model.named_modules():
        children = list(module._modules.items())
        numbered = len(children) >= SHORTEST_RUN and all(name == str(i) for i, (name, _) in enumerate(children))
        if numbered and not any(part.isdigit() for part in path.split(".")):
            fold = _fold_of(path, [child for _, child in children], model)
            if fold is not None:
                found.append(fold)
    return tuple(found)


def _fold_of(path: str, children: list[Any], model: nn.Module) -> Fold | None:
    members: list[tuple[int, ...]] = []
    sources: list[int] = []
    start = 0
    while start < len(children):
        end = start + 1
        while end < len(children) and _equal(children[start], children[end], start, end, model, len(children)):
            end += 1
        if end - start >= SHORTEST_RUN and any(True for _ in children[start].children()):
            members += [(start,), (start + 1, *range(start + 3, end - 1)), (start + 2,), (end - 1,)]
            sources += range(start, start + KEPT)
        else:
            members += [(index,) for index in range(start, end)]
            sources += range(start, end)
        start = end
    return Fold(path, tuple(members), tuple(sources)) if len(members) < len(children) else None


def _equal(a: Any, b: Any, i: int, j: int, model: nn.Module, count: int) -> bool:
    if a is b or not isinstance(a, nn.Module) or not isinstance(b, nn.Module):
        return False
    left, right = list(a.named_modules()), list(b.named_modules())
    if [(name, type(m)) for name, m in left] != [(name, type(m)) for name, m in right]:
        return False
    if not all(_alike(_outline(x), _outline(y), i, j) for (_, x), (_, y) in zip(left, right, strict=True)):
        return False
    return all(values[i] == values[j] for values in _per_layer_lists(model, count))


def _alike(a: dict[str, object], b: dict[str, object], i: int, j: int) -> bool:
    """Whether two modules are made of the same, their own numbers apart."""
    return a.keys() == b.keys() and all(a[name] == b[name] or (a[name], b[name]) == (i, j) for name in a)


def _outline(module: nn.Module) -> dict[str, object]:
    """What a module is made of: tensors, plain attributes, hooks."""
    found: dict[str, object] = {
        f"tensor {name}": (tuple(t.shape), t.dtype) if t is not None else None
        for name, t in [*module._parameters.items(), *module._buffers.items()]
    }
    found.update({name: v for name, v in vars(module).items() if not name.startswith("_") and _is_plain(v)})
    found["hooks"] = len(module._forward_hooks) + len(module._forward_pre_hooks)
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype))


def _per_layer_lists(model: nn.Module, count: int) -> list[list[Any]]:
    """Lists of the model's configs with one entry for each block."""
    found: list[list[Any]] = []
    waiting, seen = [getattr(model, "config", None)], set[int]()
    while waiting:
        config = waiting.pop()
        if config is None or id(config) in seen or not hasattr(config, "__dict__"):
            continue
        seen.add(id(config))
        for value in vars(config).values():
            if isinstance(value, (list, tuple)) and len(value) == count:
                found.append(list(value))
            elif type(value).__name__.endswith("Config"):
                waiting.append(value)
    return found


def drop_blocks(model: nn.Module, folds: tuple[Fold, ...], memo: dict[int, Any]) -> None:
    """Prepare a deepcopy's memo so that blocks which are not traced are not copied."""
    for fold in folds:
        for name, child in model.get_submodule(fold.container)._modules.items():
            if int(name) not in fold.sources:
                memo[id(child)] = None


def close_gaps(copied: nn.Module, folds: tuple[Fold, ...]) -> None:
    """Number a folded copy's kept blocks from 0."""
    for fold in folds:
        container = copied.get_submodule(fold.container)
        kept = [container._modules[str(index)] for index in fold.sources]
        container._modules.clear()
        container._modules.update({str(i): child for i, child in enumerate(kept)})


def traced_name(folds: tuple[Fold, ...], name: str) -> str | None:
    """`Fold.source_of` over all folds."""
    return _through(folds, Fold.source_of, name)


def expand_name(folds: tuple[Fold, ...], name: str) -> list[str]:
    """`Fold.expand` over all folds."""
    names = [name]
    for fold in folds:
        names = [real for traced in names for real in fold.expand(traced)]
    return names


def count_of(folds: tuple[Fold, ...], name: str) -> int:
    """`Fold.count` over all folds."""
    result = 1
    for fold in folds:
        result *= fold.count(name)
    return result


def stand_in(folds: tuple[Fold, ...], name: str) -> str | None:
    """`Fold.traced_of` over all folds."""
    return _through(folds, Fold.traced_of, name)


def _through(folds: tuple[Fold, ...], rename: Callable[[Fold, str], str | None], name: str) -> str | None:
    """A name after every fold's renaming; None once one does not trace it."""
    for fold in folds:
        found = rename(fold, name)
        if found is None:
            return None
        name = found
    return name
