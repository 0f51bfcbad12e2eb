"""Try a claim about an op on small operands of exactly representable integers.

    pass     the op on parts of the operands gives the parts of its outputs, or outputs that are as before
    reduce   the op on parts gives summands of its outputs (operands that are added hold random summands themselves)
    linear   the op on random summands of some operands gives summands of its outputs

Values must be equal bit for bit: sums and products of small integers are exact in any order, so a claim that is off by
one rounding error is refused, which a tolerance would accept. Numbers among the op's arguments are rounded to powers of
two for that; with the numbers themselves claims must then hold within a few ulp of the largest value.

Worked example: y = x @ w.T, x [4, 6], w [10, 6]. Dim 1 of both is cut at 3; the op on both halves gives two [4, 10]
whose sum is y, for all fills and cuts: reduce. f(x) = x - 1e-9 x.mean() passes no cut: its parts are off in the last
bits of integers, which float64 shows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from axisplit.capture.graph import Node, replace_refs

Shape = tuple[int, ...]
Position = tuple[int, int]  # (operand, dim)
ULPS = 64  # kernels sum in blocks whose shape depends on the length
LARGEST = {torch.float64: (4, 31), torch.float32: (4, 31), torch.float16: (4, 3), torch.bfloat16: (2, 1)}
INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


class CannotTry(Exception):
    """Why an op cannot be tried, in words."""


class Refused(Exception):
    """The op's own error on operands that it was given, in words."""


@dataclass
class Budget:
    """Seconds that trials may take, counted from the first."""

    seconds: float
    start: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        if time.monotonic() - self.start > self.seconds:
            raise CannotTry(f"trying it takes more than {self.seconds:g} s")


@dataclass
class OpCall:
    """One node's op, to be run on other operands. `sizes`: argument position -> the operand dim whose size each of its
    integers is (None: it stays).
    """

    node: Node
    dtypes: tuple[torch.dtype, ...]
    budget: Budget
    sizes: Mapping[int, Sequence[Position | None]] = field(default_factory=dict)

    def __call__(self, operands: Sequence[Tensor], exact: bool = True) -> tuple[Tensor, ...]:
        """Raises: Refused if the op fails; CannotTry if it takes too long or returns something else than tensors."""
        self.budget.check()
        args, waiting = list(self.node.args), iter(operands)
        for position, places in self.sizes.items():
            args[position] = _resized(args[position], places, operands)
        given = replace_refs((tuple(args), self.node.kwargs), lambda _: next(waiting))
        positional, keywords = _plain(given, exact)
        try:
            result = self.node.op(*positional, **keywords)
        except Exception as error:  # whatever it is, it is the op's answer to these operands
            raise Refused(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:160]) from error
        found = tuple(result) if isinstance(result, (tuple, list)) else (result,)
        if not found or not all(isinstance(tensor, Tensor) for tensor in found):
            raise CannotTry("it returns something else than tensors")
        return found

    @cached_property
    def rounded(self) -> bool:
        """Whether numbers among the arguments are not used as they are."""
        return bool(
            _plain((self.node.args, self.node.kwargs), True) != _plain((self.node.args, self.node.kwargs), False)
        )


def _resized(value: Any, places: Sequence[Position | None], operands: Sequence[Tensor]) -> Any:
    def size(given: int, place: Position | None) -> int:
        return given if place is None else operands[place[0]].shape[place[1]]

    if isinstance(value, (tuple, list)):
        return [size(given, place) for given, place in zip(value, places, strict=True)]
    return size(value, places[0])


def _plain(tree: Any, exact: bool) -> Any:
    """Arguments as the trial gives them: on the CPU, numbers rounded to powers of two where results must be exact."""
    if isinstance(tree, (tuple, list)):
        return type(tree)(_plain(item, exact) for item in tree)
    if isinstance(tree, dict):
        return {key: _plain(item, exact) for key, item in tree.items()}
    if isinstance(tree, torch.device):
        return torch.device("cpu")
    if isinstance(tree, float) and exact and tree and math.isfinite(tree):
        return math.copysign(2.0 ** round(math.log2(abs(tree))), tree)
    return tree


