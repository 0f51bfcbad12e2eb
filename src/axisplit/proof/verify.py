"""verify(model, inputs, plan): law, program, numbers and control, in one verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from axisplit.capture.trace import Inputs, capture
from axisplit.errors import ProofError
from axisplit.lower.lowering import prove_programs
from axisplit.lower.planning import decision_of
from axisplit.lower.unfold import refold
from axisplit.proof.numbers import Numbers, measure
from axisplit.proof.program import Mismatch
from axisplit.solve.plan import Plan


@dataclass(frozen=True)
class Proof:
    """How many ops of how many are instances of a stated rule and match on every rank; what is assumed."""

    ops: int
    proved: int
    assumed: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """`equal` is None where no numbers were run (a config alone); errors are absolute, in the model's own dtype."""

    equal: bool | None
    max_error: float | None
    bound: float | None
    exact_error: float | None
    proof: Proof
    control_caught: bool | None
    mismatches: tuple[Mismatch, ...] = ()
    numbers: Numbers | None = None

    @property
    def could_not(self) -> bool:
        """The control was not caught: a missing collective would go unseen, so equality says nothing."""
        return self.control_caught is False

    def to_json(self) -> dict[str, Any]:
        return {
            "equal": self.equal,
            "max_error": self.max_error,
            "bound": self.bound,
            "exact_error": self.exact_error,
            "proof": {"ops": self.proof.ops, "proved": self.proof.proved, "assumed": list(self.proof.assumed)},
            "control_caught": self.control_caught,
            "mismatches": [str(m) for m in self.mismatches],
        }

    def __str__(self) -> str:
        from axisplit.report.table import render_verdict

        return render_verdict(self)


def verify_plan(model: torch.nn.Module, inputs: Inputs, plan: Plan) -> Verdict:
    """Prove a plan on a model.

    Raises: PlanMismatchError if the plan is not for this model; ProofError if the whole model itself does not run.
    """
    captured = capture(model, inputs)
    decision = decision_of(plan, captured)
    mismatches = tuple(prove_programs(decision, refold(plan, captured.folds), captured, model, inputs))
    laws = decision.search.derived.laws
    stated = sum(law.family != "unknown" for law in laws)
    proof = Proof(len(laws), 0 if mismatches else stated, plan.assumed)
    if any(p.is_meta for p in model.parameters()):
        return Verdict(None, None, None, None, proof, None, mismatches)
    numbers = measure(model, inputs, plan, decision.graph.phases)
    planned, observed = plan.comm_bytes_per_rank, max(numbers.comm_bytes)
    if decision.graph.phases == ("forward",) and abs(planned - observed) > 1e-6 * max(planned, 1.0):
        raise ProofError("the bytes that were sent are not those planned", got=f"{observed}", needed=f"{planned}")
    equal = numbers.equal and not mismatches
    return Verdict(
        equal, numbers.max_error, numbers.bound, numbers.exact_error, proof, numbers.control_caught, mismatches, numbers
    )
