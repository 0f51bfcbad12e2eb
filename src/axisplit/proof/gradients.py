"""The numbers of backward: every parameter's gradient on the lowered ranks beside the whole model's.

The scalar that is differentiated is sum(c * output) over the float outputs of one forward, with fixed random cotangents
c, so that no output's gradient can hide. A rank's gradient of a parameter must be its shard of the whole gradient; a
parameter that only rank 0 holds has none elsewhere. As in forward (numbers.py): float64 throughout, the model's own
dtypes within a bound measured by perturbing every reduction of forward and backward, and each distinct collective of
backward left out in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from axisplit.capture.kept import state_put_back
from axisplit.capture.modes import uncompiled, unfused
from axisplit.capture.trace import Inputs, normalize_inputs
from axisplit.capture.trees import leaves
from axisplit.errors import InputError, ProofError
from axisplit.lower.apply import GRADIENT, make_rank, sites_of, take_shard
from axisplit.proof.choices import Pinned, Recorded, Recorder, in_terms_of
from axisplit.proof.numbers import (
    EXACT_TOLERANCE,
    SAFETY,
    Outputs,
    Widened,
    as_numbers,
    control_error,
    differences,
    each_caught,
    perturbed,
    starred,
    wide_by_default,
    widened,
    widened_inputs,
)
from axisplit.runtime.groups import Group
from axisplit.runtime.simulate import simulate
from axisplit.runtime.sites import BACKWARD, DROPPABLE, twin_of, unregister
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

    @property
    def equal(self) -> bool:
        return self.max_error <= self.bound and self.exact_error <= EXACT_TOLERANCE

    @property
    def control_caught(self) -> bool | None:
        return each_caught(self.control_errors, self.bound)

    def to_json(self) -> dict[str, Any]:
        """The fields of `gradients` in `axisplit verify --json`."""
        return {
            "equal": self.equal,
            "max_error": self.max_error,
            "bound": self.bound,
            "exact_error": self.exact_error,
            "parameter": self.parameter,
            "control_caught": self.control_caught,
        }


def gradients_of(model: torch.nn.Module, inputs: Inputs) -> Outputs:
    """Parameter name -> gradient (zeros where none arrives) of one forward and backward; `.grad` and what modules keep
    between calls are left as they were.

    Raises: InputError if no float output depends on a parameter, or an op has no backward.
    """
    args, kwargs = normalize_inputs(inputs)
    before = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    with torch.enable_grad(), uncompiled(), state_put_back(model):
        scalar = scalar_of(model(*args, **kwargs))
        if scalar is None:
            raise InputError("there are no gradients", where=type(model).__name__, needed="an output that needs one")
        _backward(scalar, type(model).__name__)
    found = {}
    for name, parameter in model.named_parameters():
        found[name] = as_numbers(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        parameter.grad = before[name]
    return found


def scalar_of(result: Any) -> torch.Tensor | None:
    """The sum over the outputs that need gradients, with fixed random cotangents; None if there are none."""
    generator, total = torch.Generator().manual_seed(0), None
    for tensor in _differentiable(result):
        cotangent = torch.randn(tensor.shape, generator=generator).to(tensor)
        term = (tensor * cotangent).sum()
        total = term if total is None else total + term
    return total


def _differentiable(result: Any) -> Iterator[torch.Tensor]:
    """Outputs that need a gradient, each tensor once; complex ones as their parts."""
    seen = set[int]()
    for _, tensor in leaves(result, lambda tensor: tensor):
        if tensor.requires_grad and id(tensor) not in seen:
            seen.add(id(tensor))
            yield torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _backward(scalar: torch.Tensor, where: str) -> None:
    """Raises: InputError if an op has no backward; whatever else goes wrong in it."""
    try:
        scalar.backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if "no autograd formula was registered" not in str(error):
            raise
        raise InputError(
            "there are no gradients",
            where=where,
            got=str(error),
            needed="ops with a backward",
            do="register it: torch.library.register_autograd",
        ) from error


@unfused()
def measure_gradients(model: torch.nn.Module, inputs: Inputs, plan: Plan) -> Gradients:
    """Run everything of this file's header on simulated ranks. Choices are pinned to the whole model's (choices.py).

    Raises: InputError if the model is not deterministic; ProofError if backward sends other bytes than planned.
    """
    whole, recorded = _recorded(model, inputs)
    if _differs(whole, gradients_of(model, inputs)):
        raise InputError(
            "gradients cannot be compared: two runs of the whole model differ",
            where=type(model).__name__,
            got="training mode with dropout" if model.training else "a model that draws random numbers",
            do="set dropout to 0, or call model.eval()",
        )
    parts, moved = _on_ranks(model, inputs, plan, recorded)
    sent = [sum(sites.values()) for sites in moved]
    _check_bytes(model, plan, sent)
    errors, bounds = _errors(plan, whole, parts), _bounds(model, inputs, whole, recorded)
    nearest = max(errors, key=lambda name: (in_terms_of(errors[name], bounds[name]), errors[name]), default="")
    error, bound = errors.get(nearest, 0.0), bounds.get(nearest, 0.0)
    controls = {}
    called = set().union(*moved)  # those for inputs that need no gradient are not
    for name, sites in backward_collectives(plan, called).items():
        missing = _errors(plan, whole, _on_ranks(model, inputs, plan, recorded, drop=sites)[0])
        controls[name] = control_error(missing, bounds, bound)
    return Gradients(_exact(model, inputs, plan), error, bound, nearest, controls, sent)


def _recorded(model: torch.nn.Module, inputs: Inputs) -> tuple[Outputs, Recorded]:
    recorder = Recorder()
    with recorder.during("gradients"):
        return gradients_of(model, inputs), recorder.recorded


def _pinned(model: torch.nn.Module, inputs: Inputs, recorded: Recorded) -> Outputs:
    with Pinned(recorded).during("gradients"):
        return gradients_of(model, inputs)


def _differs(one: Outputs, other: Outputs) -> bool:
    return any(not torch.equal(one[name], other[name]) for name in one)


def _exact(model: torch.nn.Module, inputs: Inputs, plan: Plan) -> float:
    """Largest difference, relative to each gradient's scale, in float64 throughout."""
    wide, given = widened(model), widened_inputs(inputs)
    with wide_by_default():
        with Widened():
            whole, recorded = _recorded(wide, given)
        parts, _ = _on_ranks(wide, given, plan, recorded, mode=Widened)
    scales = {name: float(g.abs().max()) if g.numel() else 0.0 for name, g in whole.items()}
    largest = max(scales.values(), default=0.0)
    errors = _errors(plan, whole, parts)
    # one that is zero but for rounding (a bias in front of a norm) has no scale of its own, but that of its terms
    return max((e / max(scales[n], 1e-4 * largest, 1e-300) for n, e in errors.items()), default=0.0)


