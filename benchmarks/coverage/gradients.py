"""Gradients of one backward beside the whole model's, in training mode with every dropout and masked spans at 0.
Modes, the first that can be had:

    train           by the plan that inference uses, where training runs the same program
    train, planned  else, or with captured programs, by a plan made for the model in training mode
    eval            where training draws random numbers (router noise) or does not run on these inputs
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import axisplit
from axisplit.capture.trace import Captured, Inputs, capture
from axisplit.errors import InputError
from axisplit.lower.lowering import fingerprint
from axisplit.lower.planning import make_plan
from axisplit.proof.backward import gradients_of
from axisplit.proof.gradients import Gradients, measure_gradients


class NoGradients(Exception):
    """The whole model has none, or none that can be compared."""


@dataclass(frozen=True)
class Trained:
    """A model in the first mode in which two backward passes agree; in training mode also the trace of its program."""

    model: nn.Module
    captured: Captured | None


def comparable(model: nn.Module, inputs: Inputs) -> Trained:
    """Raises: NoGradients with why evaluation is not comparable either."""
    reason = ""
    for chosen in (trainable(model), model):
        try:
            first, second = gradients_of(chosen, inputs), gradients_of(chosen, inputs)
        except Exception as error:  # whatever it is, it is the model's answer
            reason = f"the whole model's backward fails: {type(error).__name__}: {error}"
            continue
        if not all(gradient.isfinite().all() for gradient in first.values()):
            reason = "the whole model's gradients are not finite"
            continue
        if all(torch.equal(first[name], second[name]) for name in first):
            return Trained(chosen, capture(chosen, inputs) if chosen.training else None)
        reason = "two runs of the whole model differ"
    raise NoGradients(reason)


def measured(trained: Trained, inputs: Inputs, plan: axisplit.Plan) -> tuple[str, Gradients]:
    """(mode, what was measured). Raises: what planning and measuring raise."""
    mode = "eval" if trained.captured is None else "train"
    if trained.captured is not None and not serves_training(plan, trained.captured):
        mode, plan = "train, planned", make_plan(trained.model, inputs, plan.ranks, captured=trained.captured)
    return mode, measure_gradients(trained.model, inputs, checked(plan))


def serves_training(plan: axisplit.Plan, captured: Captured) -> bool:
    """Whether a plan made in evaluation is for what runs in training too: the same ops, and no program that takes the
    place of a module in evaluation only.
    """
    return not plan.captured and fingerprint(captured.graph) == plan.fingerprint


def checked(plan: axisplit.Plan) -> axisplit.Plan:
    """The plan, if gradients were derived for it. Raises: InputError."""
    if plan.no_backward:
        raise InputError("the plan has no backward", where=plan.model, got=plan.no_backward)
    return plan


def trainable(model: nn.Module) -> nn.Module:
    """A copy in training mode; every float attribute that says how much is dropped is 0."""
    made = copy.deepcopy(model).train()
    for module in made.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and (_drops(name) or (name == "p" and "Drop" in type(module).__name__)):
                setattr(module, name, 0.0)
        _no_dropping(getattr(module, "config", None))
    return made


def _no_dropping(config: Any) -> None:
    """The same in a config: some forwards read it there."""
    for name, value in list(vars(config).items()) if hasattr(config, "__dict__") else ():
        if isinstance(value, float) and _drops(name):
            setattr(config, name, 0.0)
        elif hasattr(value, "to_dict"):
            _no_dropping(value)


def _drops(name: str) -> bool:
    """Dropout, dropped layers, and spans of the input that are masked in training."""
    return "drop" in name.lower() or (name.startswith("mask_") and name.endswith("_prob"))
