"""The numbers of backward: every parameter's gradient on the lowered ranks beside the whole model's.

A rank's gradient of a parameter must be its shard of the whole gradient; a parameter that only rank 0 holds has none
elsewhere. As in forward (numbers.py): float64 throughout, the model's own dtypes within a bound measured by perturbing
every reduction of forward and backward, and each distinct collective of backward left out in turn; for what no gradient
notices see cotangents.py.

A sum over ranks that no gradient notices adds up a gradient that is zero but for rounding (of a key's bias: softmax
does not see it; of a bias in front of a norm). Where it is not zero exactly, its terms are there and cancel whatever
the inputs: nothing is to be noticed. Where terms cancel but nearly (a norm over two rows in training), float64's own
rounding is amplified beyond what is tolerated there; then what rounding moves in float64, measured as in the model's
dtypes, is tolerated instead. Exact zeros say that the inputs do not reach the parameter, and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from axisplit.capture.modes import unfused
from axisplit.capture.trace import Inputs
from axisplit.capture.trees import leaves
from axisplit.errors import InputError, ProofError
from axisplit.lower.apply import GRADIENT, sites_of, take_shard
from axisplit.proof.backward import gradients_of, on_ranks, pinned_gradients, recorded_gradients
from axisplit.proof.choices import Recorded, in_terms_of
from axisplit.proof.cotangents import compare_cotangents
from axisplit.proof.delivered import Delivery, Mode
from axisplit.proof.numbers import (
    EXACT_TOLERANCE,
    SAFETY,
    Outputs,
    Widened,
    control_error,
    differences,
    perturbed,
    starred,
    unnoticed,
    unnoticed_in_both,
    wide_by_default,
    widened,
    widened_inputs,
)
from axisplit.runtime.sites import BACKWARD, DROPPABLE, WHOLE_LENGTH, Site, twin_of
from axisplit.solve.plan import Plan


@dataclass(frozen=True)
class Gradients:
    """Absolute differences; `max_error` and `bound` are those of the parameter that comes closest to its own bound."""

    exact_error: float
    max_error: float
    bound: float
    parameter: str
    control_errors: dict[str, float]
    comm_bytes: list[float]  # observed in one backward, for each rank
    deliveries: tuple[Delivery, ...] = ()  # of collectives that no gradient notices
    exact_controls: dict[str, float] = field(default_factory=dict)  # unnoticed in the model's own dtypes: in float64
    vanishing: tuple[str, ...] = ()  # sums of gradients that are zero but for rounding, with the sum and without

    @property
    def equal(self) -> bool:
        delivered = all(delivery.equal for delivery in self.deliveries)
        return self.max_error <= self.bound and self.exact_error <= EXACT_TOLERANCE and delivered

    @property
    def unnoticed(self) -> tuple[str, ...]:
        """Collectives that could be left out without anything that is compared moving by enough."""
        told = {delivery.collective for delivery in self.deliveries if delivery.conclusive} | {*self.vanishing}
        unseen = unnoticed_in_both(self.control_errors, self.bound, self.exact_controls)
        return tuple(name for name in unseen if name not in told)

    @property
    def control_caught(self) -> bool | None:
        return not self.unnoticed if self.control_errors else None

    def to_json(self) -> dict[str, Any]:
        """The fields of `gradients` in `axisplit verify --json`."""
        return {
            "equal": self.equal,
            "max_error": self.max_error,
            "bound": self.bound,
            "exact_error": self.exact_error,
            "parameter": self.parameter,
            "control_caught": self.control_caught,
            "deliveries": [asdict(delivery) for delivery in self.deliveries],
            "vanishing": list(self.vanishing),
        }


@unfused()
def measure_gradients(model: torch.nn.Module, inputs: Inputs, plan: Plan) -> Gradients:
    """Run everything of this file's header on simulated ranks. Choices are pinned to the whole model's (choices.py).

    Raises: InputError if the model is not deterministic; ProofError if backward sends other bytes than planned.
    """
    whole, recorded = recorded_gradients(model, inputs)
    if _differs(whole, gradients_of(model, inputs)):
        raise InputError(
            "gradients cannot be compared: two runs of the whole model differ",
            where=type(model).__name__,
            got="training mode with dropout" if model.training else "a model that draws random numbers",
            do="set dropout to 0, or call model.eval()",
        )
    parts, moved = on_ranks(model, inputs, plan, recorded)
    sent = [sum(sites.values()) for sites in moved]
    called = set().union(*moved)
    if _has_planned_sizes(inputs, plan):
        _check_bytes(model, plan, sent, called)
    errors, bounds = _errors(plan, whole, parts), _bounds(model, inputs, whole, recorded)
    nearest = max(errors, key=lambda name: (in_terms_of(errors[name], bounds[name]), errors[name]), default="")
    error, bound = errors.get(nearest, 0.0), bounds.get(nearest, 0.0)
    controls, collectives = {}, backward_collectives(plan, called)
    for name, sites in collectives.items():
        missing = _errors(plan, whole, on_ranks(model, inputs, plan, recorded, drop=sites)[0])
        controls[name] = control_error(missing, bounds, bound)
    missed = {name: collectives[name] for name in unnoticed(controls, bound)}
    exact, without, nonzero = _exact(model, inputs, plan, missed)
    unseen = {name: collectives[name] for name in unnoticed(without, EXACT_TOLERANCE)}
    deliveries = compare_cotangents(model, inputs, plan, unseen)
    vanishing = tuple(name for name, sites in unseen.items() if nonzero.issuperset(map(_summed, sites)))
    return Gradients(exact, error, bound, nearest, controls, sent, deliveries, without, vanishing)


def _summed(site: str) -> str:
    """The parameter whose gradient a site sums over ranks; of other sites no parameter's name."""
    return site.removesuffix(GRADIENT) if site.endswith(GRADIENT) else ""


