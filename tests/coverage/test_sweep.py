"""What a run asks for, what it keeps, and that nothing is measured twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.coverage import store, sweep
from benchmarks.coverage.__main__ import parse
from benchmarks.coverage.record import Case, Record
from benchmarks.coverage.sweep import Sweep


@pytest.fixture
def ran(monkeypatch):
    """The cases that were measured, and those that ran on real ranks; nothing is."""
    measured: list[Case] = []
    real: list[Case] = []

    def run_cases(groups, work, limits, jobs, logs):
        for case in (case for group in groups for case in group):
            measured.append(case)
            yield Record(case.model, case.head, case.ranks, "equal", family="text", cpu_s=1.0)

    def on_real_ranks(records, pack, folder):
        for record in records:
            real.append(record.case)
            yield replace(record, real_equal=True)

    monkeypatch.setattr(sweep, "run_cases", run_cases)
    monkeypatch.setattr(sweep, "on_real_ranks", on_real_ranks)
    monkeypatch.setattr(sweep, "model_types", lambda head: ["bart", "bert", "gpt2"])
    monkeypatch.setattr(sweep.zoo_work, "warm", lambda: None)
    monkeypatch.setattr(sweep.machine, "code_digest", lambda root: "now")
    return measured, real


def run(tmp_path, *arguments: str) -> list[Record]:
    made = Sweep(parse(["--work", str(tmp_path / "work.jsonl"), *arguments]))
    made.measure()
    made.run_on_real_ranks()
    return made.records


def test_a_run_measures_once(ran, tmp_path):
    measured, real = ran
    first = run(tmp_path, "--only", "b*", "--ranks", "2,4", "--heads", "base", "--real", "1")
    assert [record.case for record in first] == [Case(n, "base", r) for n in ("bart", "bert") for r in (2, 4)]
    assert measured == [record.case for record in first]
    assert [record.case for record in first if record.real_equal] == real
    assert len(real) == 1
    assert {record.code for record in first} == {"now"}

    assert run(tmp_path, "--only", "b*", "--ranks", "2,4", "--heads", "base", "--real", "1") == first
    more = run(tmp_path, "--ranks", "2,4", "--heads", "base", "--real", "2")
    assert measured[4:] == [Case("gpt2", "base", 2), Case("gpt2", "base", 4)]
    assert len(real) == 2
    assert sum(record.real_equal is True for record in more) == 2


def test_what_another_state_of_the_source_gave_keeps_its_name(ran, tmp_path):
    old = Record("bert", "base", 2, "equal", family="text", code="before")
    store.append(tmp_path / "work.jsonl", old)
    wanted = ("--only", "bert", "--ranks", "2", "--heads", "base", "--real", "1")
    assert run(tmp_path, *wanted, "--any-code") == [replace(old, real_equal=True)]
    assert [record.code for record in run(tmp_path, *wanted)] == ["now"]
