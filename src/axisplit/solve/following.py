"""Axes that follow the inputs' sizes (the sequence): a rank may hold a part of the values between two reductions.

An all-reduce of partial sums is a reduce-scatter and an all-gather, (n - 1) / n S bytes each. Where what lies between
them (a residual, a norm) passes an index that comes from the inputs, a rank can do it for its part of that index alone:
equal bytes, one collective more, and of each value made there a rank holds one n-th. That is what sequence parallelism
is (Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models, section 4.2).

The length is another one in every call. Rank r of n holds the indices r, r + n, r + 2 n, ... of a length that n
divides; any other (the one token of a decode step) every rank holds whole, and the reduce-scatter is the all-reduce
again. So a strategy on such an axis is one of passing ops only: they do the same to a part and to the whole.

It is for what is kept until backward, and offered where no phase goes on from a state: generating keeps nothing, and
each of its steps would have to see that its one token is whole.

    find_following    indices of the inputs that no weight has, that pass enough values to be worth a collective
    Following         one of them in a graph: `passing`, the ops that do the same for each index, however many there are
                      and wherever, and are reached from sums over a weight's axis by nothing but such ops; `dim_of`,
                      where a value has it; `is_cut`, whether ranks hold parts of a value, with the length it has there

An index is a dim's size and leaves: models look at the first position apart (`positions[:, :1]`), and a sum is made new
wherever dims meet. Example: [1, 256, 768] float32 values between o_proj and gate_proj, 2 ranks. A residual and a norm
make five of 768 KiB; with 128 positions each rank makes 1.9 MiB less, and 768 KiB are sent either way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from axisplit.axes.derive import Derived
from axisplit.axes.expression import Axis
from axisplit.axes.variable import variable_leaves
from axisplit.capture.graph import Node
from axisplit.solve.splits import Split
from axisplit.solve.ties import Ties

COLLECTIVE_BYTES = 1 << 20
"""Bytes of values that a rank need not make, that are worth one collective more."""
Index = tuple[int, tuple[Axis, ...]]


@dataclass
class Following:
    """An index of the inputs: in each phase a size, and leaves; none where it is one alone."""

    derived: Derived
    size: int  # in the first phase
    known: frozenset[Index]
    _dims: dict[int, int | None] = field(default_factory=dict)

    @cached_property
    def leaves(self) -> frozenset[Axis]:
        return frozenset(leaf for _, leaves in self.known for leaf in leaves if leaf.size > 1)

    def touches(self, value: int) -> bool:
        """Whether a value has any of it."""
        return not self.derived.leaves(value).isdisjoint(self.leaves)

    def dim_of(self, value: int) -> int | None:
        """The one dim of a value that is the index and nothing else."""
        if value not in self._dims:
            axes, shape = self.derived.axes, self.derived.dims[value]
            dims = [dim for dim, axis in enumerate(shape) if not self.leaves.isdisjoint(axes.leaves(axis))]
            alone = len(dims) == 1 and _index(self.derived, shape[dims[0]]) in self.known
            self._dims[value] = dims[0] if alone else None
        return self._dims[value]

    def is_cut(self, value: int, num_ranks: int) -> bool:
        """Whether ranks hold parts of a value: it has the index, and its length divides."""
        dim = self.dim_of(value)
        return dim is not None and self.derived.dims[value][dim].size % num_ranks == 0

    @cached_property
    def passing(self) -> frozenset[int]:
        """Nodes that can run on parts, and that partial sums come to."""
        graph, laws = self.derived.graph, self.derived.laws
        able = {node.index for node in graph.nodes if self._passes(node)}
        sums = {v for n in graph.nodes if laws[n.index].reduce and self._matrices(n) for v in n.outputs}
        found, new = set[int](), {v for v in sums if self.touches(v)}
        while new:
            makers = {graph.producer[v].index for v in new if v in graph.producer}
            near = (makers | {n for v in new for n in graph.uses.get(v, ())}) & able - found
            found |= near
            beside = {v for n in near for v in (*graph.nodes[n].inputs(), *graph.nodes[n].outputs)}
            new = {v for v in beside if self.touches(v)}
        return frozenset(found)

    def saves(self, num_ranks: int) -> bool:
        """Whether a rank need not make as much of the first phase as is worth a collective."""
        graph = self.derived.graph
        first = [graph.nodes[node] for node in self.passing if graph.nodes[node].phase == graph.phases[0]]
        made = sum(graph.values[value].bytes for node in first for value in node.outputs)
        return made * (1 - 1 / num_ranks) >= COLLECTIVE_BYTES

    def _passes(self, node: Node) -> bool:
        """Whether an op does to each of the indices the same, whichever and how many they are."""
        ends = _ends(self.derived)[node.index]
        if self.derived.laws[node.index].rewrites or not ends.isdisjoint(self.leaves) or self._matrices(node):
            return False
        values = [v for v in (*node.inputs(), *node.outputs) if self.touches(v)]
        return all(self.dim_of(value) is not None for value in values)

    def _matrices(self, node: Node) -> list[int]:
        """The weights of two or more dims that an op reads."""
        values = self.derived.graph.values
        weights = [v for v in node.inputs() if values[v].origin in ("parameter", "buffer")]
        return [v for v in weights if len(values[v].shape) > 1]


def followed(derived: Derived, split: Split) -> Following:
    """The index that a split which `follows` is of."""
    found: Following = derived.memo["following", split.name]
    return found


def find_following(derived: Derived, ties: Ties, num_ranks: int, wanted: Collection[str] | None) -> list[Split]:
    """Splits of indices of the inputs.

    Args:
        wanted: the names of those that a plan has; None for all that are worth it at these sizes. An input may go by
            another name here (by its position, or by its parameter's): then it is the one with most to pass.
    """
    if wanted is None and len(_lengths(derived)) > 1:
        return []
    fixed = _fixed(derived)
    given = {n: i for n, i in _of_inputs(derived) if i.leaves.isdisjoint(fixed) and (wanted or not i.size % num_ranks)}
    every = {name: _in_every_phase(first, ties) for name, first in given.items()}
    if wanted is None:
        worth_it = {name: index for name, index in every.items() if index.saves(num_ranks)}
        chosen = dict(sorted(worth_it.items(), key=lambda item: (-item[1].size, item[0])))
    else:
        chosen = {name: every[name] for name in wanted if name in every}
        for name in [name for name in wanted if name not in every]:
            alike = [n for n in every.keys() - wanted if n.rpartition("[")[2] == name.rpartition("[")[2]]
            if alike:
                chosen[name] = every[max(sorted(alike), key=lambda n: len(every[n].passing))]
    found: list[Split] = []
    taken, boxes = set[int](), tuple(((rank, rank + 1),) for rank in range(num_ranks))
    for name, index in chosen.items():
        if taken.isdisjoint(index.passing):
            taken |= index.passing
            derived.memo["following", name] = index
            found.append(Split(name, (name,), (num_ranks,), boxes, follows=True))
    return found


def _index(derived: Derived, axis: Axis) -> Index:
    return axis.size, derived.axes.leaves(axis)


def _of_inputs(derived: Derived) -> Iterator[tuple[str, Following]]:
    """Indices of what the first phase is called with, named after it."""
    graph = derived.graph
    for value in graph.values:
        phase, _, path = value.name.partition(":")
        if value.origin == "input" and graph.phases and phase == graph.phases[0]:
            for dim, axis in enumerate(derived.dims[value.index]):
                known = frozenset({_index(derived, axis)} if axis.size > 1 else ())
                yield f"inputs.{path}[{dim}]", Following(derived, axis.size, known)


def _in_every_phase(first: Following, ties: Ties) -> Following:
    """The same index in the other phases: of the values made by the expressions that pass it in the first one."""
    derived, known = first.derived, set(first.known)
    for value in {v for node in first.passing for v in derived.graph.nodes[node].outputs}:
        dim = first.dim_of(value)
        for other in ties.members[ties.value[value]] if dim is not None else ():
            known |= {_index(derived, axis) for axis in derived.dims[other][dim:][:1] if axis.size > 1}
    return first if known == first.known else replace(first, known=frozenset(known), _dims={})


def _lengths(derived: Derived) -> set[str]:
    """The phases, but for whether a mask is given."""
    return {phase.partition(" ")[0] for phase in derived.graph.phases}


def _ends(derived: Derived) -> list[frozenset[Axis]]:
    """For each op the leaves that do not pass it."""
    if ("ends",) not in derived.memo:
        ended = [(*law.whole, *law.reduce) for law in derived.laws]
        derived.memo["ends",] = [frozenset(x for axis in axes for x in derived.axes.leaves(axis)) for axes in ended]
    found: list[frozenset[Axis]] = derived.memo["ends",]
    return found


def _fixed(derived: Derived) -> set[Axis]:
    """Leaves of parameters, whose length is the same in every call."""
    return {leaf for v in derived.graph.parameters.values() for leaf in derived.leaves(v)} - variable_leaves(derived)
