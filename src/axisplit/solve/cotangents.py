"""What was chosen for the backward: in which state the cotangents of whole values are."""

from __future__ import annotations

from dataclasses import dataclass

VARIED = "V"  # a whole value with a partial cotangent


@dataclass(frozen=True)
class Cotangents:
    """Classes (keys of `Ties`) by what was chosen for them; see `lower.cotangents`."""

    nodes: frozenset[str]  # run whole, with partial cotangents
    leaves: frozenset[str]  # parameters whose gradient is summed over ranks
    carrying: frozenset[str]  # of values some of which have a cotangent
    values: frozenset[int]  # that have one; of the others in their classes it does not matter whether they are R or V
    live: frozenset[str]  # nodes that pass one on
    bytes: float  # of one backward pass, for the busiest rank
