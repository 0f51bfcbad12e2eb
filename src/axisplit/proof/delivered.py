"""What collectives deliver, where no output notices that one is missing.

A collective left out may move nothing that the model returns: it feeds a comparison (blt's patches begin where an
entropy is above a threshold), a softmax over one element, values that are multiplied by zero. The outputs then say
nothing of how its part of the model was split. So the value that it makes whole is compared itself, call by call, on
every rank:

    whole    a copy of the whole model with a probe at each place where a rank's part has the collective
    ranks    what the collective returns
    bound    how far rounding moves that value in the perturbed whole model, as for outputs (numbers.py)
    control  with the collective left out what it returns must be off by ten times that bound

Equality is then required of these values too, in float64 as well. A collective inside a captured program has no place
in the whole model's Python: it stays unnoticed, and the verdict "could not".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from axisplit.capture.modes import unfused
from axisplit.capture.trace import Inputs, shadow_copy
from axisplit.lower.apply import apply_probes
from axisplit.proof.choices import Recorded, in_terms_of
from axisplit.proof.numbers import (
    CONTROL_FACTOR,
    EXACT_TOLERANCE,
    SAFETY,
    Outputs,
    Widened,
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


@dataclass(frozen=True)
class Delivery:
    """A collective that no output notices: absolute differences of what it delivers, on the call that comes closest to
    its own bound; `missing`, with the collective left out, in terms of `bound`.
    """

    collective: str
    exact_error: float
    max_error: float
    bound: float
    missing: float

    @property
    def equal(self) -> bool:
        return self.max_error <= self.bound and self.exact_error <= EXACT_TOLERANCE

    @property
    def noticed(self) -> bool:
        return not self.missing <= CONTROL_FACTOR * self.bound


@unfused()
def compare_deliveries(
    model: torch.nn.Module, inputs: Inputs, plan: Plan, only: tuple[str, ...], names: tuple[str, ...]
) -> tuple[Delivery, ...]:
    """What the collectives of these names deliver: those that run, and have a place in the whole model's Python."""
    placed = {step.name for place in plan.places for step in place.steps}
    chosen = {name: sites for name, sites in distinct_collectives(plan).items() if name in names}
    chosen = {name: sites for name, sites in chosen.items() if placed.issuperset(sites)}
    if not chosen:
        return ()
    native = _Runs(model, inputs, plan, only, tuple(site for sites in chosen.values() for site in sites))
    whole, moved = native.whole(), perturbed(native.whole)
    bounds = {at: SAFETY * move for at, move in _worst(whole, moved).items()}
    errors, exact = _worst(whole, native.ranks()), _exact_errors(native)
    found = []
    for name, sites in chosen.items():
        calls = [at for at in errors if at.partition(" ")[0] in sites]
        if calls:
            missing = _worst(whole, native.ranks(drop=sites))
            found.append(
                _delivery(name, *({at: of.get(at, 0.0) for at in calls} for of in (exact, errors, bounds, missing)))
            )
    return tuple(found)


Found = dict[str, float]  # "site call number" -> largest difference


def _delivery(name: str, exact: Found, errors: Found, bounds: Found, missing: Found) -> Delivery:
    nearest = max(errors, key=lambda at: (in_terms_of(errors[at], bounds[at]), errors[at]))
    most = max((missing[at] / bounds[at] for at in missing if bounds[at]), default=0.0)
    without = most * bounds[nearest] if bounds[nearest] else max(missing.values())
    return Delivery(name, max(exact.values()), errors[nearest], bounds[nearest], without)


def _worst(whole: Outputs, others: list[Outputs], relative: bool = False) -> Found:
    found = [differences(whole, other, relative) for other in others]
    return {at: max(one.get(at, 0.0) for one in found) for at in set().union(*found)}


def _exact_errors(native: _Runs) -> Found:
    """Differences, relative to each value's scale, in float64 throughout."""
    wide = replace(native, model=widened(native.model), inputs=widened_inputs(native.inputs), mode=Widened)
    with wide_by_default():
        return _worst(wide.whole(), wide.ranks(), relative=True)


@dataclass(frozen=True)
class _Runs:
    """Runs of the whole model and of its ranks in which what passes at `sites` is kept."""

    model: torch.nn.Module
    inputs: Inputs
    plan: Plan
    only: tuple[str, ...]
    sites: tuple[str, ...]
    mode: Callable[[], AbstractContextManager[Any]] = nullcontext

    @cached_property
    def recorded(self) -> Recorded:
        with self.mode():
            return run_whole(self.model, self.inputs, self.only).recorded

    def whole(self) -> Outputs:
        """The values of the whole model where its parts have these collectives."""
        seen, recorded = _Seen(self.sites), self.recorded
        probed = shadow_copy(self.model, lambda name, tensor: tensor.detach(), None)
        apply_probes(probed, self.plan, self.sites, seen.show)
        with self.mode():
            run_pinned(probed, self.inputs, self.only, recorded)
        return seen.values

    def ranks(self, drop: tuple[str, ...] = ()) -> list[Outputs]:
        """What these collectives deliver on each rank; what is there without them where they are dropped."""
        ranks: list[_Seen] = []

        @contextmanager
        def watching() -> Iterator[None]:
            seen = _Seen(self.sites)
            ranks.append(seen)
            with self.mode(), seen:
                yield

        run_ranks(self.model, self.inputs, self.plan, self.only, self.recorded, drop, watching)
        return [seen.values for seen in ranks]


class _Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps what passes at given sites, call by call; as a mode, what the collectives there return."""

    def __init__(self, sites: tuple[str, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values: Outputs = {}
        self._calls = dict.fromkeys(sites, 0)

    def show(self, site: str, value: torch.Tensor) -> None:
        self.values[f"{site} call {self._calls[site]}"] = value.detach().clone()
        self._calls[site] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "axisplit" and isinstance(result, torch.Tensor):
            site = str(args[-1]).partition("/")[2]
            if site in self._calls:
                self.show(site, result)
        return result