def _on_ranks(
    model: torch.nn.Module,
    inputs: Inputs,
    plan: Plan,
    recorded: Recorded,
    drop: tuple[str, ...] = (),
    mode: Callable[[], Any] = nullcontext,
) -> tuple[list[Outputs], list[dict[str, float]]]:
    """(gradients, sites called in backward with the bytes sent there) of every simulated rank."""
    key = f"gradients-{plan.fingerprint}"

    def rank(group: Group) -> tuple[Outputs, dict[str, float]]:
        part, context = make_rank(model, plan, group, key)
        try:
            context.drop(drop)
            with mode():
                found = _pinned(part, inputs, recorded)
            return found, {name: sent for name, (_, sent) in context.counters.items() if is_backward(name)}
        finally:
            unregister(key)

    results = simulate(plan.ranks, rank)
    return [found for found, _ in results], [sent for _, sent in results]


def is_backward(site: str) -> bool:
    """Whether a site is called in backward."""
    return site.endswith((BACKWARD, GRADIENT))


def _errors(plan: Plan, whole: Outputs, parts: list[Outputs]) -> dict[str, float]:
    shards = {p.name: p for p in plan.parameters}
    found = []
    for rank, part in enumerate(parts):
        wanted = {name: take_shard(shards[name], gradient, rank) for name, gradient in whole.items()}
        found.append(differences(wanted, part))
    return _worst(found)


def _worst(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: max(one[name] for one in found) for name in found[0]}


def _bounds(model: torch.nn.Module, inputs: Inputs, whole: Outputs, recorded: Recorded) -> dict[str, float]:
    """How far each gradient moves when every reduction of forward and backward is off by its own rounding error."""
    moves = perturbed(lambda: differences(whole, _pinned(model, inputs, recorded)))
    return {name: SAFETY * move for name, move in _worst(moves).items()}


def backward_collectives(plan: Plan, called: Container[str]) -> dict[str, tuple[str, ...]]:
    """Collectives of backward that are called, by what they do and where, repeated blocks together: name -> sites."""
    found: dict[str, list[str]] = {}
    for site in sites_of(plan):
        twin = site if site.name.endswith(GRADIENT) else twin_of(site)
        if twin is not None and twin.kind in DROPPABLE and twin.name in called:
            found.setdefault(f"{twin.kind} at {starred(twin.name)}", []).append(twin.name)
    return {name: tuple(sites) for name, sites in found.items()}


def _check_bytes(model: torch.nn.Module, plan: Plan, sent: list[float]) -> None:
    """Planned is what is sent when all parameters are trained; with frozen ones it may be less."""
    planned = sum(c.bytes for c in plan.collectives if c.phase == "backward")
    observed, slack = max(sent), 1e-6 * max(planned, 1.0)
    frozen = any(not p.requires_grad for p in model.parameters())
    if observed > planned + slack or (observed < planned - slack and not frozen):
        raise ProofError(
            "the bytes that backward sent are not those planned", got=f"{observed:,.0f}", needed=f"{planned:,.0f}"
        )
