"""What transformers' own hand-written plans do on the same models, measured apart, and ours beside them.

The file has the payload: bytes of the tensors that one rank hands to collectives, S of an all-reduce and S / n of an
all-gather whose full tensor is S. What moves is 2 (n - 1) / n S and (n - 1) / n S (as everywhere in axisplit). At 2
ranks both are the payload. For more ranks the kinds are not in the file, but the plans do the same at 2 and n ranks, so
the sums R of the reduced and G of the gathered bytes follow from both payloads:

    P2 = R + G / 2,  Pn = R + G / n   =>   G = 2 n / (n - 2) (P2 - Pn),  R = P2 - G / 2

Example: P2 = 24576, P4 = 18432 give G = 24576, R = 12288, and 1.5 R + 0.75 G = 36864 bytes at 4 ranks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.coverage.record import Case, Head, Record

FILE = Path(__file__).parents[1] / "zoo" / "hand_plans.json"
EQUAL_SPLIT = 0.002  # of the parameter bytes: the file's shares are rounded to a half of this
Standing = Literal[
    "fewer bytes at an equal split", "no more bytes, more split", "the same", "more bytes, more split",
    "fewer bytes, less split", "worse",
]  # fmt: skip


@dataclass(frozen=True)
class HandPlan:
    """`comm_bytes` is what a rank sends, comparable with `Record.comm_bytes_per_rank`; None where that is not known."""

    outcome: str  # equal, raises, load error, SILENTLY WRONG, no plan
    comm_bytes: float | None = None
    split_fraction: float | None = None
    error: str = ""

    @property
    def tried(self) -> bool:
        return self.outcome != "no plan"


def load(path: Path = FILE) -> tuple[str, dict[Case, HandPlan]]:
    """(how they were measured, the plan of each case that was)."""
    data: dict[str, Any] = json.loads(path.read_text())
    heads: tuple[Head, ...] = ("causal", "base")
    found = {}
    for head in heads:
        for model, by_ranks in data[head].items():
            for text, entry in by_ranks.items():
                ranks = int(text.removeprefix("ranks"))
                moved = comm_bytes(ranks, entry.get("collective_bytes"), by_ranks["ranks2"].get("collective_bytes"))
                found[Case(model, head, ranks)] = HandPlan(
                    entry["outcome"], moved, entry.get("split_fraction"), entry.get("error", "")
                )
    return data["about"], found


def comm_bytes(ranks: int, payload: float | None, at_two: float | None) -> float | None:
    """Bytes a rank sends, by the payload at so many ranks and at two; None if these do not tell.

    >>> comm_bytes(4, 18432, 24576)
    36864.0
    """
    if payload is None or at_two is None:
        return None
    gathered = 0.0 if ranks == 2 else 2 * ranks / (ranks - 2) * (at_two - payload)
    reduced = payload - gathered / ranks
    if gathered < 0 or reduced < 0:  # another plan at two ranks
        return None
    return payload if ranks == 2 else (2 * reduced + gathered) * (ranks - 1) / ranks


def standing(record: Record, plan: HandPlan | None) -> Standing | None:
    """Ours beside a hand plan; None unless both are equal to the whole model and known."""
    if plan is None or plan.outcome != "equal" or record.outcome != "equal":
        return None
    ours, theirs = record.comm_bytes_per_rank, plan.comm_bytes
    if ours is None or theirs is None or record.split_fraction is None or plan.split_fraction is None:
        return None
    more_split, slack = record.split_fraction - plan.split_fraction, 1e-6 * theirs
    fewer, more = ours < theirs - slack, ours > theirs + slack
    if abs(more_split) <= EQUAL_SPLIT:
        return "fewer bytes at an equal split" if fewer else "worse" if more else "the same"
    if more_split > 0:
        return "more bytes, more split" if more else "no more bytes, more split"
    return "fewer bytes, less split" if fewer else "worse"


def may_be_lower(record: Record, plan: HandPlan) -> bool:
    """Whether ours is not below a hand plan though the bound on the optimum is."""
    ours, theirs, bound = record.comm_bytes_per_rank, plan.comm_bytes, record.lower_bound_bytes
    if ours is None or theirs is None or bound is None:
        return False
    return ours >= theirs * (1 - 1e-6) and bound < theirs * (1 - 1e-6) and not record.optimal
