"""Samples that stay the same as long as what they are drawn from does: by the digest of a name, in strata."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable

from benchmarks.coverage.family import FAMILIES
from benchmarks.coverage.record import Case, Head, Record


def order(name: str) -> bytes:
    """An order that has nothing to do with the alphabet."""
    return hashlib.sha256(name.encode()).digest()


def stratified(records: Iterable[Record], count: int) -> list[Case]:
    """So many of the cases that have numbers, a model once: families and heads take turns, and numbers of ranks."""
    strata: dict[tuple[int, Head], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.outcome in ("equal", "different") and record.family:
            strata[FAMILIES.index(record.family), record.head][record.model].append(record.ranks)
    waiting = [
        (head, ranks, sorted(ranks, key=lambda name: order(f"{name} {head}")))
        for (_, head), ranks in sorted(strata.items())
    ]
    chosen: list[Case] = []
    while len(chosen) < count and any(names for *_, names in waiting):
        for head, ranks, names in waiting:
            if names and len(chosen) < count:
                name = names.pop(0)
                measured = sorted(ranks[name])
                chosen.append(Case(name, head, measured[len(chosen) % len(measured)]))
    return chosen
