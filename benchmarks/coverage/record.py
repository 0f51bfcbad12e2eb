"""What is known about one model, head and number of ranks, as one line of JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

Outcome = Literal["equal", "different", "refused", "error", "timeout", "does not run"]
OUTCOMES: tuple[Outcome, ...] = ("equal", "different", "refused", "error", "timeout", "does not run")
Head = Literal["causal", "base"]
LATER = ("generate", "gradients")  # stages after the outcome, with fields of their own


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
    those that the busiest rank sends in the first phase (a forward, or the prefill). None where it was not reached, or
    could not be compared; the reason beside it says why.

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
    family: str = ""  # see `family`; empty where the model could not be built
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
    lower_bound_bytes: float | None = None
    optimal: bool | None = None
    tiers: dict[str, int] | None = None  # tier -> modules
    captured_fraction: float | None = None
    assumed: int | None = None
    kept_whole: tuple[str, ...] = ()  # reasons why larger parameters are whole, with their share and the first's name
    warnings: tuple[str, ...] = ()
    generate_equal: bool | None = None
    generate_reason: str = ""
    gradients_equal: bool | None = None
    gradients_reason: str = ""
    gradients_mode: str = ""  # train, or eval with why; "planned" where the plan is one made for training
    gradients_error: float | None = None
    gradients_bound: float | None = None
    real_equal: bool | None = None  # on real processes; None for all but a sample
    real_reason: str = ""
    real_error: float | None = None
    real_bound: float | None = None
    stage_cpu_s: dict[str, float] | None = None
    cpu_s: float | None = None
    code: str = ""  # digest of the source that was measured

    @property
    def case(self) -> Case:
        return Case(self.model, self.head, self.ranks)

    def cut_off(self, stage: str, outcome: Outcome, reason: str, where: str) -> Record:
        """What is known when a stage was ended from outside: the outcome stands once that is decided."""
        if stage in LATER:
            missed = {f"{name}_reason": reason for name in LATER[LATER.index(stage) :]}
            return replace(self, **missed)  # type: ignore[arg-type]
        if self.outcome != "equal":
            return self
        return replace(self, outcome=outcome, reason=reason, stage=stage, where=where)

    def to_json(self) -> dict[str, Any]:
        """The fields that say something."""
        standard = {f.name: f.default for f in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != standard[name]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        known = {f.name for f in fields(cls)}
        made = {name: value for name, value in data.items() if name in known}
        lists = {name: tuple(made.get(name, ())) for name in ("kept_whole", "warnings")}
        return cls(**{**made, **lists})
