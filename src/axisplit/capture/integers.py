"""The integers of a call: which of an op's came from which argument in Python, and from which expression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from axisplit.capture.provenance import Expression, TracedInt

Path = tuple[int | str, ...]
"""An argument of a call and, where it is a tuple or a list, the item in it: `(2,)`, `("size", 0)`. Of a tensor's method
the tensor is argument 0.
"""


def flat_integers(tree: Any) -> Iterator[int]:
    """The integers of an argument tree in order (booleans are not integers here)."""
    if isinstance(tree, int) and not isinstance(tree, bool):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from flat_integers(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from flat_integers(item)
    elif isinstance(tree, slice):
        yield from flat_integers((tree.start, tree.stop, tree.step))


def paths_of_integers(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Path]:
    """Where the integers of a call stand, in the order of `flat_integers((args, kwargs))`.

    >>> paths_of_integers(("x", 2, (3, True, 4)), {"dim": 1})
    [(1,), (2, 0), (2, 2), ('dim',)]
    """
    found: list[Path] = []
    for position, tree in enumerate(args):
        _walk(tree, (position,), found)
    for name, tree in kwargs.items():
        _walk(tree, (name,), found)
    return found


def _walk(tree: Any, path: Path, found: list[Path]) -> None:
    if isinstance(tree, int) and not isinstance(tree, bool):
        found.append(path)
    elif isinstance(tree, (tuple, list)):
        for number, item in enumerate(tree):
            _walk(item, (*path, number), found)
    elif isinstance(tree, dict):
        for key, item in tree.items():
            _walk(item, (*path, key), found)
    elif isinstance(tree, slice):
        for name in ("start", "stop", "step"):
            _walk(getattr(tree, name), (*path, name), found)


Traced = tuple[tuple[int, Expression], ...]
Given = tuple[tuple[int, Path], ...]


def match_integers(call: tuple[Sequence[Any], Mapping[str, Any]], arguments: Any) -> tuple[Traced, Given]:
    """Which of an op's integers came from which of the caller's, by the expressions that these carry and by their
    places: same place where all agree, else same value in the same order (`x[:, 0] = start` makes a `select(x, 1, 0)`,
    where `start` is not). A wrong match of equal values gives no wrong program, which is compared with the split one
    afterwards.
    """
    wanted = list(flat_integers(arguments))
    given = list(flat_integers(call)) if wanted else []
    if not given:
        return (), ()
    pairs = _pairs(wanted, given)
    paths = paths_of_integers(*call)
    traced = ((position, given[i]) for position, i in pairs)
    return (
        tuple((position, number.expression) for position, number in traced if isinstance(number, TracedInt)),
        tuple((position, paths[i]) for position, i in pairs),
    )


def _pairs(wanted: list[int], given: list[int]) -> list[tuple[int, int]]:
    """(position in the op's integers, in the caller's) of those that are the same."""
    if wanted == given:
        return [(i, i) for i in range(len(given))]
    pairs, start = [], 0
    for i, number in enumerate(given):
        position = next((p for p in range(start, len(wanted)) if wanted[p] == number), None)
        if position is not None:
            pairs.append((position, i))
            start = position + 1
    return pairs
