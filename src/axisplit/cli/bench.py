"""`axisplit bench`: measurements that live in the repository, beside the package rather than in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from axisplit.errors import InputError


def run_benchmark(name: str, arguments: Sequence[str]) -> int:
    """Run `benchmarks/NAME` of the checkout with these arguments; its exit code.

    Raises: InputError if there is no checkout.
    """
    root = find_checkout(name)
    path = os.pathsep.join(filter(None, [str(root), str(root / "src"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], env=environment).returncode


def find_checkout(name: str) -> Path:
    """The repository that the package is run from, or the one the command is called in. Raises: InputError."""
    places = [Path(__file__).resolve().parents[3], Path.cwd()]
    for place in places:
        if (place / "benchmarks" / name / "__main__.py").is_file():
            return place
    raise InputError(
        "the benchmarks are not part of the installed package",
        where=" and ".join(dict.fromkeys(map(str, places))),
        got=f"no benchmarks/{name}",
        needed="a checkout of the repository",
        do="call this inside one",
    )
