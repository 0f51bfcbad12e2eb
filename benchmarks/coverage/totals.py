"""Records counted: for each head and number of ranks, and all together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.coverage.hand import HandPlan, Standing, standing
from benchmarks.coverage.record import OUTCOMES, Case, Outcome, Record

HandPlans = Mapping[Case, HandPlan]
LEAST_SPLIT = 0.9  # of the parameter bytes; below it a model counts as falling short though it is equal


@dataclass(frozen=True)
class Alike:
    """How many of those that could be compared are as the whole model's."""

    alike: int
    of: int

    def __str__(self) -> str:
        return f"{self.alike} of {self.of}" if self.of else ""

    @classmethod
    def count(cls, found: Iterable[bool | None]) -> Alike:
        known = [each for each in found if each is not None]
        return cls(sum(known), len(known))


@dataclass(frozen=True)
class Totals:
    """Of one head and number of ranks. Shares are of the parameter bytes of all models that were planned."""

    head: str
    ranks: int
    outcomes: Mapping[Outcome, int]
    generate: Alike
    gradients: Alike
    real: Alike
    well_split: Alike  # models with most of their bytes split
    split_share: float | None
    captured_share: float | None
    cpu_s: float
    hand_plans: Alike  # that are equal to the whole model, of those that transformers has
    standings: Mapping[Standing, int]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def totals(records: Sequence[Record], hand: HandPlans) -> list[Totals]:
    """One for each head and number of ranks."""
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in sorted(records, key=lambda r: (r.head != "causal", r.ranks)):
        groups.setdefault((record.head, record.ranks), []).append(record)
    return [_of(head, ranks, group, hand) for (head, ranks), group in groups.items()]


def _of(head: str, ranks: int, records: list[Record], hand: HandPlans) -> Totals:
    counts = Counter(record.outcome for record in records)
    split = [record.split_fraction for record in records if record.outcome == "equal"]
    tried = [hand[record.case] for record in records if record.case in hand and hand[record.case].tried]
    standings = Counter(found for r in records if (found := standing(r, hand.get(r.case))) is not None)
    return Totals(
        head,
        ranks,
        {outcome: counts[outcome] for outcome in OUTCOMES},
        Alike.count(record.generate_equal for record in records),
        Alike.count(record.gradients_equal for record in records),
        Alike.count(record.real_equal for record in records),
        Alike.count(None if share is None else share >= LEAST_SPLIT for share in split),
        share_of_bytes(records, "split_fraction"),
        share_of_bytes(records, "captured_fraction"),
        round(sum(record.cpu_s or 0.0 for record in records), 1),
        Alike.count(plan.outcome == "equal" for plan in tried),
        dict(standings),
    )


def share_of_bytes(records: Iterable[Record], field: str) -> float | None:
    """A fraction of each model's parameter bytes as one of all models'; None without a plan."""
    planned = [(record.total_bytes, getattr(record, field)) for record in records if record.total_bytes]
    total = sum(size for size, _ in planned)
    return round(sum(size * (share or 0.0) for size, share in planned) / total, 5) if total else None
