"""verify(model, inputs, plan): law, program, numbers and control, in one verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from axisplit.capture.graph import Graph
from axisplit.capture.randomness import random_op
from axisplit.capture.trace import Captured, Inputs, capture, path_on_values
from axisplit.errors import InputError, ProofError
from axisplit.lower.decision import Decision
from axisplit.lower.lowering import Lowered, plan_parameters, prove_programs
from axisplit.lower.planning import decision_of, first_phase, sizes_of
from axisplit.lower.traffic import busiest_bytes, planned_collectives
from axisplit.lower.unfold import refold
from axisplit.proof.delivered import Delivery, compare_deliveries
from axisplit.proof.gradients import Gradients, measure_gradients
from axisplit.proof.numbers import Numbers, measure
from axisplit.proof.program import Mismatch
from axisplit.solve.plan import ParameterPlan, Plan


@dataclass(frozen=True)
class Proof:
    """How many ops of how many are instances of a stated rule and match on every rank; what is assumed."""

    ops: int
    proved: int
    assumed: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """`equal` is None where no numbers were run (a config alone). Errors are absolute, in the model's own dtype; None
    where a mismatch came first.
    """

    equal: bool | None
    max_error: float | None
    bound: float | None
    exact_error: float | None
    proof: Proof
    control_caught: bool | None
    mismatches: tuple[Mismatch, ...] = ()
    numbers: Numbers | None = None
    processes_error: float | None = None  # largest difference on real processes, where they were asked for
    gradients: Gradients | None = None  # where they were asked for and could be had
    no_gradients: str = ""  # why they could not, where they were asked for
    deliveries: tuple[Delivery, ...] = ()  # of collectives that no output notices

    @property
    def could_not(self) -> bool:
        """The control was not caught (a missing collective would go unseen, so equality says nothing), in forward or
        backward, or gradients were asked for and could not be had.
        """
        backward = self.gradients is not None and self.gradients.control_caught is False
        return self.control_caught is False or backward or bool(self.no_gradients)

    def to_json(self) -> dict[str, Any]:
        return {
            "equal": self.equal,
            "max_error": self.max_error,
            "bound": self.bound,
            "exact_error": self.exact_error,
            "proof": {"ops": self.proof.ops, "proved": self.proof.proved, "assumed": list(self.proof.assumed)},
            "control_caught": self.control_caught,
            "deliveries": [asdict(delivery) for delivery in self.deliveries],
            "choices": None if self.numbers is None else self.numbers.choices.to_json(),
            "gradients": self.gradients_json(),
            "mismatches": [str(m) for m in self.mismatches],
        }

    def gradients_json(self) -> dict[str, Any] | None:
        if self.no_gradients:
            return {"equal": None, "max_error": None, "bound": None, "reason": self.no_gradients}
        return None if self.gradients is None else self.gradients.to_json()

    def __str__(self) -> str:
        from axisplit.report.table import render_verdict

        return render_verdict(self)

    def _repr_html_(self) -> str:
        from axisplit.report.page.notebook import verdict_html

        return verdict_html(self)


def verify_plan(model: torch.nn.Module, inputs: Inputs, plan: Plan, captured: Captured | None = None) -> Verdict:
    """Prove a plan on a model.

    Args:
        captured: the model's trace on these inputs, where the caller has it.
    Raises: PlanMismatchError if the plan is not for this model; InputError if the model draws random numbers;
        ProofError if the whole model itself does not run.
    """
    captured = captured or capture(model, inputs)
    if plan.on_values:
        captured = path_on_values(model, inputs, captured)[0] or captured
    decision = decision_of(plan, captured)
    check_draws_nothing(captured.graph, plan)
    lowered = refold(plan, captured.folds)
    mismatches = (*misheld(decision, lowered), *prove_programs(decision, lowered, captured, model, inputs))
    laws = decision.search.derived.laws
    stated = sum(not law.assumption for law in laws)
    proof = Proof(len(laws), 0 if mismatches else stated, plan.assumed)
    if mismatches:  # such a program need not even run
        return Verdict(False, None, None, None, proof, None, mismatches)
    if any(p.is_meta for p in model.parameters()):
        return Verdict(None, None, None, None, proof, None)
    numbers = measure(model, inputs, plan, decision.graph.phases)
    planned, observed = plan.comm_bytes_per_rank, max(numbers.comm_bytes)
    if plan.sizes != sizes_of(decision.graph):
        planned = busiest_bytes(planned_collectives(decision), first_phase(decision.graph))
    if decision.graph.phases == ("forward",) and abs(planned - observed) > 1e-6 * max(planned, 1.0):
        raise ProofError("the bytes that were sent are not those planned", got=f"{observed}", needed=f"{planned}")
    deliveries = compare_deliveries(model, inputs, plan, decision.graph.phases, numbers.unnoticed)
    equal = numbers.equal and all(delivery.equal for delivery in deliveries)
    told = {delivery.collective for delivery in deliveries if delivery.conclusive}
    caught = told.issuperset(numbers.unnoticed) if numbers.control_errors else None
    return Verdict(
        equal,
        numbers.max_error,
        numbers.bound,
        numbers.exact_error,
        proof,
        caught,
        numbers=numbers,
        deliveries=deliveries,
    )


def with_gradients(verdict: Verdict, model: torch.nn.Module, inputs: Inputs, plan: Plan) -> Verdict:
    """The verdict with the gradients' numbers; `equal` then means both.

    Raises: InputError if the model is not deterministic or has no gradients.
    """
    if verdict.equal is None or verdict.mismatches:
        return verdict
    if plan.no_backward:
        return replace(verdict, no_gradients=plan.no_backward)
    found = measure_gradients(model, inputs, plan)
    proof = verdict.proof
    if plan.cotangents is None and plan.ranks > 1:
        unmatched = "where cotangents are converted: the plan is from before that was kept in it"
        proof = replace(proof, assumed=(*proof.assumed, unmatched))
    return replace(verdict, equal=verdict.equal and found.equal, gradients=found, proof=proof)


def check_draws_nothing(graph: Graph, plan: Plan) -> None:
    """Raise InputError where a comparison would say nothing: the model draws random numbers that its outputs show."""
    random = random_op(graph)
    if random is not None and plan.ranks > 1:
        raise InputError(
            "runs cannot be compared: the model draws random numbers",
            where=random.module or plan.model,
            got=f"{random.name} in {random.phase}, whose numbers differ from run to run and from rank to rank",
            needed="outputs that depend on nothing but the inputs",
            do="set dropout to 0 or call model.eval(), or pass what is drawn as an input",
        )


def misheld(decision: Decision, plan: Lowered) -> list[Mismatch]:
    """Parameters held otherwise than the program was matched with, or with gradients treated otherwise: a trace sees
    shapes, not which indices they are, and nothing of what happens to gradients.
    """
    found = []
    held = {p.name: p for p in plan.parameters}
    for wanted in plan_parameters(decision)[0]:
        given = held.get(wanted.name)
        if given is None or (given.held, given.ranges) != (wanted.held, wanted.ranges):
            reason = f"{wanted.name} is held {_in_words(given)}, needed {_in_words(wanted)}"
            found.append(Mismatch(0, None, reason))
        elif decision.cotangents is not None and given.gradient != wanted.gradient:
            reason = f"the gradient of {wanted.name} is {given.gradient}, needed {wanted.gradient}"
            found.append(Mismatch(0, None, reason))
    return found


def _in_words(plan: ParameterPlan | None) -> str:
    if plan is None:
        return "nowhere"
    return f"as {list(plan.ranges)}" if plan.held == "split" else plan.held
