"""Runs of one forward and backward: of the whole model, with its choices recorded or pinned, and of the lowered ranks.

The scalar that is differentiated is sum(c * output) over the float outputs of one forward, with fixed random cotangents
c, so that no output's gradient can hide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch

from axisplit.capture.kept import state_put_back
from axisplit.capture.modes import uncompiled
from axisplit.capture.trace import Inputs, own_inputs
from axisplit.capture.trees import leaves
from axisplit.errors import InputError
from axisplit.lower.apply import GRADIENT, make_rank
from axisplit.proof.choices import Pinned, Recorded, Recorder
from axisplit.proof.numbers import Outputs, as_numbers
from axisplit.runtime.groups import Group
from axisplit.runtime.simulate import simulate
from axisplit.runtime.sites import BACKWARD, unregister
from axisplit.solve.plan import Plan


def gradients_of(model: torch.nn.Module, inputs: Inputs) -> Outputs:
    """Parameter name -> gradient (zeros where none arrives) of one forward and backward; `.grad` and what modules keep
    between calls are left as they were.

    Raises: InputError if no float output depends on a parameter, or an op has no backward.
    """
    args, kwargs = own_inputs(inputs)
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


def recorded_gradients(model: torch.nn.Module, inputs: Inputs) -> tuple[Outputs, Recorded]:
    """The whole model's gradients, and every choice that it makes on the way."""
    recorder = Recorder()
    with recorder.during("gradients"):
        return gradients_of(model, inputs), recorder.recorded


def pinned_gradients(model: torch.nn.Module, inputs: Inputs, recorded: Recorded) -> Outputs:
    """The same for a rank's part or in another mode, with the choices of the whole model's run."""
    with Pinned(recorded).during("gradients"):
        return gradients_of(model, inputs)


def on_ranks(
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
                found = pinned_gradients(part, inputs, recorded)
            return found, {name: sent for name, (_, sent) in context.counters.items() if is_backward(name)}
        finally:
            unregister(key)

    results = simulate(plan.ranks, rank)
    return [found for found, _ in results], [sent for _, sent in results]


def is_backward(site: str) -> bool:
    """Whether a site is called in backward."""
    return site.endswith((BACKWARD, GRADIENT))
