"""The captured program: immutable, printable, in the order in which Python issued the ops.

    Graph = values + nodes + calls
    value  a tensor with one producer (parameter, buffer, input, constant or node)
    node   one functional aten op, with the module whose forward issued it
    call   one call of a module: which values went in and came out, and which nodes ran inside

Ops are recorded where Python calls them, above autograd and above aten's composite decompositions (`linear`,
`matmul`, `scaled_dot_product_attention` stay whole), so a model and its rank-local part issue the same ops.
In-place ops appear as their functional forms; ops that change nothing (`contiguous`, a cast to the same dtype) do not
appear; `detach` does, for it ends what flows backward. Several phases (prefill, decode) share one graph, hence one set
of parameters and axes.

Invariants (`check_graph`): values are defined before they are used; one producer each; nodes of a call are a
contiguous range; all shapes are concrete (symbolic sizes are a matter of the axes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from types import CodeType
from typing import Any, Literal

import torch

from axisplit.capture.integers import Given, Traced

Number = int | float | bool
Origin = Literal["parameter", "buffer", "input", "constant", "node"]


@dataclass(frozen=True, slots=True)
class Ref:
    """A value in a node's arguments."""

    value: int

    def __repr__(self) -> str:
        return f"%{self.value}"


@dataclass(frozen=True, slots=True)
class Opaque:
    """An argument that is neither a tensor nor plain data, such as a cache."""

    kind: str


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor of the program; `name` is the parameter's, buffer's or input leaf's own name."""

    index: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    origin: Origin
    name: str = ""
    constant: tuple[Number, ...] | None = None  # numbers of a small tensor written in the model's Python

    @property
    def bytes(self) -> int:
        return self.dtype.itemsize * self.num_elements

    @property
    def num_elements(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, slots=True)
class Frame:
    """A place in Python source: code object, instruction index, and the module whose forward it is ("" if none). With
    `inner`, the place is that instruction of a comprehension or lambda inside the code.
    """

    code: CodeType
    instruction: int
    module: str | None
    inner: tuple[CodeType, int] | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One op. `traced` maps positions of integers in the flattened arguments to where Python got them from, `given` to
    where they stand in the call that issued it.
    """

    index: int
    op: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[int, ...]
    module: str
    phase: str
    traced: Traced = ()
    frames: tuple[Frame, ...] = ()
    issue: int = 0  # which call from Python to torch issued it ...
    order: int = 0  # ... and the how-many-eth op of that call it is
    given: Given = ()
    detached: bool = False  # issued where the model's Python has switched gradients off
    _inputs: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_inputs", (*refs(self.args), *refs(tuple(self.kwargs.values()))))

    @property
    def name(self) -> str:
        return str(self.op)

    def inputs(self) -> Iterator[int]:
        return iter(self._inputs)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module. Leaves are (path, value), with a path such as `0`, `attention_mask` or `1.hidden`."""

    module: str
    phase: str
    first_node: int
    last_node: int  # one past
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    arguments: Any = None  # (args, kwargs) with tensors as `Ref`s and what is not plain data as `Opaque`
    result: Any = None
    training: bool = False


@dataclass(frozen=True)
class Graph:
    """A model's program in all its phases; see this file's header."""

    values: tuple[Value, ...]
    nodes: tuple[Node, ...]
    calls: tuple[Call, ...]
    parameters: dict[str, int]  # every name, tied ones too
    buffers: dict[str, int]
    outputs: tuple[tuple[str, int], ...]  # (phase:path, value): floats the caller reads
    state: tuple[tuple[str, int], ...] = ()  # (phase:path, value): caches; stay on their rank
    phases: tuple[str, ...] = ("forward",)
    assumed: tuple[str, ...] = ()
    watched: frozenset[int] = frozenset()  # values whose gradient the model asks for (`x.requires_grad = True`)
    uses: dict[int, tuple[int, ...]] = field(default_factory=dict, repr=False)

    @cached_property
    def producer(self) -> dict[int, Node]:
        """Value -> the node that makes it; parameters, buffers, inputs and constants have none."""
        return {output: node for node in self.nodes for output in node.outputs}

    def made_of(self, values: Iterable[int]) -> set[int]:
        """These values, and what is made of nothing else."""
        found = set(values)
        for node in self.nodes:
            inputs = set(node.inputs())
            if inputs and inputs <= found:
                found.update(node.outputs)
        return found

    def __str__(self) -> str:
        lines = []
        for node in self.nodes:
            outs = ", ".join(f"%{v}{list(self.values[v].shape)}" for v in node.outputs)
            args = ", ".join([repr(a) for a in node.args] + [f"{k}={v!r}" for k, v in node.kwargs.items()])
            lines.append(f"{outs} = {node.name}({args})  # {node.phase} {node.module}")
        return "\n".join(lines)


def refs(tree: Any) -> Iterator[int]:
    """Values mentioned in an argument tree, in order."""
    if isinstance(tree, Ref):
        yield tree.value
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from refs(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from refs(item)


def replace_refs(tree: Any, replace: Callable[[int], Any]) -> Any:
    """The argument tree with every value mapped."""
    if isinstance(tree, Ref):
        return replace(tree.value)
    if isinstance(tree, (tuple, list)):
        return type(tree)(replace_refs(item, replace) for item in tree)
    if isinstance(tree, dict):
        return {key: replace_refs(item, replace) for key, item in tree.items()}
    return tree


def build_uses(nodes: tuple[Node, ...]) -> dict[int, tuple[int, ...]]:
    """Value -> nodes that read it, in order."""
    uses: dict[int, list[int]] = {}
    for node in nodes:
        for value in dict.fromkeys(node.inputs()):
            uses.setdefault(value, []).append(node.index)
    return {value: tuple(readers) for value, readers in uses.items()}


def check_graph(graph: Graph) -> None:
    """Assert the invariants of this file's header."""
    defined = {value.index for value in graph.values if value.origin != "node"}
    for position, node in enumerate(graph.nodes):
        assert node.index == position
        missing = [value for value in node.inputs() if value not in defined]
        assert not missing, f"node {position} {node.name} reads {missing} before they are defined"
        assert not defined.intersection(node.outputs), f"node {position} {node.name} defines a value again"
        defined.update(node.outputs)
    for call in graph.calls:
        assert 0 <= call.first_node <= call.last_node <= len(graph.nodes)
    for _, value in graph.outputs + graph.state:
        assert value in defined
