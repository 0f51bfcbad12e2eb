"""Parameters as the rows of a page: modules of one parent side by side, alike blocks as a stack of one.

Blocks are folded where they stand one after the other under numbers and hold the same: names, sizes, ranges, axes and
reasons. So a fold never hides a difference.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from axisplit.solve.plan import ParameterPlan


@dataclass(frozen=True)
class Leaf:
    """A module that holds parameters itself; of a stack's modules the first one."""

    path: str
    parameters: tuple[ParameterPlan, ...]


@dataclass(frozen=True)
class Row:
    """Modules under one parent. `label`: the parent's path, from the enclosing stack on."""

    path: str
    label: str
    leaves: tuple[Leaf, ...]


@dataclass(frozen=True)
class Stack:
    """Blocks `container.first` to `container.last` that are alike; `items` are those of the first."""

    container: str
    label: str
    first: int
    last: int
    count: int
    items: tuple[Item, ...]


Item = Row | Stack


@dataclass
class _Node:
    parameters: list[ParameterPlan] = field(default_factory=list)
    children: dict[str, _Node] = field(default_factory=dict)


def lay_out(parameters: Iterable[ParameterPlan], keys: Mapping[str, str]) -> tuple[Item, ...]:
    """Rows and stacks in the order in which the model registers its modules.

    Args:
        keys: of each axis's name, what identifies it to a reader; axes with one key count as one.
    """
    root = _Node()
    for parameter in parameters:
        node = root
        for part in parameter.name.split(".")[:-1]:
            node = node.children.setdefault(part, _Node())
        node.parameters.append(parameter)
    return _rows(_walk(root, "", "", keys))


def _walk(node: _Node, path: str, base: str, keys: Mapping[str, str]) -> Iterator[Leaf | Stack]:
    if node.parameters:
        yield Leaf(path, tuple(node.parameters))
    for run in _runs(node, keys):
        first, child = run[0]
        inside = f"{path}.{first}" if path else first
        if len(run) == 1:
            yield from _walk(child, inside, base, keys)
        else:
            items = _rows(_walk(child, inside, inside, keys), inside)
            label = path[len(base) :].lstrip(".")
            yield Stack(path, label, int(first), int(run[-1][0]), len(run), items)


def _runs(node: _Node, keys: Mapping[str, str]) -> list[list[tuple[str, _Node]]]:
    """Children, those with numbers and alike together."""

    def alike(entry: tuple[str, _Node]) -> Hashable:
        name, child = entry
        return _signature(child, keys) if name.isdigit() else name

    return [list(group) for _, group in groupby(node.children.items(), alike)]


def _signature(node: _Node, keys: Mapping[str, str]) -> Hashable:
    own = tuple(
        (p.name.rpartition(".")[2], p.shape, p.dtype, p.held, p.ranges, keys.get(p.axis, p.axis), p.reason, p.kind)
        for p in node.parameters
    )
    return own, tuple((name, _signature(child, keys)) for name, child in node.children.items())


def _rows(found: Iterable[Leaf | Stack], base: str = "") -> tuple[Item, ...]:
    """Leaves with one parent, one after the other, as rows."""

    def parent(item: Leaf | Stack) -> str | None:
        return item.path.rpartition(".")[0] if isinstance(item, Leaf) else None

    items: list[Item] = []
    for path, group in groupby(found, parent):
        if path is None:
            items += [item for item in group if isinstance(item, Stack)]
        else:
            leaves = tuple(item for item in group if isinstance(item, Leaf))
            items.append(Row(path, path[len(base) :].lstrip(".") if path.startswith(base) else "", leaves))
    return tuple(items)


def all_rows(items: Sequence[Item]) -> Iterator[Row]:
    """Every row, those in stacks too."""
    for item in items:
        if isinstance(item, Row):
            yield item
        else:
            yield from all_rows(item.items)
