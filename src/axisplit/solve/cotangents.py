"""What was chosen for the backward: in which state the cotangents of whole values are."""

from __future__ import annotations

from dataclasses import dataclass

VARIED = "V"  # a whole value with a partial cotangent


@dataclass(frozen=True)
class Cotangents:
    """Classes (keys of `Ties`) by what was chosen for them; see `lower.cotangents`."""

    nodes: frozenset[str]  # run whole, with partial cotangents
    leaves: frozenset[str]  # parameters whose gradient is summed over ranks
    carrying: frozenset[str]  # values that have a cotangent
    live: frozenset[str]  # nodes that pass one on
    bytes: float  # of one backward pass, for the busiest rank
