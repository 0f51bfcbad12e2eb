"""One case: plan, verify, check on our own, generate, gradients; all that goes wrong becomes the record's reasons."""

from __future__ import annotations

import resource
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import axisplit
from axisplit.capture.trace import Captured, capture
from axisplit.errors import AxisplitError
from axisplit.lower.planning import make_plan
from axisplit.proof.verify import verify_plan
from benchmarks.coverage import check, gradients
from benchmarks.coverage.family import Family, family
from benchmarks.coverage.record import Case, Outcome, Record

Announce = Callable[[str, Record], None]
_PACKAGE = str(Path(axisplit.__file__).parent)


class Subject:
    """A model that was built, and what is the same for all numbers of ranks."""

    def __init__(self, model: torch.nn.Module, inputs: dict[str, Any]) -> None:
        self.model, self.inputs = model, inputs

    @cached_property
    def family(self) -> Family:
        return family(self.model, self.inputs)

    @cached_property
    def captured(self) -> Captured:
        """Its trace. Raises: what `capture` does."""
        return capture(self.model, self.inputs)

    @cached_property
    def trained(self) -> gradients.Trained:
        """The model as it is differentiated. Raises: gradients.NoGradients."""
        return gradients.comparable(self.model, self.inputs)


def measure(case: Case, subject: Subject, announce: Announce) -> Record:
    """Everything a record says of a case; `announce` is told each stage before it begins, and what is known by then."""
    return _Measurement(case, subject, announce).run()


def not_built(case: Case, error: BaseException) -> Record:
    """The record of a model that transformers itself does not build or run."""
    return Record(
        case.model, case.head, case.ranks, "does not run", one_line(error), stage="build", where=place_of(error)
    )


class _Measurement:
    """Fields as they become known, and the first failure."""

    def __init__(self, case: Case, subject: Subject, announce: Announce) -> None:
        self.case, self.subject, self.announce = case, subject, announce
        self.model, self.inputs = subject.model, subject.inputs
        self.fields: dict[str, Any] = {"family": subject.family}
        self.outcome: Outcome = "equal"
        self.began: dict[str, float] = {}  # stage -> CPU seconds of the process before it

    def run(self) -> Record:
        plan = self._guarded("plan", self._plan)
        if plan is not None:
            self._guarded("verify", lambda: self._verify(plan))
            self._guarded("check", lambda: self._check(plan))
            if self.case.head == "causal":
                self._enter("generate")
                self.fields |= generation(plan, self.model, self.inputs)
            self._enter("gradients")
            self.fields |= backward(plan, self.subject)
        return self.record()

    def record(self) -> Record:
        """What is known by now."""
        times = [*self.began.values(), cpu_s()]
        stages = {stage: round(b - a, 2) for stage, (a, b) in zip(self.began, pairwise(times), strict=True)}
        known = {**self.fields, "stage_cpu_s": stages, "cpu_s": round(times[-1] - times[0], 2)}
        return Record(self.case.model, self.case.head, self.case.ranks, self.outcome, **known)

    def _enter(self, stage: str) -> None:
        known = self.record()
        self.began[stage] = cpu_s()
        self.announce(stage, known)

    def _guarded(self, stage: str, step: Callable[[], Any]) -> Any:
        self._enter(stage)
        try:
            return step()
        except AxisplitError as error:
            self._fail(stage, "refused", one_line(error), place_of(error))
        except check.DifferentOutputs as error:
            self._fail(stage, "different", str(error))
        except Exception as error:
            self._fail(stage, "error", one_line(error), place_of(error))
        return None

    def _fail(self, stage: str, outcome: Outcome, reason: str, where: str = "") -> None:
        if self.outcome == "equal":
            self.outcome = outcome
            self.fields |= {"stage": stage, "reason": reason, "where": where}

    def _plan(self) -> axisplit.Plan:
        found = self.subject.captured
        plan = make_plan(self.model, self.inputs, self.case.ranks, name=self.case.model, captured=found)
        self.fields |= plan_figures(plan)
        return plan

    def _verify(self, plan: axisplit.Plan) -> None:
        verdict = verify_plan(self.model, self.inputs, plan, self.subject.captured)
        found = {name: getattr(verdict, name) for name in ("max_error", "bound", "exact_error", "control_caught")}
        self.fields |= found
        if verdict.mismatches:
            self._fail("verify", "different", f"{len(verdict.mismatches)} mismatches, first: {verdict.mismatches[0]}")
        elif verdict.equal is not True:
            errors = f"error {verdict.max_error:.2g}, bound {verdict.bound:.2g}, in float64 {verdict.exact_error:.2g}"
            self._fail("verify", "different", errors)
        elif verdict.could_not:
            self._fail("verify", "refused", f"control not caught: {unnoticed(verdict)}")

    def _check(self, plan: axisplit.Plan) -> None:
        error = check.forward_error(plan, self.model, self.inputs)
        self.fields["independent_error"] = error
        if not error <= check.TOLERANCE:
            self._fail("check", "different", f"error {error:.2g} of an output's largest value, in float64")


