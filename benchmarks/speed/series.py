"""Numbers measured in turns: one for each round, so that what disturbs a machine disturbs all alike."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["ratio", "rotated", "spread"]

T = TypeVar("T")


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times as fast as `theirs`: the median of the rounds' ratios of times."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def rotated(contenders: list[T], number: int) -> list[T]:
    """The order of a round: nobody always runs behind the same other."""
    first = number % len(contenders)
    return contenders[first:] + contenders[:first]


def spread(samples: Sequence[float], scale: float, unit: str) -> str:
    """`median (least to most)`, for a table."""
    scaled = sorted(scale * sample for sample in samples)
    digits = 1 if scaled[0] >= 10 else 2
    return f"{statistics.median(scaled):,.{digits}f} ({scaled[0]:,.{digits}f} to {scaled[-1]:,.{digits}f}) {unit}"