def make(dtype: torch.dtype, shape: Shape, fill: int, rng: torch.Generator) -> Tensor:
    """Random integers that the dtype holds exactly, as their sums and products; indices are those of the first rows."""
    if dtype in LARGEST:
        bound = LARGEST[dtype][fill % 2]
        return torch.randint(-bound, bound + 1, shape, generator=rng, device="cpu").to(dtype)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=rng, device="cpu").bool()
    if dtype in INTEGERS:
        return torch.randint(0, 3, shape, generator=rng, device="cpu").to(dtype)
    raise CannotTry(f"{dtype} operands are not tried")


def cuts(size: int) -> list[list[Tensor]]:
    """Ways to cut a dim: in the middle, after the first few, and every other index (parts need not be one range)."""
    index = torch.arange(size, device="cpu")
    places = dict.fromkeys([size // 2, *range(1, min(size, 4))])
    every_other = [[index[::2], index[1::2]]] if size > 2 else []
    return [[index[:place], index[place:]] for place in places if place] + every_other


@dataclass
class Trial:
    """An op on operands of certain shapes: several fills, with what the whole op makes of them."""

    call: OpCall
    shapes: tuple[Shape, ...]
    seed: int = 0
    fills: int = 3

    @cached_property
    def rng(self) -> torch.Generator:
        return torch.Generator(device="cpu").manual_seed(self.seed)

    @cached_property
    def wholes(self) -> list[tuple[list[Tensor], tuple[Tensor, ...], bool]]:
        """(operands, results, whether they are exact). Raises: Refused, CannotTry."""
        found = []
        modes = [True, False] if self.call.rounded else [True]
        for fill in range(self.fills):
            operands = [make(d, s, fill, self.rng) for d, s in zip(self.call.dtypes, self.shapes, strict=True)]
            found += [(operands, self.call(operands, exact), exact) for exact in modes]
        return found

    def check_function(self) -> None:
        """Raises: CannotTry if the op is not a function of its operands, or shows nothing on them; Refused."""
        for operands, results, exact in self.wholes:
            before, state = [t.clone() for t in operands], torch.get_rng_state()
            again = self.call(operands, exact)
            if not torch.equal(state, torch.get_rng_state()):
                raise CannotTry("it draws random numbers")
            if not all(map(torch.equal, operands, before)):
                raise CannotTry("it writes to its operands")
            if len(again) != len(results) or not all(map(same, again, results, [True] * len(again))):
                raise CannotTry("it gives another result when it is run again: random, or with a state")
            held = {t.untyped_storage().data_ptr() for t in operands}
            if any(t.numel() and t.untyped_storage().data_ptr() in held for t in results):
                raise CannotTry("its results share memory with its operands")
        exact_ones = [results for _, results, exact in self.wholes if exact]
        if not any(bool(torch.isfinite(t).any()) for results in exact_ones for t in results):
            raise CannotTry("no finite number comes out of it")
        if all(same(a, b, True) for a, b in zip(exact_ones[0], exact_ones[1], strict=True)):
            raise CannotTry("its result is the same for different operands")

    # --- claims: "" where one holds, else what was wrong ------------------------------------------------------------

    def places(self, positions: Sequence[Position]) -> list[int | None] | None:
        """For each output the one dim that shrinks with a cut of operand dims (None: no dim does); None if several
        do, or not by as much as what was cut away.
        """
        operands, results, exact = self.wholes[0]
        size = self.shapes[positions[0][0]][positions[0][1]]
        index = cuts(size)[0][0]
        parts = self._run(_parts(operands, positions, index), results, exact)
        if isinstance(parts, str):
            return None
        found: list[int | None] = []
        for part, whole in zip(parts, results, strict=True):
            changed = [d for d in range(whole.dim()) if part.dim() == whole.dim() and part.shape[d] != whole.shape[d]]
            if part.dim() != whole.dim() or len(changed) > 1:
                return None
            if changed and (whole.shape[changed[0]], part.shape[changed[0]]) != (size, len(index)):
                return None
            found.append(changed[0] if changed else None)
        return found

    def passes(self, positions: Sequence[Position], places: Sequence[int | None]) -> str:
        """Whether operand dims pass to a dim of each output (None: that output does not change)."""
        for operands, results, exact in self.wholes:
            for cut in self._cuts(positions):
                for index in cut:
                    parts = self._run(_parts(operands, positions, index), results, exact)
                    if isinstance(parts, str):
                        return parts
                    for part, whole, place in zip(parts, results, places, strict=True):
                        wanted = whole if place is None else whole.index_select(place, index)
                        if not same(part, wanted, exact):
                            return "its parts are not the parts of the whole result"
        return ""

    def reduces(self, positions: Sequence[Position], added: Sequence[int] = ()) -> str:
        """Whether parts along operand dims give summands, if `added` operands hold summands too."""
        for operands, results, exact in self.wholes:
            for cut in self._cuts(positions):
                shares = {o: self._summands(operands[o], len(cut)) for o in added}
                given = [_parts(operands, positions, index) for index in cut]
                for number, parts in enumerate(given):
                    parts[:] = [shares[o][number] if o in shares else t for o, t in enumerate(parts)]
                wrong = self._sums(given, results, exact)
                if wrong:
                    return wrong
        return ""

    def linear(self, group: Sequence[int]) -> str:
        """Whether summands of a group of operands give summands of the outputs, the others whole."""
        for operands, results, exact in self.wholes:
            shares = {o: self._summands(operands[o], 2) for o in group}
            given = [[shares[o][n] if o in shares else t for o, t in enumerate(operands)] for n in range(2)]
            wrong = self._sums(given, results, exact)
            if wrong:
                return wrong
        return ""

    def _cuts(self, positions: Sequence[Position]) -> Iterator[list[Tensor]]:
        yield from cuts(self.shapes[positions[0][0]][positions[0][1]])

    def _summands(self, whole: Tensor, count: int) -> list[Tensor]:
        parts = [make(whole.dtype, tuple(whole.shape), 0, self.rng) for _ in range(count - 1)]
        return [*parts, whole - torch.stack(parts).sum(0)]

    def _run(self, operands: list[Tensor], results: tuple[Tensor, ...], exact: bool) -> tuple[Tensor, ...] | str:
        """As many results as the whole op has, or why there are none."""
        try:
            found = self.call(operands, exact)
        except Refused as error:
            return f"it refuses a part: {error}"
        return found if len(found) == len(results) else "its parts have another number of results"

    def _sums(self, given: list[list[Tensor]], results: tuple[Tensor, ...], exact: bool) -> str:
        runs = [self._run(operands, results, exact) for operands in given]
        refused = next((run for run in runs if isinstance(run, str)), "")
        if refused:
            return refused
        for whole, *parts in zip(results, *runs, strict=True):
            if not whole.dtype.is_floating_point:
                return "partial sums of results that are no floating-point numbers"
            if any(part.shape != whole.shape for part in parts):
                return "its parts have another shape"
            largest = max((float(p.abs().max()) for p in parts if isinstance(p, Tensor) and p.numel()), default=0.0)
            if not same(torch.stack(parts).sum(0), whole, exact, largest):
                return "its parts do not sum up to the whole result"
        return ""


def _parts(operands: Sequence[Tensor], positions: Sequence[Position], index: Tensor) -> list[Tensor]:
    found = list(operands)
    for operand, dim in positions:
        found[operand] = found[operand].index_select(dim, index)
    return found


def same(found: Tensor, wanted: Tensor, exact: bool, largest: float = 0.0) -> bool:
    """Equal in every bit of every number (nan is nan); where they need not be, within a few ulp of the largest."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    if exact or not wanted.dtype.is_floating_point:
        return bool(((found == wanted) | ((found != found) & (wanted != wanted))).all())
    finite = wanted[torch.isfinite(wanted)].abs()
    largest = max(largest, float(finite.max()) if finite.numel() else 0.0)
    bound = ULPS * torch.finfo(wanted.dtype).eps * largest
    return bool(torch.isclose(found, wanted, rtol=0, atol=bound, equal_nan=True).all())