def plan_figures(plan: axisplit.Plan) -> dict[str, Any]:
    """What a record says of a plan."""
    first = [c for c in plan.collectives if c.phase == plan.collectives[0].phase]
    return {
        "total_bytes": plan.total_bytes,
        "split_fraction": round(plan.split_fraction, 4),
        "collectives": sum(c.count for c in first),
        "comm_bytes_per_rank": plan.comm_bytes_per_rank,
        "lower_bound_bytes": plan.lower_bound_bytes,
        "optimal": plan.optimal,
        "tiers": dict(Counter(plan.tiers.values())),
        "captured_fraction": round(plan.captured_fraction, 4),
        "assumed": len(plan.assumed),
        "kept_whole": kept_whole(plan),
        "warnings": plan.warnings,
    }


def kept_whole(plan: axisplit.Plan, least: float = 0.01) -> tuple[str, ...]:
    """Why parameters of a hundredth of the bytes and more are whole, the largest share first."""
    shares: dict[str, float] = defaultdict(float)
    first: dict[str, str] = {}
    for parameter in plan.parameters:
        if parameter.kind == "parameter" and parameter.held != "split" and plan.total_bytes:
            shares[parameter.reason] += parameter.bytes / plan.total_bytes
            first.setdefault(parameter.reason, f"{parameter.name} {list(parameter.shape)}")
    large = sorted((reason for reason in shares if shares[reason] >= least), key=lambda reason: -shares[reason])
    return tuple(f"{shares[reason]:.1%} {first[reason]}: {reason}" for reason in large)


def unnoticed(verdict: Any) -> str:
    """The collectives that could be left out without anything that is compared moving enough."""
    names = verdict.numbers.unnoticed if verdict.numbers is not None else ()
    noticed = {delivery.collective for delivery in verdict.deliveries if delivery.noticed}
    return ", ".join(name for name in names if name not in noticed)


def generation(plan: axisplit.Plan, model: torch.nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """Whether every rank generates the whole model's tokens; None with a reason if the whole one does not generate."""
    try:
        whole = check.greedy(model, inputs)
    except Exception as error:
        return {"generate_equal": None, "generate_reason": f"the whole model does not: {one_line(error)}"}
    try:
        parts = check.on_ranks(plan, model, lambda part: check.greedy(part, inputs))
    except Exception as error:
        return {"generate_equal": False, "generate_reason": f"{one_line(error)} {place_of(error)}"}
    wrong = [rank for rank, tokens in enumerate(parts) if not torch.equal(tokens, whole)]
    return {"generate_equal": not wrong, "generate_reason": f"other tokens on ranks {wrong}" if wrong else ""}


def backward(plan: axisplit.Plan, subject: Subject) -> dict[str, Any]:
    """Whether every rank's gradients are its shards of the whole model's; None with a reason if that cannot be said."""
    try:
        mode, found = gradients.measured(subject.trained, subject.inputs, plan)
    except gradients.NoGradients as error:
        return {"gradients_reason": one_line(error)}
    except Exception as error:
        return {"gradients_equal": False, "gradients_reason": f"{one_line(error)} {place_of(error)}"}
    fields = {"gradients_mode": mode, "gradients_error": found.max_error, "gradients_bound": found.bound}
    if not found.equal:
        errors = f"error {found.max_error:.2g}, bound {found.bound:.2g}, in float64 {found.exact_error:.2g}"
        return {**fields, "gradients_equal": False, "gradients_reason": f"{found.parameter}: {errors}"}
    if found.control_caught is False:
        return {**fields, "gradients_reason": f"control not caught: {', '.join(found.unnoticed)}"}
    return {**fields, "gradients_equal": True}


def cpu_s() -> float:
    """CPU seconds of this process, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def one_line(error: BaseException, most: int = 400) -> str:
    """The error's type and text in one line; the fields of our own errors too."""
    text = " · ".join(line.strip() for line in str(error).splitlines() if line.strip())
    line = f"{type(error).__name__}: {text}"
    return line if len(line) <= most else line[: most - 1] + "…"


def place_of(error: BaseException) -> str:
    """The innermost lines of axisplit and of other code that an error passed through: `file:line function`."""
    cause = error
    while (cause.__cause__ or cause.__context__) is not None:
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    frames = traceback.extract_tb(error.__traceback__) + traceback.extract_tb(cause.__traceback__)
    ours = [f for f in frames if f.filename.startswith(_PACKAGE)]
    models = [f for f in frames if "/transformers/models/" in f.filename]
    chosen = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in [*ours[-1:], *models[-1:], *frames[-1:]]]
    return " · ".join(dict.fromkeys(chosen))
