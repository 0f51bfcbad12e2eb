"""Run every transformers architecture, tiny and random, through plan and verify, and write what came of it.

python -m benchmarks.coverage [--ranks 2,3,4] [--heads causal,base] [--only PATTERN] [--sample N] [--jobs N] ...
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from benchmarks.coverage import hand, machine, report

ROOT = Path(__file__).parents[2]


def main() -> int:
    options = parse(sys.argv[1:])
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
    from benchmarks.coverage.sweep import Sweep

    os.nice(options.nice)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that children are ended, too
    sweep = Sweep(options)
    sweep.measure()
    sweep.run_on_real_ranks()
    records = report.in_order(sweep.records)
    about = {**machine.about(), "asked for": asked(options)}
    if options.out is not None:
        report.write(options.out, about, records, hand.load())
    if options.json:
        sys.stdout.write(report.data(about, records, hand.load()))
    return 0


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
    add("--timeout", type=float, default=100.0, metavar="S", help="CPU seconds for a case; 100")
    add("--later-timeout", type=float, default=60.0, metavar="S", help="to generate, and for gradients; 60 each")
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


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def heads(text: str) -> tuple[str, ...]:
    found = words(text)
    if not set(found) <= {"causal", "base"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not causal, base or causal,base")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
