"""Run every transformers architecture, tiny and random, through plan and verify, and write what came of it.

python -m benchmarks.coverage [--ranks 2,3,4] [--heads causal,base] [--only PATTERN] [--sample N] [--jobs N] ...
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from benchmarks.coverage import hand, machine, report, sample, store
from benchmarks.coverage.real import on_real_ranks
from benchmarks.coverage.record import OUTCOMES, Case, Record
from benchmarks.coverage.workers import Limits, run_cases

ROOT = Path(__file__).parents[2]
WALL_FACTOR = 3.0  # of the CPU time: cores may be shared with others


def main() -> int:
    options = parse(sys.argv[1:])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.nice(options.nice)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that children are ended, too
    records = run(options)
    about = {**machine.about(), "asked for": asked(options)}
    if options.out is not None:
        report.write(options.out, about, records, hand.load())
    if options.json:
        sys.stdout.write(report.data(about, records, hand.load()))
    return 0


def run(options: argparse.Namespace) -> list[Record]:
    """Every case that was asked for, then a sample of them on real ranks; all goes to the work file as it comes."""
    from benchmarks.coverage import zoo_work
    from benchmarks.zoo import model_types

    share = None if options.sample is None else -(-options.sample // len(options.heads))
    groups = [
        [Case(name, head, ranks) for ranks in options.ranks]
        for head in options.heads
        for name in chosen(model_types(head), options.only, share)
    ]
    if not options.resume:
        options.work.unlink(missing_ok=True)
    code = machine.code_digest(ROOT)
    done = {case: r for case, r in store.load(options.work).items() if keeps(r, code, options.any_code, options.again)}
    left = [[case for case in group if case not in done] for group in groups]
    limits = Limits(options.timeout, WALL_FACTOR * options.timeout, options.memory_gib, options.later_timeout)
    logs, files = options.work.parent / "logs", options.work.parent / "parcels"
    if any(left) or options.real:
        zoo_work.warm()

    def take(found: Iterator[Record], progress: Progress) -> None:
        for record in found:
            done[record.case] = replace(record, code=code)
            store.append(options.work, done[record.case])
            progress.show(record)

    progress = Progress(sum(map(len, groups)), [done[c] for group in groups for c in group if c in done])
    take(run_cases(left, zoo_work.measure_models, limits, options.jobs, logs), progress)
    records = [done[case] for group in groups for case in group]

    def pack_all(cases: Sequence[Case]) -> Iterator[Record]:
        work = partial(zoo_work.pack_models, folder=files)
        return run_cases([[case] for case in cases], work, limits, options.jobs, logs)

    wanted = [done[case] for case in sample.stratified(records, options.real)]
    missing = [record for record in wanted if record.real_equal is None]
    take(on_real_ranks(missing, pack_all, files), Progress(len(wanted), []))
    return [done[case] for group in groups for case in group]


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="axisplit bench coverage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--ranks", type=numbers, default=(2, 3, 4), metavar="N,N", help="how many ranks; 2,3,4")
    add("--heads", type=heads, default=("causal", "base"), metavar="HEAD,HEAD", help="causal,base")
    add("--only", default="*", metavar="PATTERN,…", help="model types that match")
    add("--sample", type=int, metavar="N", help="so many model types in all, always the same")
    add("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="models at a time; one for each core")
    add("--real", type=int, default=60, metavar="N", help="so many cases also on real ranks, of every kind; 60")
    add("--timeout", type=float, default=300.0, metavar="S", help="CPU seconds for a case; 300")
    add("--later-timeout", type=float, default=100.0, metavar="S", help="to generate, and for gradients; 100 each")
    add("--memory-gib", type=float, default=8.0, metavar="GIB", help="memory of a case; 8")
    add("--resume", action=argparse.BooleanOptionalAction, default=True, help="keep what the work file has")
    add("--any-code", action="store_true", help="of the work file keep also what another state of the source gave")
    add("--again", type=words, default=(), metavar="OUTCOME,…", help="measure again what ended so: refused,timeout")
    add("--work", type=Path, default=ROOT / "build" / "coverage.jsonl", metavar="FILE", help="the work file")
    add("--out", type=Path, metavar="DIR", help="write coverage.md and coverage.json there")
    add("--json", action="store_true", help="print what coverage.json holds")
    add("--nice", type=int, default=10, metavar="N", help="how much to yield to other processes; 10")
    return parser.parse_args(arguments)


def asked(options: argparse.Namespace) -> str:
    """The choice of cases and their limits, for the page."""
    some = "" if options.sample is None else f", a sample of {options.sample}"
    ranks = ", ".join(map(str, options.ranks))
    return (
        f"{' and '.join(options.heads)} heads at {ranks} ranks, model types {options.only}{some}; at most "
        f"{options.timeout:g} s of CPU and {options.memory_gib:g} GiB for each"
    )


def keeps(record: Record, code: str, any_code: bool, again: tuple[str, ...]) -> bool:
    """Whether a resumed run takes a record as it is."""
    return (any_code or record.code == code) and record.outcome not in again


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def heads(text: str) -> tuple[str, ...]:
    found = words(text)
    if not set(found) <= {"causal", "base"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not causal, base or causal,base")
    return found


def chosen(names: list[str], pattern: str, count: int | None) -> list[str]:
    """The names that match, or a sample of them that stays the same as long as their names do."""
    matching = [name for name in names if any(fnmatchcase(name, part) for part in pattern.split(","))]
    if count is None:
        return matching
    return sorted(sorted(matching, key=sample.order)[:count])


class Progress:
    """A line for each finished case: what came of it, counts, time left."""

    def __init__(self, total: int, done: list[Record]) -> None:
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


if __name__ == "__main__":
    raise SystemExit(main())
