"""Children that die, hang, or take too much: a record says so, and the cases after theirs are measured all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.coverage import store
from benchmarks.coverage.__main__ import chosen, keeps
from benchmarks.coverage.record import Case, Record

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
    }
    beside = dict.fromkeys(at_three, ("equal", "", "")) | {"never built": at_three["never built"]}
    wanted = {Case(name, "causal", ranks): beside[name] for name in at_three for ranks in (2, 4)}
    assert ends == wanted | {Case(name, "causal", 3): end for name, end in at_three.items()}
    assert len(found) == len(ends)
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
