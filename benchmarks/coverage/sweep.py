"""Every case that was asked for, then a sample of them on real ranks; all goes to the work file as it comes."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from benchmarks.coverage import machine, sample, store, zoo_work
from benchmarks.coverage.real import on_real_ranks
from benchmarks.coverage.record import OUTCOMES, Case, Record
from benchmarks.coverage.workers import Limits, Work, run_cases
from benchmarks.zoo import model_types

ROOT = Path(__file__).parents[2]
WALL_FACTOR = 3.0  # of the CPU time: cores may be shared with others


class Sweep:
    """The cases of a run, and what is known of them."""

    def __init__(self, options: Namespace) -> None:
        self._options, self._code = options, machine.code_digest(ROOT)
        share = None if options.sample is None else -(-options.sample // len(options.heads))
        self._groups = [
            [Case(name, head, ranks) for ranks in options.ranks]
            for head in options.heads
            for name in chosen(model_types(head), options.only, share)
        ]
        if not options.resume:
            options.work.unlink(missing_ok=True)
        known = store.load(options.work).items()
        self._done = {c: r for c, r in known if keeps(r, self._code, options.any_code, options.again)}

    @property
    def records(self) -> list[Record]:
        """Of the cases that were asked for, as far as they are measured."""
        return [self._done[case] for group in self._groups for case in group if case in self._done]

    def measure(self) -> None:
        """What the work file does not have."""
        left = [[case for case in group if case not in self._done] for group in self._groups]
        if any(left):
            zoo_work.warm()
        self._take(self._run(left, zoo_work.measure_models), sum(map(len, self._groups)), self.records)

    def run_on_real_ranks(self) -> None:
        """A sample of every kind, where the work file does not have it."""
        sampled = [self._done[case] for case in sample.stratified(self.records, self._options.real)]
        left = [record for record in sampled if record.real_equal is None]
        if left:
            zoo_work.warm()
        files = self._options.work.parent / "parcels"

        def pack(cases: Sequence[Case]) -> Iterator[Record]:
            return self._run([[case] for case in cases], partial(zoo_work.pack_models, folder=files))

        finished = [record for record in sampled if record.real_equal is not None]
        self._take(on_real_ranks(left, pack, files), len(sampled), finished)

    def _run(self, groups: Sequence[Sequence[Case]], work: Work) -> Iterator[Record]:
        asked = self._options
        limits = Limits(asked.timeout, WALL_FACTOR * asked.timeout, asked.memory_gib, asked.later_timeout)
        return run_cases(groups, work, limits, asked.jobs, asked.work.parent / "logs")

    def _take(self, found: Iterator[Record], total: int, finished: Sequence[Record]) -> None:
        progress = Progress(total, finished)
        for record in found:
            self._done[record.case] = replace(record, code=record.code or self._code)
            store.append(self._options.work, self._done[record.case])
            progress.show(record)


def keeps(record: Record, code: str, any_code: bool, again: tuple[str, ...]) -> bool:
    """Whether a resumed run takes a record as it is."""
    return (any_code or record.code == code) and record.outcome not in again


def chosen(names: list[str], pattern: str, count: int | None) -> list[str]:
    """The names that match, or a sample of them that stays the same as long as their names do."""
    matching = [name for name in names if any(fnmatchcase(name, part) for part in pattern.split(","))]
    if count is None:
        return matching
    return sorted(sorted(matching, key=sample.order)[:count])


class Progress:
    """A line for each finished case: what came of it, counts, time left."""

    def __init__(self, total: int, done: Sequence[Record]) -> None:
        self._total, self._counts = total, Counter(r.outcome for r in done)
        self._begin, self._finished = time.monotonic(), 0

    def show(self, record: Record) -> None:
        self._counts[record.outcome] += 1
        self._finished += 1
        done = self._counts.total()
        pace = (time.monotonic() - self._begin) / self._finished
        counts = ", ".join(f"{self._counts[o]} {o}" for o in OUTCOMES if self._counts[o])
        print(
            f"{record.model} {record.head} {record.ranks}: {record.outcome} {record.reason[:120]}\n"
            f"  {done}/{self._total}: {counts} · {pace * (self._total - done) / 60:.0f} min left",
            file=sys.stderr,
            flush=True,
        )
