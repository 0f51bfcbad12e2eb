"""What collectives deliver, where no output notices that one is missing.

A collective left out may move nothing that the model returns: it feeds a comparison (blt's patches begin where an
entropy is above a threshold), a softmax over one element, values that are multiplied by zero. The outputs then say
nothing of how its part of the model was split. So the value that it makes whole is compared itself, call by call, on
every rank:

    whole    a copy of the whole model with a probe at each place where a rank's part has the collective
    ranks    what the collective returns
    bound    how far rounding moves that value in the perturbed whole model, as for outputs (numbers.py)
    control  with the collective left out what it returns must be off by ten times that bound, or in float64 by ten
             times what is tolerated there

Equality is then required of these values too, in float64 as well. A collective that delivers what is there without it
is not needed: equality was shown at the place itself. The numbers are generic (weights, inputs, cotangents at random),
so what agrees there by more than rounding agrees on all inputs that take this path; not where they are all exactly
zero, which says that the inputs do not exercise it. A collective inside a captured program has no place
in the whole model's Python: it stays unnoticed, and the verdict "could not".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from axisplit.capture.modes import unfused
from axisplit.capture.trace import Inputs, shadow_copy
from axisplit.lower.apply import apply_probes, sites_of
from axisplit.proof.choices import Recorded, in_terms_of
from axisplit.proof.numbers import (
    CONTROL_FACTOR,
    EXACT_TOLERANCE,
    SAFETY,
    Outputs,
    Widened,
    as_numbers,
    differences,
    distinct_collectives,
    perturbed,
    run_pinned,
    run_ranks,
    run_whole,
    wide_by_default,
    widened,
    widened_inputs,
)
from axisplit.solve.plan import Plan

Mode = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Delivery:
    """A collective that no output notices: absolute differences of what it delivers, on the call that comes closest to
    its own bound; `missing`, with the collective left out, in terms of `bound`. `exact`: in float64, relative to the
    value's scale.
    """

    collective: str
    exact_error: float
    max_error: float
    bound: float
    missing: float
    exact_missing: float = 0.0
    exercised: bool = False  # none of the values that it delivers is all zeros

    @property
    def equal(self) -> bool:
        return self.max_error <= self.bound and self.exact_error <= EXACT_TOLERANCE

    @property
    def noticed(self) -> bool:
        """Whether one of the two comparisons that `equal` is made of sees that it is missing."""
        native = self.missing <= CONTROL_FACTOR * self.bound
        return not (native and self.exact_missing <= CONTROL_FACTOR * EXACT_TOLERANCE)

    @property
    def conclusive(self) -> bool:
        """Whether the comparison says something: it sees that the collective is missing, or that it is not needed."""
        return self.noticed or self.exercised


class Runs(Protocol):
    """Runs in which what collectives deliver is kept, by "site call number"."""

    def whole(self) -> Outputs:
        """The values of the whole model where its parts have these collectives."""

    def ranks(self, drop: tuple[str, ...] = ()) -> list[Outputs]:
        """What these collectives deliver on each rank; what is there without them where they are dropped."""

    def wanted(self, whole: Outputs, rank: int) -> Outputs:
        """What they should deliver on a rank."""


@unfused()
def compare_deliveries(
    model: torch.nn.Module, inputs: Inputs, plan: Plan, only: tuple[str, ...], names: tuple[str, ...]
) -> tuple[Delivery, ...]:
    """What the collectives of these names deliver: those that run, and have a place in the whole model's Python."""
    every = distinct_collectives(plan, {site.name for site in sites_of(plan)})
    chosen = {name: sites for name, sites in every.items() if name in names}
    chosen = {name: sites for name, sites in chosen.items() if placed(plan).issuperset(sites)}
    if not chosen:
        return ()
    native = _Forward(model, inputs, plan, only, tuple(site for sites in chosen.values() for site in sites))
    wide = replace(native, model=widened(model), inputs=widened_inputs(inputs), mode=Widened)
    return compared(chosen, native, wide)


def placed(plan: Plan) -> set[str]:
    """Sites that have a place in the whole model's Python."""
    return {step.name for place in plan.places for step in place.steps}


def compared(chosen: Mapping[str, tuple[str, ...]], native: Runs, wide: Runs) -> tuple[Delivery, ...]:
    """What collectives (name -> sites) deliver, in the model's own dtypes and in float64."""
    whole = native.whole()
    bounds, errors = _bounds(native, whole), _errors(native, whole, native.ranks())
    exact, exact_missing, exercised = _exact_errors(wide, chosen)
    found = []
    for name, sites in chosen.items():
        calls = [at for at in errors if at.partition(" ")[0] in sites]
        if calls:
            missing = _errors(native, whole, native.ranks(drop=sites))
            figures = (exact, errors, bounds, missing, exact_missing[name])
            delivery = _delivery(name, *({at: of.get(at, 0.0) for at in calls} for of in figures))
            found.append(replace(delivery, exercised=exercised.issuperset(calls)))
    return tuple(found)


Found = dict[str, float]  # "site call number" -> largest difference