def _differs(one: Outputs, other: Outputs) -> bool:
    return any(not torch.equal(one[name], other[name]) for name in one)


def _exact(
    model: torch.nn.Module, inputs: Inputs, plan: Plan, controls: dict[str, tuple[str, ...]]
) -> tuple[float, dict[str, float], set[str]]:
    """(largest difference, relative to each gradient's scale, in float64 throughout; the same without each of these
    collectives; the parameters whose gradient is not all zeros).
    """
    wide, given = widened(model), widened_inputs(inputs)
    with wide_by_default():
        with Widened():
            whole, recorded = recorded_gradients(wide, given)
        drops: list[tuple[str, ...]] = [(), *controls.values()]
        runs = [on_ranks(wide, given, plan, recorded, drop, Widened)[0] for drop in drops]
    scales = {name: float(g.abs().max()) if g.numel() else 0.0 for name, g in whole.items()}
    largest = max(scales.values(), default=0.0)
    # one that is zero but for rounding (a bias in front of a norm) has no scale of its own, but that of its terms
    floors = {name: max(scale, 1e-4 * largest, 1e-300) for name, scale in scales.items()}
    errors = [_errors(plan, whole, parts) for parts in runs]
    if any(error > EXACT_TOLERANCE * floors[name] for name, error in errors[0].items()):
        # nor has one of terms that nearly cancel (norms over two rows): what rounding moves in float64 is tolerated
        with wide_by_default():
            bounds = _bounds(wide, given, whole, recorded, Widened)
        floors = {name: max(floor, bounds.get(name, 0.0) / EXACT_TOLERANCE) for name, floor in floors.items()}
    found = [max((error / floors[name] for name, error in each.items()), default=0.0) for each in errors]
    return found[0], dict(zip(controls, found[1:], strict=True)), {name for name, scale in scales.items() if scale}


def _errors(plan: Plan, whole: Outputs, parts: list[Outputs]) -> dict[str, float]:
    shards = {p.name: p for p in plan.parameters}
    found = []
    for rank, part in enumerate(parts):
        wanted = {name: take_shard(shards[name], gradient, rank) for name, gradient in whole.items()}
        found.append(differences(wanted, part))
    return _worst(found)


def _worst(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: max(one[name] for one in found) for name in found[0]}


def _bounds(
    model: torch.nn.Module, inputs: Inputs, whole: Outputs, recorded: Recorded, mode: Mode = nullcontext
) -> dict[str, float]:
    """How far each gradient moves when every reduction of forward and backward is off by its own rounding error."""

    def moved() -> dict[str, float]:
        with mode():
            return differences(whole, pinned_gradients(model, inputs, recorded))

    moves = perturbed(moved)
    return {name: SAFETY * move for name, move in _worst(moves).items()}


def backward_collectives(plan: Plan, called: Container[str]) -> dict[str, tuple[str, ...]]:
    """Collectives of backward that are called, by what they do and where, repeated blocks together: name -> sites."""
    found: dict[str, list[str]] = {}
    for twin in _twins(plan):
        if twin.name in called:
            found.setdefault(f"{twin.kind} at {starred(twin.name)}", []).append(twin.name)
    return {name: tuple(sites) for name, sites in found.items()}


def _twins(plan: Plan) -> Iterator[Site]:
    """Sites of collectives in backward; those for inputs that need no gradient are never called."""
    for site in sites_of(plan):
        twin = site if site.name.endswith(GRADIENT) else twin_of(site)
        if twin is not None and twin.kind in DROPPABLE:
            yield twin


def _has_planned_sizes(inputs: Inputs, plan: Plan) -> bool:
    """Whether all tensors among the inputs have shapes that the plan was made for."""
    given = Counter(tuple(tensor.shape) for _, tensor in leaves(inputs, lambda tensor: tensor))
    return not given - Counter(map(tuple, plan.sizes.values()))


def _other_length(twin: str) -> str:
    """What stands in for a site in backward where an index of the inputs is cut or whole, and it is the other."""
    site = twin.removesuffix(BACKWARD)
    other = site.removesuffix(WHOLE_LENGTH) if site.endswith(WHOLE_LENGTH) else site + WHOLE_LENGTH
    return other + BACKWARD


def _check_bytes(model: torch.nn.Module, plan: Plan, sent: list[float], called: Container[str]) -> None:
    """Planned is what is sent when all parameters are trained and the model runs as it was traced. With frozen ones, or
    where it leaves out what it does in evaluation (a state that nobody asks for), it may be less.
    """
    planned = sum(c.bytes for c in plan.collectives if c.phase == "backward")
    observed, slack = max(sent), 1e-6 * max(planned, 1.0)
    frozen = any(not p.requires_grad for p in model.parameters())
    inputs = {step.name + BACKWARD for place in plan.places if place.module == "" for step in place.steps}
    passed_over = any(
        twin.name not in called and _other_length(twin.name) not in called
        for twin in _twins(plan)
        if twin.name not in inputs
    )
    if observed > planned + slack or (observed < planned - slack and not frozen and not passed_over):
        raise ProofError(
            "the bytes that backward sent are not those planned", got=f"{observed:,.0f}", needed=f"{planned:,.0f}"
        )
