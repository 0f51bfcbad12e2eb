"""Real ranks: the whole model's outputs beside those of processes, each its part by `parallelize`.

    child of the runner     plan the model, run it whole, measure how far rounding moves each output   -> a parcel file
    ranks of a pool         build the model, parallelize, run with the whole model's choices           -> differences

One pool serves all models of a number of ranks: starting ranks and loading transformers takes longer than most models.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import axisplit
from axisplit.proof.choices import in_terms_of
from axisplit.proof.numbers import Whole, rounding_bounds, run_pinned, run_whole
from axisplit.runtime.pool import RankPool
from benchmarks.coverage.measure import one_line
from benchmarks.coverage.record import Case, Record
from benchmarks.zoo import build

DEADLINE_S = 180.0  # of one model on its ranks; the first also loads transformers


@dataclass(frozen=True)
class Parcel:
    """What a rank needs; it builds the same model itself, as some (parametrized, hooked) cannot be pickled. `bounds`:
    output (or rows that a choice is made from) -> how far rounding moves it.
    """

    case: Case
    plan: axisplit.Plan
    inputs: dict[str, Any]
    whole: Whole
    bounds: dict[str, float]


@dataclass(frozen=True)
class Difference:
    """The output of some rank that comes closest to its own bound."""

    name: str
    error: float
    bound: float

    @property
    def in_bounds(self) -> float:
        return in_terms_of(self.error, self.bound)


def parcel_file(folder: Path, case: Case) -> Path:
    return folder / f"{case.head}-{case.model}-{case.ranks}.pickle"


def pack(case: Case, model: torch.nn.Module, inputs: dict[str, Any], folder: Path) -> None:
    """Write a case's parcel. Raises: what planning raises."""
    plan = axisplit.plan(model, inputs, ranks=case.ranks, name=case.model)
    whole = run_whole(model, inputs)
    bounds = rounding_bounds(model, inputs, whole, ())
    file = parcel_file(folder, case)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as out:
        pickle.dump(Parcel(case, plan, inputs, whole, bounds), out)


def compare_rank(rank: int, world_size: int, file: Path) -> Difference:
    """On a rank: this rank's part beside the whole model."""
    parcel: Parcel = pickle.loads(file.read_bytes())
    part = axisplit.parallelize(build(parcel.case.model, parcel.case.head)[0], parcel.plan)
    errors = parcel.whole.differences(run_pinned(part, parcel.inputs, (), parcel.whole.recorded))
    found = [Difference(name, error, parcel.bounds[name]) for name, error in errors.items()]
    return max(found, key=lambda each: (each.in_bounds, each.error))


def compared(record: Record, pool: RankPool, file: Path) -> Record:
    """The record with what its parcel gave on real ranks."""
    try:
        found: list[Difference] = pool.run(compare_rank, file)
    except Exception as error:
        return replace(record, real_equal=False, real_reason=one_line(error.__cause__ or error))  # a rank's own
    worst = max(found, key=lambda each: (each.in_bounds, each.error))
    equal = worst.error <= worst.bound
    return replace(
        record,
        real_equal=equal,
        real_error=worst.error,
        real_bound=worst.bound,
        real_reason="" if equal else f"{worst.name}: error {worst.error:.2g}, bound {worst.bound:.2g}",
    )


Pack = Callable[[Sequence[Case]], Iterator[Record]]
"""Writes a parcel for each case, and tells a record for each: equal if it is there, else why it is not."""


def on_real_ranks(records: Sequence[Record], pack_all: Pack, folder: Path) -> Iterator[Record]:
    """The records with what their cases gave on real ranks, as they are finished."""
    for ranks in sorted({record.ranks for record in records}):
        known = {record.case: record for record in records if record.ranks == ranks}
        with RankPool(ranks, deadline_s=DEADLINE_S) as pool:
            for packed in pack_all(list(known)):
                record, file = known[packed.case], parcel_file(folder, packed.case)
                if packed.outcome == "equal":
                    yield compared(record, pool, file)
                    file.unlink()
                else:
                    yield replace(record, real_equal=False, real_reason=f"not planned again: {packed.reason}")
