"""What one rank does: become its part, run forward without and with gradients, run backward, and once more on top of
the gradients that are there, as training with accumulation does; compare each with the whole.

Everything that ranks compare is collective, so each step ends with a vote: if one rank failed, all stop there.
"""

from __future__ import annotations

import pickle
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from axisplit.auditing.observe import Observed, is_input, observing
from axisplit.auditing.states import State, Values, classify
from axisplit.auditing.styles import HandPlan, Loadable, apply_plan, load_part
from axisplit.auditing.traffic import Traffic
from axisplit.capture.trace import Inputs, normalize_inputs
from axisplit.proof.backward import scalar_of
from axisplit.proof.numbers import Widened, wide_by_default

GIVEN, WHOLE = "given.pickle", "whole.pt"
PART = "making the parts"


@dataclass(frozen=True)
class Given:
    """What every rank gets: the model itself in float64, or how to load it from the folder."""

    model: nn.Module | Loadable
    inputs: Inputs
    plan: HandPlan


@dataclass(frozen=True)
class Crash:
    """A step that a rank could not do."""

    step: str
    module: str
    rank: int
    error: str
    trace: str = ""


@dataclass
class Found:
    """States of values by name; `crash` says why later ones are missing."""

    parameters: dict[str, State] = field(default_factory=dict)
    inference: dict[str, State] = field(default_factory=dict)
    training: dict[str, State] = field(default_factory=dict)
    cotangents: dict[str, State] = field(default_factory=dict)
    gradients: dict[str, State] = field(default_factory=dict)
    accumulated: dict[str, State] = field(default_factory=dict)
    split: tuple[str, ...] = ()
    forward_bytes: dict[str, int] = field(default_factory=dict)
    backward_bytes: dict[str, int] = field(default_factory=dict)
    crash: Crash | None = None


def run_on_rank(rank: int, world_size: int, folder: Path, float_bytes: int) -> Found:
    """This rank's findings; `folder` holds what our parent wrote: what is given, and the whole model's values."""
    given: Given = pickle.loads((folder / GIVEN).read_bytes())
    whole = torch.load(folder / WHOLE, mmap=True, weights_only=True)
    found = Found()
    with suppress(_Stopped), wide_by_default():
        _run(_Steps(rank, world_size, found), given, folder, whole, float_bytes)
    return found


def _run(steps: _Steps, given: Given, folder: Path, whole: dict[str, Values], float_bytes: int) -> None:
    found, size, inputs = steps.found, steps.world_size, given.inputs
    part = steps.do(PART, lambda: _part(given, folder, size))
    found.parameters = classify(_held(part, whole["parameters"]), whole["parameters"])
    found.split = tuple(name for name, p in part.named_parameters() if _is_split(p))
    with torch.no_grad(), observing(part) as seen:
        forward = Traffic(size, float_bytes)
        steps.do("forward", lambda: forward.during(lambda: _forward(part, inputs)), seen)
    found.forward_bytes = dict(forward.sent)
    found.inference = classify(seen.values, whole["values"])
    with observing(part, cotangents=True) as seen:
        result = steps.do("forward with gradients", lambda: _forward(part, inputs), seen)
        found.training = classify(seen.values, whole["values"])
        if any(found.training[name] != "whole" for name in results(whole["values"])):
            return
        backward = Traffic(size, float_bytes)
        steps.do("backward", lambda: backward.during(lambda: _backward(result)))
    found.backward_bytes = dict(backward.sent)
    found.cotangents = classify(seen.cotangents, whole["cotangents"])
    once, scales = whole["gradients"], gradient_scales(whole)
    found.gradients = classify(_gradients(part, once), once, scales)
    steps.do("a second backward", lambda: _backward(_forward(part, inputs)))
    twice = {name: 2 * gradient for name, gradient in once.items()}
    found.accumulated = classify(_gradients(part, once), twice, {name: 2 * scale for name, scale in scales.items()})


def _part(given: Given, folder: Path, size: int) -> nn.Module:
    if isinstance(given.model, nn.Module):
        return apply_plan(given.model, given.plan, init_device_mesh("cpu", (size,), mesh_dim_names=("tp",)))
    return load_part(given.model, folder, given.plan, size)


def _held(model: nn.Module, whole: Values) -> Values:
    """The parameters as the ranks together hold them, as saving would write them. Collective."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    held = {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in parameters.items() if name in whole}
    return {name: tensor.detach().double() for name, tensor in held.items()}


def results(values: Values | dict[str, Any]) -> list[str]:
    """The values that are the model's own outputs."""
    return [name for name in values if name.startswith("#") and not is_input(name)]


def gradient_scales(whole: dict[str, Values]) -> dict[str, float]:
    """Each gradient's scale; one that is zero but for rounding (a bias in front of a norm) has that of the others."""
    own = {name: float(g.abs().max()) if g.numel() else 0.0 for name, g in whole["gradients"].items()}
    largest = max(own.values(), default=1.0)
    return {name: max(scale, 1e-4 * largest, 1e-300) for name, scale in own.items()}


def _forward(model: nn.Module, inputs: Inputs) -> Any:
    args, kwargs = normalize_inputs(inputs)
    with Widened():
        return model(*args, **kwargs)


def _backward(result: Any) -> None:
    scalar = scalar_of(result)
    assert scalar is not None  # the whole model's was there
    with Widened():
        scalar.backward()  # type: ignore[no-untyped-call]


def _is_split(parameter: Tensor) -> bool:
    return isinstance(parameter, DTensor) and any(not p.is_replicate() for p in parameter.placements)


def _gradients(model: nn.Module, whole: Values) -> Values:
    """Gradients in the whole model's shapes (zeros where none arrives). Collective."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    mine = {name: parameters[name].grad is not None for name in whole if name in parameters}
    everyone: list[dict[str, bool]] = [mine] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    found = {}
    for name, value in whole.items():
        grad = parameters[name].grad if name in parameters else None
        if isinstance(grad, DTensor) and all(one[name] for one in everyone):
            grad = grad.full_tensor()
        found[name] = torch.zeros_like(value) if grad is None or isinstance(grad, DTensor) else grad.detach()
    return found


class _Stopped(Exception):
    """A rank failed; all of them heard of it."""


@dataclass
class _Steps:
    """Does one thing after the other, as long as every rank can."""

    rank: int
    world_size: int
    found: Found

    def do(self, step: str, action: Any, seen: Observed | None = None) -> Any:
        """The action's result. Raises: _Stopped if a rank failed, with `found.crash` set on every rank."""
        crash, result = None, None
        try:
            result = action()
        except Exception as error:  # whatever it is, it is what the audit has to tell
            module = seen.inside[-1] if seen is not None and seen.inside else ""
            text = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            crash = Crash(step, module, self.rank, text, traceback.format_exc())
        everyone: list[Crash | None] = [crash] * self.world_size
        dist.all_gather_object(everyone, crash)
        self.found.crash = next((one for one in everyone if one is not None), None)
        if self.found.crash is not None:
            raise _Stopped
        return result
