"""From the states of values to what is right, what is silently wrong and where, and what moves too much.

The whole model runs here, once, in float64; its values go to the ranks by a private file. What is right is decided by
the model's outputs, the parameters and their gradients alone. The values inside only say where it first goes wrong: at
the first value in the order of the program that is none of whole, part or partial.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from axisplit.auditing.observe import is_input, module_of, observing
from axisplit.auditing.rank import GIVEN, PART, WHOLE, Crash, Found, Given, results, run_on_rank
from axisplit.auditing.states import State, Values, is_close
from axisplit.auditing.styles import HandPlan, load_part, loadable, read_plan, save
from axisplit.capture.copies import copy_model
from axisplit.capture.trace import Inputs, normalize_inputs
from axisplit.errors import AxisplitError, CollectiveError, InputError
from axisplit.export import starred
from axisplit.proof.backward import gradients_of
from axisplit.proof.numbers import Widened, wide_by_default, widened_inputs
from axisplit.runtime.launch import launch
from axisplit.solve.plan import Plan

_TIMEOUT_S = 60.0
"""How long a rank waits in a collective that the others do not call, as after a crash of one of them."""


@dataclass(frozen=True)
class WrongValue:
    """Where values first go wrong: in the Python of `module` itself, just before `before` runs (None: in what it
    returns), after the last things that were in order (their states).
    """

    module: str
    before: str | None
    state: State
    after: tuple[tuple[str, State], ...]


@dataclass(frozen=True)
class WrongGradient:
    """A parameter (layers together, `count` of them): what its gradient is, and what arrives at its module's output."""

    parameter: str
    count: int
    state: State
    arrives: State | None
    planned: str | None
    """What axisplit's own plan does with it (`ParameterPlan.gradient`); None without a plan."""

    @property
    def missing(self) -> str:
        """What would make it right."""
        if self.state == "partial":
            return "each rank has the gradient of its own use only: it must be summed over ranks"
        if self.state == "reordered":
            return "its values are right, but the ranks together hold them in another order"
        if self.state == "repeated":
            return "it is counted on several ranks: it must not be summed again"
        if self.arrives not in (None, "whole", "part"):
            return f"the gradient that arrives at its module is {self.arrives} already"
        return "it is neither the whole model's nor a share of it"


