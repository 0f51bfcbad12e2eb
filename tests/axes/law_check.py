"""Run every legal split of an op on each rank's operands and compare with the whole op.

    state of an operand     what a rank gets
    R                       all of it
    S:t                     the index ranges of its dims under split t
    P                       one of random integer summands
    I:t                     ids made local to the rank's range of the table

    state of a result       what must hold
    R                       equal on every rank to the whole result
    S:t                     equal to the ranges of the whole result, and every index on some rank
    P, M:t                  the sum over ranks (weighted by the share of the indices averaged over) is the whole result

Values are small integers in float64, so that sums are exact in any order: where whole and parts come out as integers
they must be equal bit for bit, else within a few ulp of the largest summand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from axisplit.axes.derive import Derived, derive_axes
from axisplit.axes.expression import Axis
from axisplit.axes.law import Law
from axisplit.capture.graph import Graph, Node, build_uses, check_graph, replace_refs
from axisplit.capture.record import Recorder
from axisplit.runtime.layout import Layout
from axisplit.solve.shards import LocalPart, held_by, layout_of, local_length, local_ranges
from axisplit.solve.splits import Split, check_split, make_split
from axisplit.solve.states import PARTIAL, WHOLE, Strategy, strategies
from axisplit.solve.ties import AxisKeys

ULPS = 64  # of the largest summand: kernels sum in blocks whose shape depends on the length


@dataclass
class Traced:
    """The ops that a function issues, with every value they read or make."""

    derived: Derived
    values: dict[int, Tensor]
    keys: AxisKeys  # every axis of every value is a candidate, not only those of parameters
    drawn: set[int]  # ops that give other values at every call: only their shapes are compared

    @property
    def graph(self) -> Graph:
        return self.derived.graph


def trace(run: Callable[..., Any], operands: Sequence[Tensor]) -> Traced:
    """Record a function of tensors and derive its axes."""
    recorder = Recorder()
    for position, tensor in enumerate(operands):
        recorder.define(tensor, "parameter", f"p{position}")
    with recorder.recording_ops():
        run(*operands)
    recording = recorder.recording
    nodes = tuple(recording.nodes)
    named = {f"p{position}": recorder.value_of(tensor) for position, tensor in enumerate(operands)}
    graph = Graph(tuple(recording.values), nodes, (), named, {}, (), uses=build_uses(nodes))
    check_graph(graph)
    values = {t.value: t.tensor for t in recorder._tracked.values() if graph.values[t.value].origin != "node"}
    drawn = set()
    torch.manual_seed(0)
    for node in nodes:
        first, second = (call(node, node.args, values.__getitem__) for _ in range(2))
        values.update(zip(node.outputs, first, strict=True))
        if "empty" in node.name or any(differ(a, b, []) for a, b in zip(first, second, strict=True)):
            drawn.add(node.index)
    derived = derive_axes(graph)
    leaves = {leaf for dims in derived.dims.values() for axis in dims for leaf in derived.axes.leaves(axis)}
    return Traced(derived, values, AxisKeys({leaf: f"axis {leaf.index}" for leaf in leaves if leaf.size > 1}), drawn)


def call(node: Node, args: Sequence[Any], value: Callable[[int], Tensor]) -> tuple[Tensor, ...]:
    result = node.op(*replace_refs(tuple(args), value), **replace_refs(node.kwargs, value))
    results = result if isinstance(result, (tuple, list)) else (result,)
    return tuple(found for found in results if isinstance(found, Tensor))  # `item` makes none


def candidate_splits(traced: Traced, ranks: int) -> list[Split]:
    """Every axis alone, and every pair whose first axis is too short."""
    steps: dict[Axis, int] = {}
    for law in traced.derived.laws:
        for axis, multiple in law.multiples:
            steps.update(dict.fromkeys(traced.derived.axes.leaves(axis), multiple))
    leaves = sorted(traced.keys, key=lambda leaf: leaf.index)
    alone = [((a,), steps.get(a, 1)) for a in leaves]
    pairs = [((a, b), 1) for a in leaves for b in leaves if a is not b and a.size < ranks]
    found = []
    for axes, step in [*alone, *pairs]:
        keys = tuple(traced.keys[a] for a in axes)
        name = f"{' x '.join(keys)} over {ranks}"
        found.append(make_split(name, keys, tuple(a.size for a in axes), ranks, True, step))
    return [split for split in found if split is not None]


def failures(traced: Traced, seed: int = 0) -> Iterator[str]:
    """What is wrong with any claim about any op of a function; nothing if all laws hold."""
    rng = torch.Generator().manual_seed(seed)
    for ranks in (2, 3, 4):
        splits = {split.name: split for split in candidate_splits(traced, ranks)}
        for split in splits.values():
            check_split(split)
        for node in traced.graph.nodes:
            for strategy in strategies(traced.derived, node, traced.keys, list(splits.values())):
                run = Run(traced, node, strategy, ranks, splits.get(strategy.split), rng)
                try:
                    found = run.wrong()
                except Exception as error:  # the op refused its part
                    found = f"{type(error).__name__}: {error}"
                if found:
                    yield f"{node.name} on {ranks} ranks, {strategy}: {found}"


@dataclass
class Run:
    """One op under one strategy on all ranks."""

    traced: Traced
    node: Node
    strategy: Strategy
    ranks: int
    split: Split | None
    rng: torch.Generator

    @property
    def law(self) -> Law:
        return self.traced.derived.laws[self.node.index]

    def wrong(self) -> str:
        operands = list(self.node.inputs())
        states = list(zip(operands, self.strategy.inputs, strict=True))
        if any(state == PARTIAL and self.traced.values[value].dtype == torch.bool for value, state in states):
            return ""  # booleans are never partial sums
        given = [self.given(value, state) for value, state in states]
        results = [self.results(rank, [parts[rank] for parts in given]) for rank in range(self.ranks)]
        for position, (value, state) in enumerate(zip(self.node.outputs, self.strategy.outputs, strict=True)):
            found = self.compare(value, state, [result[position] for result in results])
            if found:
                return f"result {position}: {found}"
        return ""

    def held(self, rank: int) -> dict[Axis, tuple[int, int]]:
        return held_by(self.split, self.traced.keys, rank) if self.split is not None else {}

    def given(self, value: int, state: str) -> list[Tensor]:
        """What every rank gets of an operand."""
        whole = self.traced.values[value]
        if state == PARTIAL:
            return self.summands(whole)
        if state[0] == "I":
            return [self.localized(whole, rank)[0] for rank in range(self.ranks)]
        return [self.part(whole, value, rank) if state != WHOLE else whole for rank in range(self.ranks)]

    def summands(self, whole: Tensor) -> list[Tensor]:
        parts = [torch.randint(-4, 5, whole.shape, generator=self.rng).to(whole.dtype) for _ in range(self.ranks - 1)]
        return [*parts, whole - sum(parts)]

    def indices(self, value: int, rank: int) -> list[Tensor]:
        """For each dim the indices that a rank holds."""
        derived, held = self.traced.derived, self.held(rank)
        return [
            torch.tensor([i for a, b in local_ranges(derived.axes, axis, held) for i in range(a, b)], dtype=torch.long)
            for axis in derived.dims[value]
        ]

    def part(self, whole: Tensor, value: int, rank: int) -> Tensor:
        for dim, index in enumerate(self.indices(value, rank)):
            whole = whole.index_select(dim, index)
        return whole

    def localized(self, ids: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """Ids inside the rank's rows of the table (0 where it does not own them), and where it owns them."""
        table = next(self.node.inputs())
        assert self.split is not None
        found = layout_of(self.traced.derived, table, self.split, self.traced.keys)
        assert found is not None
        layout = Layout(*found)
        rows = [i for a, b in layout.ranges[rank] for i in range(a, b)]
        owned = [i for a, b in layout.owners().ranges[rank] for i in range(a, b)]
        mine = torch.isin(ids, torch.tensor(owned, dtype=torch.long))
        local = torch.full((layout.period,), 0, dtype=torch.long)
        local[rows] = torch.arange(len(rows))
        return torch.where(mine, local[ids], 0), mine

    def results(self, rank: int, operands: list[Tensor]) -> tuple[Tensor, ...]:
        """The op as the rank runs it: its own arguments, and its own operands in the places of the whole ones."""
        args, local = list(self.node.args), LocalPart(self.traced.derived.axes, self.held(rank))
        if self.split is not None:
            for position, rewrite in self.law.rewrites.items():
                if position < len(args):
                    args[position] = rewrite(local)
        waiting = iter(operands)
        results = call(self.node, args, lambda _: next(waiting))
        for name, idle in self.law.no_effect.items():
            if idle(local) and name in self.node.kwargs:
                without = {k: v for k, v in self.node.kwargs.items() if k != name}
                again = self.node.op(*replace_refs(tuple(args), _in_turn(operands)), **without)
                assert torch.equal(again, results[0]), f"{name} has an effect"
        if self.law.lookup is not None and self.split is not None and any(s[0] == "I" for s in self.strategy.inputs):
            mine = self.localized(self.traced.values[list(self.node.inputs())[1]], rank)[1]
            results = tuple(torch.where(mine.unsqueeze(-1), r, torch.zeros_like(r)) for r in results)
        return results

    def compare(self, value: int, state: str, parts: list[Tensor]) -> str:
        whole = self.traced.values[value]
        if self.node.index in self.traced.drawn:
            whole, parts = torch.zeros_like(whole), [torch.zeros_like(part) for part in parts]
        if state == PARTIAL:
            return differ(whole, sum(parts), parts)
        if state[0] == "M":
            reduced = self.traced.derived.axes.product(self.law.reduce)
            lengths = [local_length(self.traced.derived.axes, reduced, self.held(r)) for r in range(self.ranks)]
            weights = [length / reduced.size for length in lengths]
            assert abs(sum(weights) - 1) < 1e-12
            return differ(whole, sum(p * w for p, w in zip(parts, weights, strict=True)), [*parts, whole / 3])
        covered = torch.zeros(whole.shape, dtype=torch.bool)
        for rank, part in enumerate(parts):
            expected = self.part(whole, value, rank) if state != WHOLE else whole
            found = differ(expected, part, [part])
            if found:
                return f"rank {rank}: {found}"
            if state != WHOLE:
                grid = torch.meshgrid(*self.indices(value, rank), indexing="ij")
                covered[grid] = True
        return "" if state == WHOLE or bool(covered.all()) else "some indices are on no rank"


