"""Nested arguments and results: tuples (also named ones), lists, mappings and records (dataclasses, namespaces).

Anything else that is no tensor is either plain data or an object that keeps state, such as a cache: neither is looked
into.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def is_record(tree: Any) -> bool:
    """Whether an object is no more than its named fields."""
    return isinstance(tree, SimpleNamespace) or (is_dataclass(tree) and not isinstance(tree, type))


def items_of(tree: Any) -> list[tuple[str, Any]]:
    """What is directly inside, by name; nothing for a leaf.

    >>> items_of((7, [8]))
    [('0', 7), ('1', [8])]
    """
    if isinstance(tree, Mapping):  # before records: the outputs of transformers' models are both
        return [(str(key), item) for key, item in tree.items()]
    if isinstance(tree, (tuple, list)):
        return [(str(index), item) for index, item in enumerate(tree)]
    if isinstance(tree, SimpleNamespace):
        return list(vars(tree).items())
    if is_record(tree):
        return [(field.name, getattr(tree, field.name)) for field in fields(tree) if hasattr(tree, field.name)]
    return []


def leaves(tree: Any, value_of: Callable[[torch.Tensor], T], prefix: str = "") -> Iterator[tuple[str, T]]:
    """Tensor leaves of a call's arguments or result by their path. Objects such as caches are state, not leaves.

    >>> list(leaves({"a": (torch.ones(2), 3)}, lambda tensor: tensor.shape[0]))
    [('a.0', 2)]
    """
    if isinstance(tree, torch.Tensor):
        yield prefix or "0", value_of(tree)
    for name, item in items_of(tree):
        yield from leaves(item, value_of, f"{prefix}.{name}" if prefix else name)


def map_items(tree: Any, change: Callable[[Any], Any]) -> Any:
    """A container of the same kind with every item that is directly inside changed; a leaf as it is."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(change, tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(map(change, tree))
    if not isinstance(tree, Mapping) and not is_record(tree):
        return tree
    made = copy.copy(tree)
    for key, item in list(tree.items()) if isinstance(tree, Mapping) else items_of(tree):
        _put(made, key, change(item))
    return made


def with_leaf(tree: Any, path: list[str], change: Callable[[Any], Any]) -> Any:
    """The tree with what is at a path changed; containers on the way are copies. None, there or on the way, stays: what
    a call does not have cannot be changed.

    >>> with_leaf({"a": [1, 2]}, ["a", "1"], lambda item: 10 * item)
    {'a': [1, 20]}
    >>> with_leaf({"a": None}, ["a", "1"], lambda item: 10 * item)
    {'a': None}
    """
    if tree is None:
        return None
    if not path:
        return change(tree)
    head, *rest = path
    if isinstance(tree, (tuple, list)):
        items = list(tree)
        items[int(head)] = with_leaf(items[int(head)], rest, change)
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    made = copy.copy(tree)
    if isinstance(tree, Mapping):
        key = next(key for key in tree if str(key) == head)
        _put(made, key, with_leaf(tree[key], rest, change))
    else:
        _put(made, head, with_leaf(getattr(tree, head), rest, change))
    return made


def _put(container: Any, key: Any, item: Any) -> None:
    if isinstance(container, Mapping):
        container[key] = item  # type: ignore[index]
    else:
        object.__setattr__(container, key, item)  # also where a dataclass is frozen
