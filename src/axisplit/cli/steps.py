"""Progress of slow steps, on stderr: a bar on a terminal, else one line for each step."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]
"""`progress(stage, done, total)`, as models/ calls it."""


@contextmanager
def step(what: str) -> Iterator[Progress]:
    """Show that something slow goes on, and in the end how long it took."""
    started = time.monotonic()
    with _bar(what) if sys.stderr.isatty() else _line(what) as progress:
        yield progress
    took = time.monotonic() - started
    sys.stderr.write(f"{what}: {took:.1f} s\n" if sys.stderr.isatty() else f" {took:.1f} s\n")
    sys.stderr.flush()


@contextmanager
def _line(what: str) -> Iterator[Progress]:
    sys.stderr.write(f"{what} …")
    sys.stderr.flush()
    told = {what}

    def progress(stage: str, done: int, total: int) -> None:
        if stage not in told:
            told.add(stage)
            sys.stderr.write(f" {stage} …")
            sys.stderr.flush()

    try:
        yield progress
    except BaseException:
        sys.stderr.write("\n")
        raise


@contextmanager
def _bar(what: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    looks = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Bars(*looks, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=None)

        def progress(stage: str, done: int, total: int) -> None:
            bars.update(task, description=f"{what}: {stage}", completed=done, total=total)

        yield progress