def _in_turn(operands: list[Tensor]) -> Callable[[int], Tensor]:
    waiting = iter(operands)
    return lambda _: next(waiting)


def differ(whole: Tensor, found: Tensor, summands: Sequence[Tensor]) -> str:
    """Nothing if equal: bit for bit where all are integers, else within a few ulp of the largest summand."""
    if whole.shape != found.shape:
        return f"shape {list(found.shape)}, needed {list(whole.shape)}"
    if all(_integral(t) for t in (whole, *summands)):
        return "" if torch.equal(whole.to(found.dtype), found) else f"{found} is not {whole}"
    kind = whole.dtype if whole.dtype.is_floating_point or whole.dtype.is_complex else torch.float64
    sizes = [t[torch.isfinite(t)].abs().max() for t in (whole, *summands) if torch.isfinite(t).any()]
    bound = ULPS * torch.finfo(kind).eps * float(max([s.item() for s in sizes] or [0.0]))
    same = torch.isclose(whole.to(kind), found.to(kind), rtol=0, atol=bound, equal_nan=True)
    return "" if bool(same.all()) else f"{found} is not {whole}"


def _integral(tensor: Tensor) -> bool:
    if tensor.dtype.is_complex:
        return _integral(torch.view_as_real(tensor.resolve_conj()))
    if not tensor.dtype.is_floating_point:
        return True
    return bool((torch.isfinite(tensor) & (tensor == tensor.round())).all())


