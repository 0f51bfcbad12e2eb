"""Children that die, hang, or take too much: a record says so, and the cases after theirs are measured all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from benchmarks.coverage import store
from benchmarks.coverage.record import Case, Record
from benchmarks.coverage.sample import stratified
from benchmarks.coverage.sweep import chosen, keeps

ROOT = Path(__file__).parents[2]


def test_every_way_to_end(tmp_path):
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("fake_work.py")), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = [Record.from_json(json.loads(line)) for line in ran.stdout.splitlines()]
    ends = {record.case: (record.outcome, record.stage, record.reason) for record in found}
    at_three = {
        "works": ("equal", "", ""),
        "never built": ("does not run", "build", "the process died in build: SIGSEGV"),
        "burns time": ("timeout", "plan", "0.5 s of CPU passed in plan"),
        "waits for nothing": ("timeout", "plan", "1.5 s passed in plan"),
        "dies": ("error", "plan", "the process died in plan: SIGSEGV"),
        "raises": ("error", "plan", "the process died in plan: exit status 1: KeyError: 'layers'"),
        "eats memory": ("error", "plan", "the process died in plan: exit status 1: MemoryError"),
        "dies late": ("equal", "", ""),
    }
    beside = dict.fromkeys(at_three, ("equal", "", "")) | {"never built": at_three["never built"]}
    wanted = {Case(name, "causal", ranks): beside[name] for name in at_three for ranks in (2, 4)}
    assert ends == wanted | {Case(name, "causal", 3): end for name, end in at_three.items()}
    assert len(found) == len(ends)
    late = next(record for record in found if (record.model, record.ranks) == ("dies late", 3))
    assert (late.collectives, late.generate_equal, late.gradients_equal) == (7, None, None)
    assert late.generate_reason == late.gradients_reason == "the process died in generate: SIGSEGV"
    where = {record.model: record.where for record in found if record.ranks == 3}
    assert "fake_work.py" in where["burns time"]
    assert "misbehave" in where["burns time"]


def test_a_run_goes_on_where_it_stopped(tmp_path):
    work = tmp_path / "work.jsonl"
    records = [Record("a", "causal", 2, "error", "reason"), Record("b", "base", 3, "equal", tiers={"native": 2})]
    records.append(Record("a", "causal", 2, "equal", warnings=("one",)))
    for record in records:
        store.append(work, record)
    with work.open("a") as file:
        file.write('{"model": "c", "tiers": {"native": 1}')  # stopped while writing
    assert store.load(work) == {records[1].case: records[1], records[2].case: records[2]}
    store.append(work, Record("d", "causal", 2, "equal"))
    assert Case("d", "causal", 2) in store.load(work)


def test_what_was_known_is_kept():
    known = Record("a", "causal", 2, "equal", split_fraction=0.9)
    ended = known.cut_off("verify", "timeout", "late", "here")
    assert (ended.outcome, ended.reason, ended.stage, ended.split_fraction) == ("timeout", "late", "verify", 0.9)
    failed = Record("a", "causal", 2, "different", "other", stage="verify")
    assert failed.cut_off("check", "timeout", "late", "here") == failed, "the first failure stands"
    assert known.cut_off("gradients", "timeout", "late", "") == replace(known, gradients_reason="late")


def test_samples_have_every_kind():
    families = ["text"] * 50 + ["vision"] * 5 + ["audio"]
    records = [
        Record(f"model{i}", "base", ranks, "equal", family=name)
        for i, name in enumerate(families)
        for ranks in (2, 3, 4)
    ]
    unmeasured = Record("model99", "base", 2, "refused", family="other")
    found = stratified([*records, unmeasured], 9)
    kinds = Counter(families[int(case.model.removeprefix("model"))] for case in found)
    assert kinds == {"text": 4, "vision": 4, "audio": 1}
    assert Counter(case.ranks for case in found) == {2: 3, 3: 3, 4: 3}
    assert found == stratified(records[::-1], 9)
    assert len(stratified(records, 100)) == 56


def test_what_is_measured_again():
    record = Record("a", "causal", 2, "timeout", code="1")
    assert keeps(record, "1", False, ())
    assert not keeps(record, "2", False, ())
    assert keeps(record, "2", True, ("error",))
    assert not keeps(record, "1", True, ("error", "timeout"))


def test_a_sample_is_always_the_same():
    names = [f"model{i}" for i in range(100)]
    sample = chosen(names, "*", 5)
    assert chosen(names[::-1], "*", 5) == sample == sorted(sample)
    assert len(sample) == 5
    assert chosen(names, "model9,model4?", None) == ["model9", *[f"model4{digit}" for digit in range(10)]]
