"""The contents of a model that was measured, as plain data: distributed by its own parameters and pieces.

data      all of it, for the rank's rows
pipeline  consecutive pieces; a tensor that two stages use (a tied embedding) is held by both
tensor    the plan's own parts; for other numbers of ranks what is split goes on being split evenly
fsdp      every tensor cut along its first dim, as `fully_shard` does, rank 0 having the larger parts
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from axisplit.memory.contents import UNITS_AT_ONCE, Method, Part, Widths, rows_in_flight, rows_of_busiest
from axisplit.memory.formulae import Recompute
from axisplit.memory.stages import assign_stages


@dataclass(frozen=True)
class Size:
    """A parameter or buffer: elements whose dtype is asked for, or bytes that keep theirs. `length`: its first dim."""

    elements: int
    trainable: bool
    length: int
    fixed_bytes: int = 0


@dataclass(frozen=True)
class Piece:
    """A part of the model that one stage runs: names of its tensors, and what its forward takes. `entered`: the part of
    `activations` that recomputing it in backward begins with.
    """

    name: str
    tensors: frozenset[str]
    is_block: bool
    activations: Widths
    entered: Widths
    caches: Widths


@dataclass(frozen=True)
class MeasuredContents:
    """A model on its inputs; `tensor` are the parts of each of `ranks` ranks, empty without a plan."""

    parameters: int
    sizes: Mapping[str, Size]
    pieces: tuple[Piece, ...]
    rows: int
    training: bool
    recompute: Recompute
    inputs: str
    ranks: int
    tensor: tuple[Part, ...]
    no_tensor: str
    remarks: tuple[tuple[str, str], ...]
    _known: dict[tuple[Method, int], tuple[Part, ...]] = field(default_factory=dict, repr=False, compare=False)

    def parts(self, method: Method, ranks: int) -> tuple[Part, ...]:
        if (method, ranks) not in self._known:
            self._known[method, ranks] = self._parts(method, ranks)
        return self._known[method, ranks]

    def most_ranks(self, method: Method) -> int | None:
        limits = {"pipeline": len(self.pieces), "data": self.rows, "tensor": self.ranks if not self.tensor else None}
        return limits.get(method)

    def exact(self, method: Method, ranks: int) -> bool:
        return method != "tensor" or ranks in (1, self.ranks)

    def why_not(self, method: Method, ranks: int) -> str:
        if method == "pipeline" and ranks > len(self.pieces):
            return f"there are fewer pieces to hand out ({len(self.pieces)}) than ranks"
        return self.no_tensor if method == "tensor" and ranks > 1 else ""

    def notes(self) -> tuple[tuple[str, str], ...]:
        blocks = sum(piece.is_block for piece in self.pieces)
        text = f"{len(self.pieces)} pieces in the order in which they run, {blocks} of them repeated blocks"
        return (*self.remarks, ("pipeline", f"{text}{self._held_twice()}"))

    def _held_twice(self) -> str:
        uses = [name for piece in self.pieces for name in piece.tensors]
        tied = sorted({name for name in uses if uses.count(name) > 1 and self.sizes[name].elements})
        return f"; held by every stage that uses it: {', '.join(tied)}" if tied else ""

    def _parts(self, method: Method, ranks: int) -> tuple[Part, ...]:
        if method == "pipeline":
            return self._pipeline(ranks)
        if method == "tensor":
            return self._tensor(ranks)
        share = rows_of_busiest(self.rows, ranks) / self.rows
        activations = activations_of(self.pieces, self.training, self.recompute, share, share)
        caches = _scaled(_sum_caches(self.pieces), share)
        whole = self._holding(self.sizes, activations, caches)
        return (whole if method == "data" or ranks == 1 else self._sharded(whole, ranks),)

    def _holding(self, names: Iterable[str], activations: Widths, caches: Widths) -> Part:
        sizes = [self.sizes[name] for name in names]
        trainable = sum(size.elements for size in sizes if size.trainable)
        fixed = sum(size.fixed_bytes for size in sizes)
        return Part(sum(size.elements for size in sizes), trainable, activations, caches, fixed_bytes=fixed)

    def _sharded(self, whole: Part, ranks: int) -> Part:
        """Rank 0 of FSDP. The root's own tensors stay whole through a forward, blocks come and go."""
        own = [size.elements // size.length * math.ceil(size.length / ranks) for size in self.sizes.values()]
        trained = [s.elements // s.length * math.ceil(s.length / ranks) for s in self.sizes.values() if s.trainable]
        in_blocks = [piece.tensors for piece in self.pieces if piece.is_block]
        blocks = sorted((sum(self.sizes[name].elements for name in tensors) for tensors in in_blocks), reverse=True)
        root = self.sizes.keys() - set[str]().union(*in_blocks)
        gathered = sum(self.sizes[name].elements for name in root) + sum(blocks[:UNITS_AT_ONCE])
        largest = max([*blocks[:1], sum(self.sizes[name].elements for name in root if self.sizes[name].trainable)])
        return Part(
            sum(own),
            sum(trained),
            whole.activations,
            whole.caches,
            min(gathered, whole.parameters),
            min(largest, whole.trainable),
            whole.fixed_bytes,
        )

    def _pipeline(self, ranks: int) -> tuple[Part, ...]:
        found = []
        weights = [float(sum(self.sizes[name].elements for name in piece.tensors)) for piece in self.pieces]
        for stage, (start, end) in enumerate(assign_stages(weights, ranks)):
            pieces = self.pieces[start:end]
            flight = rows_in_flight(self.rows, ranks, stage) / self.rows if self.training else 1.0
            names = frozenset[str]().union(*(piece.tensors for piece in pieces))
            activations = activations_of(pieces, self.training, self.recompute, flight, 1 / self.rows)
            found.append(self._holding(names, activations, _sum_caches(pieces)))
        return tuple(found)

    def _tensor(self, ranks: int) -> tuple[Part, ...]:
        if ranks == 1 or not self.tensor:
            return self.parts("data", 1)
        if ranks == self.ranks:
            return self.tensor
        (whole,) = self.parts("data", 1)
        fullest = max(self.tensor, key=lambda part: part.parameters)
        return (_between(whole, fullest, self.ranks, ranks),)


def activations_of(
    pieces: Sequence[Piece], training: bool, recompute: Recompute, share: float = 1.0, at_once: float = 1.0
) -> Widths:
    """In training what all pieces keep for a share of the rows; without, the most that any of them works in.

    Where blocks are recomputed they keep what they were given, and the largest is whole for the rows that are computed
    at once.
    """
    if not training:
        return _scaled(_most(piece.activations for piece in pieces), share)
    full = recompute == "full"
    kept = _sum(piece.entered if full and piece.is_block else piece.activations for piece in pieces)
    again = _most(piece.activations for piece in pieces if piece.is_block and full)
    return kept[0] * share + again[0] * at_once, kept[1] * share + again[1] * at_once


def _sum(widths: Iterable[Widths]) -> Widths:
    pairs = list(widths)
    return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)


def _most(widths: Iterable[Widths]) -> Widths:
    pairs = list(widths)
    return max((pair[0] for pair in pairs), default=0.0), max((pair[1] for pair in pairs), default=0.0)


def _scaled(widths: Widths, share: float) -> Widths:
    return widths[0] * share, widths[1] * share


def _sum_caches(pieces: Iterable[Piece]) -> Widths:
    return _sum(piece.caches for piece in pieces)


def _between(whole: Part, part: Part, ranks: int, wanted: int) -> Part:
    """A rank's part over `wanted` ranks, from all of it and a part over `ranks`: what is split is split evenly on.

    >>> one, half = Part(10, 10, (4, 8)), Part(6, 6, (4, 8))  # 8 of 10 split over 2
    >>> _between(one, half, 2, 4).parameters
    4.0
    """

    def on(all_of: float, some: float) -> float:
        split = min((all_of - some) * ranks / (ranks - 1), all_of)
        return all_of - split + split / wanted

    return Part(
        on(whole.parameters, part.parameters),
        on(whole.trainable, part.trainable),
        (on(whole.activations[0], part.activations[0]), on(whole.activations[1], part.activations[1])),
        (on(whole.caches[0], part.caches[0]), on(whole.caches[1], part.caches[1])),
        fixed_bytes=on(whole.fixed_bytes, part.fixed_bytes),
    )