# --- what a law claims, in a line ---------------------------------------------------------------------------------


def roles(traced: Traced) -> str:
    """For every op the roles of its operands' axes on 2 ranks, a letter for each axis, dims of several in brackets:

    p  passes to the result    r  leaves partial sums        m  leaves means of parts    l  looked up in parts
    c  was cut away            .  needed whole               1  size 1
    then, behind |, what may be partial (P) while the rest (.) is whole; behind +, axes that results can make in parts
    """
    return "; ".join(_node_roles(traced, node) for node in traced.graph.nodes)


def _node_roles(traced: Traced, node: Node) -> str:
    splits = {split.name: split for split in candidate_splits(traced, 2) if len(split.axes) == 1}
    found = strategies(traced.derived, node, traced.keys, list(splits.values()))
    letters = {splits[s.split].axes[0]: _letter(s) for s in found if s.split}
    operands = list(node.inputs())
    text = " ".join(_dims(traced, letters, value) or "()" for value in operands)
    partial = ["".join("P" if i == PARTIAL else "." for i in s.inputs) for s in found if s.name.startswith("partial")]
    read = {leaf for v in operands for leaf in traced.derived.leaves(v)}
    made = {leaf for v in node.outputs for leaf in traced.derived.leaves(v)} - read
    new = "".join(sorted(letters[traced.keys[leaf]] for leaf in made if traced.keys.get(leaf) in letters))
    return text + (f" | {' '.join(partial)}" if partial else "") + (f" + {new}" if new else "")


def _letter(strategy: Strategy) -> str:
    if any(state[0] == "I" for state in strategy.inputs):
        return "l"
    kinds = {state[0] for state in strategy.outputs}
    return "m" if "M" in kinds else "r" if PARTIAL in kinds else "p" if "S" in kinds else "c"


def _dims(traced: Traced, letters: dict[str, str], value: int) -> str:
    text = ""
    for axis in traced.derived.dims[value]:
        leaves = [
            "1" if leaf.size == 1 else letters.get(traced.keys[leaf], ".") if leaf.size > 1 else "0"
            for leaf in traced.derived.axes.leaves(axis)
        ]
        text += leaves[0] if len(leaves) == 1 else f"({''.join(leaves)})"
    return text
