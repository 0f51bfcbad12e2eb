"""A case on real ranks: alike, seen to differ where its plan lacks a collective, and said where a rank fails."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from benchmarks.coverage.real import compared, on_real_ranks, pack, parcel_file
from benchmarks.coverage.record import Case, Record
from benchmarks.zoo import build

CASE = Case("gpt2", "causal", 2)


@pytest.mark.slow
def test_real_ranks_beside_the_whole_model(two_ranks, tmp_path):
    model, inputs = build(CASE.model, CASE.head)
    pack(CASE, model, inputs, tmp_path)
    file, record = parcel_file(tmp_path, CASE), Record(CASE.model, CASE.head, CASE.ranks, "equal", collectives=6)
    found = compared(record, two_ranks, file)
    assert (found.real_equal, found.real_reason, found.collectives) == (True, "", 6)
    assert 0 < found.real_error <= found.real_bound

    parcel = pickle.loads(file.read_bytes())
    place = next(p for p in parcel.plan.places if p.steps[0].kind == "all_reduce")
    places = tuple(p for p in parcel.plan.places if p is not place)
    file.write_bytes(pickle.dumps(replace(parcel, plan=replace(parcel.plan, places=places))))
    found = compared(record, two_ranks, file)
    assert found.real_equal is False
    assert found.real_error > 10 * found.real_bound

    file.write_bytes(pickle.dumps(replace(parcel, plan=replace(parcel.plan, ranks=3))))
    found = compared(record, two_ranks, file)
    assert (found.real_equal, found.real_error) == (False, None)
    assert found.real_reason.startswith("PlanMismatchError: the plan is for another number of ranks")


def test_a_case_that_cannot_be_packed_is_not_alike(tmp_path):
    record = Record("a", "base", 2, "equal")
    (found,) = on_real_ranks(
        [record], lambda cases: (replace(record, outcome="timeout", reason="late") for _ in cases), tmp_path
    )
    assert (found.real_equal, found.real_reason) == (False, "not planned again: late")
