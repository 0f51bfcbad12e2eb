"""What each rank holds before a dtype is chosen, by way of distributing: the interface, and that of a decoder's shape.

data      every rank: all parameters, its share of the rows
pipeline  each rank: a run of blocks; 1F1B keeps as many rows of activations in flight as stages follow
tensor    each rank: a part of every matrix; norms' inputs whole
fsdp      every rank: 1/n of all states, and whole for a moment the blocks that it computes
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from axisplit.memory.formulae import Recompute, cache_bytes, layer_activation_bytes, score_bytes, working_bytes
from axisplit.memory.shapes import DecoderShape
from axisplit.memory.stages import assign_stages

Method = Literal["data", "pipeline", "tensor", "fsdp"]
METHODS: tuple[Method, ...] = ("data", "pipeline", "tensor", "fsdp")
Widths = tuple[float, float]
"""Bytes where activations are in 16 bit, and where they are in 32 bit."""

_PAPER = "Korthikanti et al. 2022"
UNITS_AT_ONCE = 2
"""Blocks that FSDP holds whole at a time: the one that computes and the one that is fetched meanwhile."""


@dataclass(frozen=True)
class Part:
    """What one rank holds: numbers of elements whose bytes a dtype decides, and bytes.

    `gathered` parameters (and `gathered_gradients`) are whole for a moment only, beside the rank's own share;
    `fixed_bytes` are buffers and integers, which keep their dtype.
    """

    parameters: float
    trainable: float
    activations: Widths
    caches: Widths = (0.0, 0.0)
    gathered: float = 0.0
    gathered_gradients: float = 0.0
    fixed_bytes: float = 0.0


class Contents(Protocol):
    """A model, seen from its memory."""

    @property
    def parameters(self) -> int:
        """How many there are."""

    @property
    def training(self) -> bool:
        """Whether gradients, optimizer states and activations for backward count."""

    @property
    def recompute(self) -> Recompute:
        """What backward computes again."""

    @property
    def inputs(self) -> str:
        """The batch of all ranks together, in words."""

    def parts(self, method: Method, ranks: int) -> tuple[Part, ...]:
        """One for each rank, or a single one for all of them where they are alike."""

    def most_ranks(self, method: Method) -> int | None:
        """How many ranks the method can use; None for any number."""

    def exact(self, method: Method, ranks: int) -> bool:
        """Whether `parts` of so many ranks is known, not a bound from below."""

    def why_not(self, method: Method, ranks: int) -> str:
        """Why the method cannot be used over so many ranks; "" where it can."""

    def notes(self) -> tuple[tuple[str, str], ...]:
        """(label, text): where the figures come from."""


def rows_of_busiest(rows: int, ranks: int) -> int:
    """Rows of the batch that a rank gets under data parallelism; never none.

    >>> rows_of_busiest(8, 4), rows_of_busiest(9, 4), rows_of_busiest(1, 4)
    (2, 3, 1)
    """
    return max(math.ceil(rows / ranks), 1)


def rows_in_flight(rows: int, stages: int, stage: int) -> int:
    """Rows whose activations a stage keeps under 1F1B, in micro-batches of one row: the first stage those of as many as
    there are stages, the last of one.

    Source: Narayanan et al., SC 2021, section 2.2.1; Korthikanti et al. 2022, section 4.2.3.
    >>> [rows_in_flight(8, 4, stage) for stage in range(4)], rows_in_flight(2, 4, 0)
    ([4, 3, 2, 1], 2)
    """
    return min(stages - stage, rows)


@dataclass(frozen=True)
class ShapeContents:
    """A decoder of equal layers by formulae; its embeddings count as parts of the layers."""

    parameters: int
    shape: DecoderShape
    rows: int
    tokens: int
    training: bool
    recompute: Recompute = "none"

    @property
    def inputs(self) -> str:
        return f"{self.rows:,} × {self.tokens:,} tokens"

    def parts(self, method: Method, ranks: int) -> tuple[Part, ...]:
        if method == "pipeline":
            return self._pipeline(ranks)
        split = ranks if method == "tensor" else 1
        rows = self.rows if method == "tensor" else rows_of_busiest(self.rows, ranks)
        activations, caches = self._activations(rows, split), self._caches(self.shape.layers, rows, split)
        held = self.parameters / (1 if method == "data" else ranks)
        if method != "fsdp" or ranks == 1:
            return (Part(held, held, activations, caches),)
        block = self.parameters / self.shape.layers
        gathered = min(UNITS_AT_ONCE, self.shape.layers) * block
        return (Part(held, held, activations, caches, gathered, block),)

    def most_ranks(self, method: Method) -> int | None:
        limits = {"pipeline": self.shape.layers, "tensor": self.shape.heads, "data": self.rows}
        return limits.get(method)

    def exact(self, method: Method, ranks: int) -> bool:
        return True

    def why_not(self, method: Method, ranks: int) -> str:
        if method == "pipeline" and ranks > self.shape.layers:
            return f"there are {self.shape.layers} layers, fewer than ranks"
        if method == "tensor" and ranks > self.shape.heads:
            return f"there are {self.shape.heads} heads, fewer than ranks"
        return ""

    def notes(self) -> tuple[tuple[str, str], ...]:
        shape = self.shape
        sizes = f"{shape.layers} layers, width {shape.hidden:,}, {shape.heads} heads, {shape.kv_heads} kv heads"
        told = (
            "; activations and caches are estimates without --layers --hidden --heads --kv-heads"
            if shape.assumed
            else ""
        )
        return (("shape", f"{sizes} ({shape.basis}){told}"), ("activations", self._basis()))

    def _basis(self) -> str:
        if not self.training:
            return "formula, residual and MLP in front of and behind its nonlinearity: 10 s·b·h elements; no logits"
        if self.recompute == "full":
            return f"formula ({_PAPER}): each layer's input, 2 s·b·h bytes in 16 bit, and all of one layer at a time"
        if self.recompute == "attention":
            return f"formula ({_PAPER}): 34 s·b·h bytes a layer in 16 bit, no scores (also of a fused attention kernel)"
        return (
            f"formula ({_PAPER}), nothing recomputed: s·b·h·(34 + 5·a·s/h) bytes a layer in 16 bit; on one rank "
            f"{self._scores() / 1e9:.3g} GB of them are scores, which --recompute attention or a fused kernel drops"
        )

    def _scores(self) -> float:
        return self.shape.layers * score_bytes(self.tokens, self.rows, self.shape.heads)

    def _pipeline(self, ranks: int) -> tuple[Part, ...]:
        layers = self.shape.layers
        found = []
        for stage, (start, end) in enumerate(assign_stages([1.0] * layers, ranks)):
            held = self.parameters * (end - start) / layers
            rows = rows_in_flight(self.rows, ranks, stage) if self.training else self.rows
            activations, caches = self._activations(rows, 1, end - start), self._caches(end - start, self.rows, 1)
            found.append(Part(held, held, activations, caches))
        return tuple(found)

    def _activations(self, rows: int, split: int, layers: int | None = None) -> Widths:
        """What backward needs of all layers, or what one layer of a forward works in."""
        h, a = self.shape.hidden, self.shape.heads
        if not self.training:
            return _by_width(lambda w: working_bytes(self.tokens, rows, h, split, w))
        count = self.shape.layers if layers is None else layers
        again = 1 if self.recompute == "full" else 0  # a layer at a time, of a stage's micro-batch of one row
        row = rows if layers is None else 1

        def kept(w: int) -> float:
            of_all = count * layer_activation_bytes(self.tokens, rows, h, a, split, w, self.recompute)
            return of_all + again * layer_activation_bytes(self.tokens, row, h, a, split, w)

        return _by_width(kept)

    def _caches(self, layers: int, rows: int, split: int) -> Widths:
        if self.training:
            return (0.0, 0.0)
        heads = math.ceil(self.shape.kv_heads / split)
        return _by_width(lambda w: cache_bytes(layers, heads, self.shape.head_dim, self.tokens, rows, w))


def _by_width(of: Callable[[int], float]) -> Widths:
    return of(2), of(4)
