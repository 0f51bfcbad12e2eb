"""Discontinuous choices (top-k, argmax, sort): recorded in one run, pinned in others.

Where the k-th and the next score lie within rounding of each other, another order of summation chooses otherwise, and
the outputs differ by a jump that says nothing about the split. So the whole model's choices are recorded, and the
ranks' and the perturbed runs get its indices, with the values that their own rows hold there.

Pinning alone would hide a wrong router. So the rows that are chosen from are compared as outputs are, each call within
its own bound: with equal rows up to rounding, and the same indices, nothing else can differ.

    Recorder   whole run: every choice of the phase, in order
    Pinned     another run: the same indices; its own rows, and the decisions that it would have made otherwise
    summarize  how many were pinned, would have flipped, and the closest one

A call on rows [..., n] makes one *decision* a row. Its margin is the smallest gap between a chosen score and one that
is not (order among the chosen does not count), for a sort between neighbours: rounding that moves scores by up to b
cannot flip a margin above 2 b. Runs make the same choices in the same order (the programs are matched op for op), so a
choice is known by its phase and number. Left as they fall: choices from rows of another shape than the whole model's (a
rank's part of the rows), and from integers, which do not round. Choices written into given tensors (`out=`) are not
seen; neither are comparisons and roundings.

Example: scores [3.0, 1.0, 2.5] with k = 1 choose index 0, margin 0.5; a run with [3.0, 1.0, 3.1] is given index 0 and
the value 3.0, and counts one decision flipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
_SORTS = {aten.sort.default, aten.sort.stable, aten.argsort.default, aten.argsort.stable}
_EXTREMES = {aten.argmax.default, aten.argmin.default, aten.max.dim, aten.min.dim}
_CHOOSING = {aten.topk.default, *_SORTS, *_EXTREMES}


@dataclass(frozen=True)
class Choice:
    """One call: `rows` [..., n] that it chose from, `indices` [..., k] along the last dim, the smallest margin."""

    op: str
    rows: Tensor
    indices: Tensor
    margin: float

    @property
    def decisions(self) -> int:
        return self.indices[..., :1].numel()


Recorded = dict[str, Choice]  # "phase:choice number" -> choice


@dataclass(frozen=True)
class Choices:
    """Decisions of all choices together. `max_error` and `bound` are those of the rows that come closest to their own
    bound; `margin` and `rounding` those of the decision that rounding comes closest to flipping (None without one).
    """

    pinned: int = 0
    not_pinned: int = 0  # on some rank
    flipped: int = 0  # pinned ones that some rank would have made otherwise
    margin: float | None = None
    rounding: float | None = None  # bound on how far rounding moves the scores of that decision
    max_error: float = 0.0
    bound: float = 0.0
    bounds: Mapping[str, float] = field(default_factory=dict)  # of the rows of each choice

    @property
    def equal(self) -> bool:
        """Whether the choices were made from the same rows, up to rounding."""
        return self.max_error <= self.bound

    def to_json(self) -> dict[str, Any]:
        names = ("pinned", "not_pinned", "flipped", "margin", "rounding", "max_error", "bound")
        return {name: getattr(self, name) for name in names}


class _Choosing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Numbers the choices of each phase; `during` is active for one phase."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._phase, self._number = "", 0

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        self._phase, self._number = phase, 0
        with self:
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _CHOOSING:
            given = _by_name(func, args, kwargs or {})
            if given["self"].is_floating_point():
                self._meet(f"{self._phase}:choice {self._number}", func, given, result)
                self._number += 1
        return result

    def _meet(self, name: str, func: Any, given: dict[str, Any], result: Any) -> None:
        raise NotImplementedError


class Recorder(_Choosing):  # type: ignore[no-untyped-call]
    """Keeps every choice of a run."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: Recorded = {}

    def _meet(self, name: str, func: Any, given: dict[str, Any], result: Any) -> None:
        rows, indices = _rows(given).clone(), _along_rows(func, given, _indices_of(result)).clone()
        self.recorded[name] = Choice(func._opname, rows, indices, smallest_margin(func, given, rows, indices))


