"""What is known about one model, head and number of ranks, as one line of JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

Outcome = Literal["equal", "different", "refused", "error", "timeout", "does not run"]
OUTCOMES: tuple[Outcome, ...] = ("equal", "different", "refused", "error", "timeout", "does not run")
Head = Literal["causal", "base"]


@dataclass(frozen=True, order=True)
class Case:
    """One thing to measure."""

    model: str
    head: Head
    ranks: int


@dataclass(frozen=True)
class Record:
    """The result of a case.

    Errors `max_error` and `bound` are absolute, in float32, as `axisplit.verify` gives them; `exact_error` (verify's)
    and `independent_error` (this harness's own) are relative to each output's largest value, in float64. Bytes are
    those that the busiest rank sends in the first phase (a forward, or the prefill). None where it was not reached.

    `outcome`:
        equal         verify says equal, its control was caught, and the independent check agrees
        different     verify or the independent check found a difference
        refused       axisplit raised an error of its own, or could not tell
        error         anything else was raised, or the process died
        timeout       the time limit passed
        does not run  the whole model could not be built or called; nothing was asked of axisplit
    """

    model: str
    head: Head
    ranks: int
    outcome: Outcome
    reason: str = ""  # one line; empty if equal
    stage: str = ""  # where the first failure was: build, plan, verify, check
    where: str = ""  # the innermost line of axisplit, and of the model, that an error passed through
    max_error: float | None = None
    bound: float | None = None
    exact_error: float | None = None
    independent_error: float | None = None
    control_caught: bool | None = None
    total_bytes: int | None = None
    split_fraction: float | None = None
    collectives: int | None = None
    comm_bytes_per_rank: float | None = None
    payload_bytes: float | None = None  # what one rank hands to collectives: the hand plans' measure
    optimal: bool | None = None
    tiers: dict[str, int] | None = None  # tier -> modules
    captured_fraction: float | None = None
    assumed: int | None = None
    kept_whole: tuple[str, ...] = ()  # reasons why larger parameters are whole, with their share and the first's name
    warnings: tuple[str, ...] = ()
    generate_equal: bool | None = None
    generate_reason: str = ""
    gradients_equal: bool | None = None  # not measured yet
    plan_cpu_s: float | None = None
    cpu_s: float | None = None
    code: str = ""  # digest of the source that was measured

    @property
    def case(self) -> Case:
        return Case(self.model, self.head, self.ranks)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        known = {f.name for f in fields(cls)}
        made = {name: value for name, value in data.items() if name in known}
        lists = {name: tuple(made.get(name, ())) for name in ("kept_whole", "warnings")}
        return cls(**{**made, **lists})
