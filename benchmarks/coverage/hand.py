"""What transformers' own hand-written plans do on the same models: data for comparison, measured apart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.coverage.record import Case

FILE = Path(__file__).parents[1] / "zoo" / "hand_plans.json"


@dataclass(frozen=True)
class HandPlan:
    """`payload_bytes` is what one rank hands to collectives, comparable with `Record.payload_bytes`."""

    outcome: str  # equal, raises, load error, SILENTLY WRONG, no plan
    payload_bytes: int | None = None
    split_fraction: float | None = None
    error: str = ""

    @property
    def tried(self) -> bool:
        return self.outcome != "no plan"


def load(path: Path = FILE) -> tuple[str, dict[Case, HandPlan]]:
    """(how they were measured, the plan of each case that was)."""
    data: dict[str, Any] = json.loads(path.read_text())
    found = {
        Case(model, head, int(ranks.removeprefix("ranks"))): HandPlan(
            entry["outcome"], entry.get("collective_bytes"), entry.get("split_fraction"), entry.get("error", "")
        )
        for head in ("causal", "base")
        for model, by_ranks in data[head].items()
        for ranks, entry in by_ranks.items()
    }
    return data["about"], found