class Pinned(_Choosing):  # type: ignore[no-untyped-call]
    """Makes the choices of a recorded run, where they are made from rows of the same shape.

    Attributes: `rows`, what each pinned choice was made from here; `flipped`, for each a mask of the decisions that
    would have been made otherwise.
    """

    def __init__(self, recorded: Recorded) -> None:
        super().__init__()
        self._recorded = recorded
        self.rows: dict[str, Tensor] = {}
        self.flipped: dict[str, Tensor] = {}

    def _meet(self, name: str, func: Any, given: dict[str, Any], result: Any) -> None:
        rows, own = _rows(given), _along_rows(func, given, _indices_of(result))
        choice = self._recorded.get(name)
        if choice is None or (choice.op, choice.rows.shape, choice.indices.shape) != (
            func._opname,
            rows.shape,
            own.shape,
        ):
            return
        self.rows[name] = rows.clone()
        self.flipped[name] = _differ(func, own, choice.indices)
        if isinstance(result, tuple):
            _along_rows(func, given, result[0]).copy_(rows.gather(-1, choice.indices))
        own.copy_(choice.indices)  # a view: the result itself


def _by_name(func: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Every argument of a call by its name, defaults included."""
    arguments = func._schema.arguments
    defaults = {a.name: a.default_value for a in arguments if a.has_default_value()}
    return defaults | {a.name: given for a, given in zip(arguments, args, strict=False)} | kwargs


def _indices_of(result: Any) -> Tensor:
    indices: Tensor = result[1] if isinstance(result, tuple) else result
    return indices


def _rows(given: dict[str, Any]) -> Tensor:
    """What was chosen from, [..., n]."""
    x: Tensor = given["self"]
    return x.reshape(-1) if given["dim"] is None or not x.dim() else x.movedim(given["dim"], -1)


def _along_rows(func: Any, given: dict[str, Any], result: Tensor) -> Tensor:
    """A view [..., k] of a result, k = 1 for one choice a row."""
    if given["dim"] is None or not given["self"].dim():
        return result.view(-1)
    if func in _EXTREMES and not given["keepdim"]:
        return result.unsqueeze(-1)
    return result.movedim(given["dim"], -1)


def _differ(func: Any, own: Tensor, recorded: Tensor) -> Tensor:
    """Which decisions differ, [...]: in any place of a sort, else in what was chosen, whatever its order."""
    if func not in _SORTS:
        own, recorded = own.sort(-1).values, recorded.sort(-1).values
    return (own != recorded).any(-1)


def smallest_margin(func: Any, given: dict[str, Any], rows: Tensor, indices: Tensor) -> float:
    """Of all decisions of a call; infinite where nothing is left out, 0 where a score is not a number."""
    scores = rows.double()
    if func in _SORTS:
        taken = scores.gather(-1, indices)
        above, below = taken[..., :-1], taken[..., 1:]
    else:
        if func in (aten.argmin.default, aten.min.dim) or not given.get("largest", True):
            scores = -scores
        chosen = torch.zeros_like(rows, dtype=torch.bool).scatter(-1, indices, True)
        above = scores.masked_fill(~chosen, torch.inf).amin(-1)
        below = scores.masked_fill(chosen, -torch.inf).amax(-1)
    gaps = torch.where((above == below) & above.isinf(), torch.inf, (above - below).abs())  # rounding moves no infinity
    return float(gaps.nan_to_num(nan=0.0, posinf=torch.inf).min()) if gaps.numel() else torch.inf


def summarize(
    recorded: Recorded, flipped: list[dict[str, Tensor]], errors: dict[str, float], bounds: dict[str, float]
) -> Choices:
    """Args: what `Pinned` found on every rank, and for each choice how far its rows are off and may be by rounding."""
    pinned = [name for name in recorded if all(name in found for found in flipped)]
    flips = [torch.stack([found[name] for found in flipped]).any(0) for name in pinned]
    total, kept = (sum(recorded[name].decisions for name in names) for names in (recorded, pinned))
    compared = [name for name in recorded if name in errors]
    worst = max(compared, key=lambda name: in_terms_of(errors[name], bounds[name]), default=None)
    decided = [name for name in recorded if recorded[name].margin < torch.inf]
    closest = min(decided, key=lambda name: _safety(recorded[name].margin, bounds[name]), default=None)
    return Choices(
        pinned=kept,
        not_pinned=total - kept,
        flipped=sum(int(flip.sum()) for flip in flips),
        margin=None if closest is None else recorded[closest].margin,
        rounding=None if closest is None else bounds[closest],
        max_error=0.0 if worst is None else errors[worst],
        bound=0.0 if worst is None else bounds[worst],
        bounds={name: bounds[name] for name in recorded},
    )


def _safety(margin: float, bound: float) -> float:
    """How many times what rounding moves fit into a margin; infinite where it moves nothing."""
    return margin / bound if bound else float("inf")


def in_terms_of(error: float, bound: float) -> float:
    """Error over bound; no error is 0 and any other infinite where the bound is 0."""
    return error / bound if bound else float("inf") if error else 0.0