def _delivery(name: str, exact: Found, errors: Found, bounds: Found, missing: Found, exact_missing: Found) -> Delivery:
    nearest = max(errors, key=lambda at: (in_terms_of(errors[at], bounds[at]), errors[at]))
    most = max((missing[at] / bounds[at] for at in missing if bounds[at]), default=0.0)
    without = most * bounds[nearest] if bounds[nearest] else max(missing.values())
    return Delivery(name, max(exact.values()), errors[nearest], bounds[nearest], without, max(exact_missing.values()))


def _errors(runs: Runs, whole: Outputs, ranks: list[Outputs]) -> Found:
    return _worst([differences(runs.wanted(whole, rank), part) for rank, part in enumerate(ranks)])


def _bounds(runs: Runs, whole: Outputs) -> Found:
    """How far each value moves when every reduction is off by its own rounding error."""
    moves = _worst([differences(whole, moved) for moved in perturbed(runs.whole)])
    return {at: SAFETY * move for at, move in moves.items()}


def _worst(found: list[Found]) -> Found:
    return {at: max(one.get(at, 0.0) for one in found) for at in set().union(*found)}


def _exact_errors(wide: Runs, chosen: Mapping[str, tuple[str, ...]]) -> tuple[Found, dict[str, Found], set[str]]:
    """(differences in float64 throughout, relative to each value's scale; the same without each collective; the calls
    whose value is not all zeros). A value that is zero but for rounding (the cotangent of what no gradient arrives at)
    has no scale of its own: what rounding moves counts as within tolerance.
    """
    with wide_by_default():
        whole = wide.whole()
        bounds, parts = _bounds(wide, whole), wide.ranks()
        without = {name: wide.ranks(drop=sites) for name, sites in chosen.items()}
    finite = {at: value[value.isfinite()].abs() for at, value in whole.items()}
    scales = {at: float(value.max()) if value.numel() else 0.0 for at, value in finite.items()}

    def relative(ranks: list[Outputs]) -> Found:
        errors = _errors(wide, whole, ranks)
        floors = {at: max(scales.get(at, 0.0), bounds.get(at, 0.0) / EXACT_TOLERANCE) or 1.0 for at in errors}
        return {at: error / floors[at] for at, error in errors.items()}

    exercised = {at for at, scale in scales.items() if scale}
    return relative(parts), {name: relative(ranks) for name, ranks in without.items()}, exercised


@dataclass(frozen=True)
class _Forward:
    """Runs of the whole model and of its ranks in which what passes at `sites` is kept."""

    model: torch.nn.Module
    inputs: Inputs
    plan: Plan
    only: tuple[str, ...]
    sites: tuple[str, ...]
    mode: Mode = nullcontext

    @cached_property
    def recorded(self) -> Recorded:
        with self.mode():
            return run_whole(self.model, self.inputs, self.only).recorded

    def whole(self) -> Outputs:
        seen, recorded = Seen(self.sites), self.recorded
        probed = shadow_copy(self.model, lambda name, tensor: tensor.detach(), None)
        apply_probes(probed, self.plan, self.sites, seen.show)
        with self.mode():
            run_pinned(probed, self.inputs, self.only, recorded)
        return seen.values

    def ranks(self, drop: tuple[str, ...] = ()) -> list[Outputs]:
        watch = Watch(self.sites, self.mode)
        run_ranks(self.model, self.inputs, self.plan, self.only, self.recorded, drop, watch.rank)
        return watch.values

    def wanted(self, whole: Outputs, rank: int) -> Outputs:
        """A reduce-scatter delivers a part, and nothing where the length does not divide."""
        sites, found, calls = {site.name: site for site in sites_of(self.plan)}, Outputs(), Counter[str]()
        for at, value in whole.items():
            name = at.partition(" ")[0]
            site, layout = sites[name], sites[name].layout
            if layout is not None and site.follows and value.shape[layout.dim] % layout.period:
                continue
            part = layout.take(value, rank) if layout is not None and site.kind == "reduce_scatter" else value
            found[f"{name} call {calls[name]}"] = part
            calls[name] += 1
        return found


class Watch:
    """Keeps what passes at given sites on every rank."""

    def __init__(self, sites: tuple[str, ...], mode: Mode) -> None:
        self._sites, self._mode = sites, mode
        self.values: list[Outputs] = []

    @contextmanager
    def rank(self) -> Iterator[None]:
        """Around the next rank's run."""
        seen = Seen(self._sites)
        self.values.append(seen.values)
        with self._mode(), seen:
            yield


class Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps what passes at given sites, call by call; as a mode, what the collectives there return."""

    def __init__(self, sites: tuple[str, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values: Outputs = {}
        self._calls = dict.fromkeys(sites, 0)

    def show(self, site: str, value: torch.Tensor) -> torch.Tensor:
        """Keep a copy, and give the value back."""
        self.values[f"{site} call {self._calls[site]}"] = as_numbers(value.detach())
        self._calls[site] += 1
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "axisplit" and isinstance(result, torch.Tensor):
            site = str(args[-1]).partition("/")[2]
            if site in self._calls:
                self.show(site, result)
        return result