@dataclass(frozen=True)
class Audit:
    """What a plan by hand does. None: not known, because an earlier step failed or no plan of axisplit's was made."""

    model: str
    ranks: int
    kind: str
    forward: bool | None
    forward_with_gradients: bool | None
    gradients: bool | None
    accumulated: bool | None
    """Whether the gradients of two backwards add up to twice the whole model's, where those of one are right."""
    outputs: Mapping[str, State]
    first_wrong: WrongValue | None
    wrong_parameters: Mapping[str, State]
    """Parameters (layers together) that the ranks together do not hold as the checkpoint has them."""
    wrong_gradients: tuple[WrongGradient, ...]
    wrong_accumulated: tuple[str, ...]
    """Parameters (layers together) whose gradient is right in one backward and wrong where several add up."""
    crash: Crash | None
    forward_bytes: Mapping[str, int]
    backward_bytes: Mapping[str, int]
    split_fraction: float | None
    optimum: Plan | None
    no_optimum: str
    unused: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether the plan runs and no output, gradient or parameter is wrong."""
        return (
            self.crash is None
            and not self.wrong_parameters
            and all((self.forward, self.forward_with_gradients, self.gradients, self.accumulated))
        )

    @property
    def comm_bytes_per_rank(self) -> int | None:
        """Bytes one rank sends in a forward."""
        return sum(self.forward_bytes.values()) if self.forward is not None else None

    def to_json(self) -> dict[str, Any]:
        """The fields of `axisplit audit --json`."""
        ours = self.optimum
        return {
            "model": self.model,
            "ranks": self.ranks,
            "kind": self.kind,
            "right": self.right,
            "forward": self.forward,
            "forward_with_gradients": self.forward_with_gradients,
            "gradients": self.gradients,
            "accumulated": self.accumulated,
            "outputs": dict(self.outputs),
            "first_wrong": None if self.first_wrong is None else asdict(self.first_wrong),
            "wrong_parameters": dict(self.wrong_parameters),
            "wrong_gradients": [{**asdict(wrong), "missing": wrong.missing} for wrong in self.wrong_gradients],
            "wrong_accumulated": list(self.wrong_accumulated),
            "crash": None if self.crash is None else asdict(self.crash),
            "comm_bytes_per_rank": self.comm_bytes_per_rank,
            "comm_bytes": {"forward": dict(self.forward_bytes), "backward": dict(self.backward_bytes)},
            "split_fraction": self.split_fraction,
            "optimum": None
            if ours is None
            else {"comm_bytes_per_rank": ours.comm_bytes_per_rank, "split_fraction": ours.split_fraction},
            "no_optimum": self.no_optimum,
            "unused": list(self.unused),
        }

    def __str__(self) -> str:
        from axisplit.report.audit import render_audit

        return render_audit(self)


def audit(
    model: nn.Module,
    inputs: Inputs,
    ranks: int,
    tp_plan: Mapping[str, Any] | None = None,
    *,
    optimum: bool = True,
    name: str = "",
) -> Audit:
    """Run a plan made by hand on real local ranks beside the whole model, in float64, and say what it gets wrong.

    Args:
        model: the whole one, in memory, deterministic. It is not changed.
        inputs: a tuple is positional, a dict keywords.
        tp_plan: names of transformers' styles, or ParallelStyle objects, by module or pattern; the model's own if not
            given.
        optimum: derive axisplit's own plan too, to compare with.
    Raises: InputError if there is no plan, or the model has no weights or is not deterministic; CollectiveError if the
        ranks could not be run (a crash of the plan itself is a finding, not an error).
    """
    plan = read_plan(model, tp_plan)
    if any(p.is_meta for p in model.parameters()):
        raise InputError("a model without weights cannot be audited", where=type(model).__name__, do="load its weights")
    with TemporaryDirectory(prefix="axisplit-") as folder:
        given = _given(model, inputs, plan, Path(folder))
        whole = _whole_values(given, Path(folder))
        found = _on_ranks(given, Path(folder), ranks, whole, _float_bytes(model))
    ours, reason = _optimum(model, inputs, ranks, name) if optimum else (None, "not asked for")
    return _judged(name or type(model).__name__, model, ranks, plan, whole, found, ours, reason)


def _given(model: nn.Module, inputs: Inputs, plan: HandPlan, folder: Path) -> Given:
    """In float64; a plan of transformers' is applied by its loading, so its model is saved."""
    if plan.kind == "torch":
        return Given(copy_model(model).double(), widened_inputs(inputs), plan)
    how = loadable(model)
    save(copy_model(model).double(), folder)
    return Given(how, widened_inputs(inputs), plan)


def _whole_values(given: Given, folder: Path) -> dict[str, Values]:
    """Values, cotangents, gradients and parameters of the whole model. Raises: InputError if two runs differ."""
    args, kwargs = normalize_inputs(given.inputs)
    with wide_by_default():
        wide = copy_model(given.model) if isinstance(given.model, nn.Module) else load_part(given.model, folder, None)
        with Widened():
            with observing(wide, cotangents=True) as seen:
                gradients = gradients_of(wide, given.inputs)
            with torch.no_grad(), observing(wide) as again:
                wide(*args, **kwargs)
    if not all(is_close(again.values[name], seen.values[name]) for name in results(seen.values)):
        raise InputError(
            "the plan cannot be judged: two runs of the whole model differ",
            where=type(wide).__name__,
            got="training mode with dropout" if wide.training else "a model that draws random numbers",
            do="set dropout to 0, or call model.eval()",
        )
    return {
        "values": seen.values,
        "cotangents": seen.cotangents,
        "gradients": {name: gradient.detach() for name, gradient in gradients.items()},
        "parameters": {name: p.detach() for name, p in wide.named_parameters()},
    }


def _float_bytes(model: nn.Module) -> int:
    return next((p.element_size() for p in model.parameters() if p.is_floating_point()), 4)


