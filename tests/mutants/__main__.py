"""Apply each mutant to a copy of the package and run its tests, which must pass without: exit 1 if any survives.

python -m tests.mutants [--jobs 2] [--only TEXT]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.table import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
LIMIT_S = 150


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--only", default="", help="those whose line contains this")
    options = parser.parse_args()
    chosen = [mutant for group in MUTANTS.values() for mutant in group if options.only in str(mutant)]
    stale = [mutant for mutant in chosen if source(mutant).count(mutant.old) != 1]
    for mutant in stale:
        print(f"STALE     {mutant}: its text is not there exactly once")
    with ThreadPoolExecutor(options.jobs) as pool:
        targets = list(dict.fromkeys(mutant.tests for mutant in chosen))
        failing = [t for t, status in zip(targets, pool.map(run_unchanged, targets), strict=True) if status != 0]
        if failing:
            print("these fail without any mutant:", *failing, sep="\n")
            return 1
        survivors = [mutant for mutant, alive in pool.map(judge, [m for m in chosen if m not in stale]) if alive]
    print(f"{len(chosen)} mutants, {len(survivors)} survived, {len(stale)} stale")
    return 1 if survivors or stale else 0


def source(mutant: Mutant) -> str:
    return (ROOT / "src" / "axisplit" / mutant.file).read_text(encoding="utf-8")


def run_unchanged(tests: tuple[str, ...]) -> int | None:
    return run(tests, str(ROOT / "src"))


def judge(mutant: Mutant) -> tuple[Mutant, bool]:
    """(mutant, whether its tests passed all the same)."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "src", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        (Path(folder) / "axisplit" / mutant.file).write_text(
            source(mutant).replace(mutant.old, mutant.new), encoding="utf-8"
        )
        result = run(mutant.tests, folder)
    verdict = {0: "SURVIVED", 1: "caught", None: "caught"}.get(result, "NO TESTS")
    print(f"{verdict:9} {time.monotonic() - start:5.1f} s  {mutant}", flush=True)
    return mutant, result not in (1, None)


def run(tests: tuple[str, ...], folder: str) -> int | None:
    """Pytest's exit status, 1 being a failed test; None where it took too long."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--timeout=60", *tests]
    environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        return subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT_S,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        return None


if __name__ == "__main__":
    sys.exit(main())
