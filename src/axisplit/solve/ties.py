"""Which parts of a graph are the same part repeated, so that one decision serves all of them.

Children of a container that hold the same parameters and issue the same ops are one class: their nodes, values,
parameters and axes share keys, and with them the variables of the problem. Equal single layers in a row
(`Sequential(Linear, GELU, Linear)`) are not blocks and stay apart. The phases (prefill, decode) are decided together:
what one expression of one module does is decided once.

Blocks in a chain, where what one makes is what the next sums over (convolution, norm, activation, again), are no
repetition of one decision: an expert splits outputs and inputs in turn. It shows where two indices of one weight would
have one key, or equal blocks' weights (depthwise ones between the others) share none; such blocks are decided one by
one. Of a run that was folded at capture they cannot be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from axisplit.axes.derive import Derived
from axisplit.axes.expression import Axis
from axisplit.capture.graph import Graph


class AxisKeys(dict[Axis, str]):
    """Leaf -> key, and back."""

    @cached_property
    def by_key(self) -> dict[str, list[Axis]]:
        """Key -> its leaves."""
        found: dict[str, list[Axis]] = defaultdict(list)
        for leaf, key in self.items():
            found[key].append(leaf)
        return found


@dataclass
class Ties:
    """Keys under which equal things share a decision."""

    node: list[str]
    value: dict[int, str]
    axis: AxisKeys  # leaves that occur in parameters
    axis_name: dict[str, str]
    parameter: dict[int, str]

    @cached_property
    def members(self) -> dict[str, list[int]]:
        """Key -> its values."""
        found: dict[str, list[int]] = defaultdict(list)
        for value, key in self.value.items():
            found[key].append(value)
        return found


def find_ties(derived: Derived, folded: Collection[str] = ()) -> Ties:
    """Keys for every node, value, parameter and axis; blocks of `folded` containers stand for more than themselves."""
    graph = derived.graph
    canonical = _canonical_blocks(graph)
    while True:
        parameter = {v: _canonical_name(name, canonical) for name, v in reversed(list(_named(graph).items()))}
        axis, names = _axis_keys(derived, parameter)
        chained = _chained(derived, axis, parameter, canonical, folded)
        if not chained:
            break
        canonical = {block: star for block, star in canonical.items() if (_container(block), star) not in chained}
    nodes = _node_keys(graph, canonical)
    values: dict[int, str] = {}
    for value in graph.values:
        name = value.name.rpartition(":")[2] if value.origin == "input" else str(value.index)
        values[value.index] = parameter.get(value.index, f"{value.origin}:{name}")
    for node in graph.nodes:
        for position, output in enumerate(node.outputs):
            values[output] = f"{nodes[node.index]}.{position}"
    return Ties(nodes, values, axis, names, parameter)


def _named(graph: Graph) -> dict[str, int]:
    return {**graph.buffers, **graph.parameters}


def _canonical_blocks(graph: Graph) -> dict[str, str]:
    """Path of each repeated block -> its canonical path, e.g. `layers.3` -> `layers.*`; classes that differ in what
    they hold or issue get different stars.
    """
    work: dict[str, list[str]] = defaultdict(list)
    for node in graph.nodes:
        parts = node.module.split(".")
        shapes = [graph.values[v].shape for v in node.outputs]
        for depth, part in enumerate(parts):
            if part.isdigit():
                block = ".".join(parts[: depth + 1])
                work[block].append(f"{node.phase}|{'.'.join(parts[depth + 1 :])}|{node.name}|{shapes}")
    holds: dict[str, list[str]] = defaultdict(list)
    for name, value in _named(graph).items():
        parts = name.split(".")
        for depth, part in enumerate(parts):
            if part.isdigit() and len(parts) > depth + 2:
                holds[".".join(parts[: depth + 1])].append(f"{parts[depth + 1 :]}{graph.values[value].shape}")
    classes: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = defaultdict(list)
    for block, ops in work.items():
        if holds.get(block):
            classes[_container(block), tuple(ops), tuple(sorted(holds[block]))].append(block)
    canonical: dict[str, str] = {}
    seen: dict[str, int] = defaultdict(int)
    for (container, *_), blocks in classes.items():
        seen[container] += 1
        star = "*" if seen[container] == 1 else f"*{seen[container]}"
        if len(blocks) > 1:
            canonical.update(dict.fromkeys(blocks, star))
    return canonical


def _chained(
    derived: Derived, keys: AxisKeys, parameter: dict[int, str], canonical: dict[str, str], folded: Collection[str]
) -> set[tuple[str, str]]:
    """Classes of blocks, as (container, star), the innermost, with a weight of which two indices have one key, or of
    which each block has others.
    """
    usable: dict[str, list[list[str]]] = defaultdict(list)
    blocks: dict[str, tuple[str, str]] = {}
    for name, value in derived.graph.parameters.items():
        parts = name.split(".")
        paths = (".".join(parts[: depth + 1]) for depth in reversed(range(len(parts))))
        block = next((path for path in paths if path in canonical and _container(path) not in folded), None)
        if block is not None and len(derived.dims[value]) > 1:
            blocks[parameter[value]] = (_container(block), canonical[block])
            usable[parameter[value]].append([keys[leaf] for leaf in _usable(derived, value) if leaf in keys])
    return {blocks[name] for name, found in usable.items() if not _alike(found)}


def _alike(usable: list[list[str]]) -> bool:
    """Whether the weights of a class, each with the keys of its indices, can be split by one decision, if at all."""
    apart = all(len(set(keys)) == len(keys) for keys in usable)
    return apart and (bool(set.intersection(*map(set, usable))) or not all(usable))


def _usable(derived: Derived, value: int) -> list[Axis]:
    """Indices of a weight that no op needs whole where it reads it (as it does a kernel's positions)."""
    readers = [derived.laws[node] for node in derived.graph.uses.get(value, ())]
    whole = {leaf for law in readers for axis in law.whole for leaf in derived.axes.leaves(axis)}
    return [leaf for leaf in derived.leaves(value) if leaf not in whole]


def _container(block: str) -> str:
    return block.rpartition(".")[0]


def _canonical_name(name: str, canonical: dict[str, str]) -> str:
    parts = name.split(".")
    return ".".join(canonical.get(".".join(parts[: i + 1]), part) for i, part in enumerate(parts))


def _node_keys(graph: Graph, canonical: dict[str, str]) -> list[str]:
    """An op's key is the expression that issued it (and its order there) in the module that ran it: in every phase, in
    every repeated block, at every turn of a loop. That is what a change to the running program can tell apart.
    """
    files: dict[str, int] = {}
    keys = []
    for node in graph.nodes:
        places = [
            f"{files.setdefault(code.co_filename, len(files))}:{code.co_firstlineno}:{code.co_name}:{instruction}"
            for code, instruction in ((f.code, f.instruction) for f in node.frames)
        ]
        keys.append(f"{_canonical_name(node.module, canonical)}|{node.name}|{node.order}|{' '.join(places)}")
    return keys


def _axis_keys(derived: Derived, parameter: dict[int, str]) -> tuple[AxisKeys, dict[str, str]]:
    """Leaves keyed by where they occur in parameters, under canonical names; the first occurrence names them."""
    occurrences: dict[Axis, set[tuple[str, int, int]]] = defaultdict(set)
    for value, name in parameter.items():
        for dim, axis in enumerate(derived.dims[value]):
            for position, leaf in enumerate(derived.axes.leaves(axis)):
                if leaf.size > 1:
                    occurrences[leaf].add((name, dim, position))
    keys = AxisKeys({leaf: repr(sorted(found)) for leaf, found in occurrences.items()})
    names = {}
    for leaf, found in occurrences.items():
        name, dim, position = min(found)
        names[keys[leaf]] = f"{name}[{dim}]" + (f".{position}" if position else "")
    return keys, names