def _on_ranks(given: Given, folder: Path, ranks: int, whole: dict[str, Values], float_bytes: int) -> Found:
    torch.save(whole, folder / WHOLE)
    private = os.open(folder / GIVEN, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(private, "wb") as file:
        pickle.dump(given, file)
    try:
        found: list[Found] = launch(ranks, run_on_rank, (folder, float_bytes), timeout_s=_TIMEOUT_S)
    except CollectiveError as error:
        return Found(crash=_died(error))
    return found[0]


def _died(error: CollectiveError) -> Crash:
    """The ranks ran apart: one failed while others waited for it. Raises: the error, if it is one of the input's."""
    if isinstance(error.__cause__, AxisplitError):
        raise error
    first, *_ = (error.got or "").splitlines() or [""]
    return Crash("running on ranks", "", -1, f"{error.what}: {first}", error.got or "")


def _optimum(model: nn.Module, inputs: Inputs, ranks: int, name: str) -> tuple[Plan | None, str]:
    from axisplit.api import plan

    try:
        return plan(model, inputs, ranks=ranks, name=name), ""
    except AxisplitError as error:
        return None, str(error)


def _judged(
    name: str,
    model: nn.Module,
    ranks: int,
    plan: HandPlan,
    whole: dict[str, Values],
    found: Found,
    ours: Plan | None,
    reason: str,
) -> Audit:
    wanted = results(whole["values"])
    forward, training = _all_whole(found.inference, wanted), _all_whole(found.training, wanted)
    seen = found.inference if forward is False else found.training if training is False else {}
    wrong, twice = _wrong_gradients(whole, found, ours), _wrong_accumulated(found)
    total = sum(p.numel() for p in model.parameters())
    split = {n: p.numel() for n, p in model.named_parameters() if n in found.split}
    applied = found.crash is None or found.crash.step not in (PART, "running on ranks")
    return Audit(
        model=name,
        ranks=ranks,
        kind=plan.kind,
        forward=forward,
        forward_with_gradients=training,
        gradients=not wrong if found.gradients else None,
        accumulated=not twice if found.accumulated else None,
        outputs={leaf.partition(">")[2]: seen[leaf] for leaf in wanted if seen},
        first_wrong=_first_wrong(seen, wanted),
        wrong_parameters={starred(name): state for name, state in found.parameters.items() if state != "whole"},
        wrong_gradients=wrong,
        wrong_accumulated=twice,
        crash=found.crash,
        forward_bytes=found.forward_bytes,
        backward_bytes=found.backward_bytes,
        split_fraction=sum(split.values()) / total if applied and total else None,
        optimum=ours,
        no_optimum=reason,
        unused=plan.unused,
    )


def _all_whole(states: Mapping[str, State], wanted: list[str]) -> bool | None:
    return all(states[name] == "whole" for name in wanted) if states else None


def _first_wrong(seen: Mapping[str, State], wanted: list[str]) -> WrongValue | None:
    """In the order in which values come; where all inside are accounted for, what the model returns."""
    if not seen:
        return None
    names = list(seen)
    failing = [name for name in wanted if seen[name] != "whole"]
    name = next((name for name in names if seen[name] not in ("whole", "part", "partial")), failing[0])
    module = module_of(name)
    makes = module.rpartition(".")[0] if is_input(name) else module
    made = [n for n in names[: names.index(name)] if not is_input(n) and _inside(module_of(n), makes)]
    after = tuple((module_of(n), seen[n]) for n in made[-3:])
    return WrongValue(makes, module if is_input(name) else None, seen[name], after)


def _inside(module: str, parent: str) -> bool:
    """Whether it is called by the parent's own code, as far as names tell."""
    return module.startswith(f"{parent}." if parent else "") and module.rpartition(".")[0] == parent


def _wrong_accumulated(found: Found) -> tuple[str, ...]:
    """Those that one backward gets right: a sum over ranks of what an earlier backward had summed already, say."""
    wrong = (n for n, state in found.accumulated.items() if state != "whole" and found.gradients[n] == "whole")
    return tuple(dict.fromkeys(map(starred, wrong)))


def _wrong_gradients(whole: dict[str, Values], found: Found, ours: Plan | None) -> tuple[WrongGradient, ...]:
    """The nearest to their cause first: backward reaches the modules that finish last in forward first."""
    order = {module_of(name): place for place, name in enumerate(whole["values"])}
    arrives = {module_of(name): state for name, state in found.cotangents.items()}
    planned = {p.name: p.gradient for p in ours.parameters} if ours is not None and not ours.no_backward else {}
    wrong = [name for name, state in found.gradients.items() if state != "whole"]
    groups: dict[tuple[str, State], list[str]] = {}
    for name in sorted(wrong, key=lambda name: -order.get(name.rpartition(".")[0], -1)):
        groups.setdefault((starred(name), found.gradients[name]), []).append(name)
    return tuple(
        WrongGradient(parameter, len(names), state, arrives.get(names[0].rpartition(".")[0]), planned.get(names[0]))
        for (parameter, state), names in groups.items()
    )
