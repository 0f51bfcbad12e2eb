"""Start local ranks, give them work, notice how they end.

    launch          one call on N ranks, all results
    launch_stream   the same, with what rank 0 emits on the way
    Workers         the ranks themselves: start, submit, collect, stop (pool.py keeps them for many calls)

The ranks come from a fork server that has torch loaded and nothing else running (spawned where there is none), so
that four ranks start in 0.1 s after the first. A rank that fails, dies or is late ends the call within seconds, with a
CollectiveError that names it and shows its traceback or exit code; then all ranks are killed. As with all of
Python's multiprocessing, a script that calls this needs `if __name__ == "__main__":`.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from axisplit.errors import CollectiveError, InputError
from axisplit.runtime.worker import Failure, Item, Job, Result, Setup, Target, refer, serve

__all__ = ["Workers", "launch", "launch_stream"]

_GRACE_S = 1.0
"""How long the other ranks may take to tell what happened to them, after the first failure."""


def launch(
    num_ranks: int,
    target: Target,
    args: Sequence[Any] = (),
    *,
    backend: str = "gloo",
    timeout_s: float = 100.0,
    deadline_s: float | None = None,
    threads_per_rank: int = 1,
) -> list[Any]:
    """Run `target(rank, world_size, *args)` in `num_ranks` new local processes, as one process group.

    Args:
        num_ranks: at least 1.
        target: a function at the top level of a module, or its "module:qualname".
        args: pickled to every rank.
        backend: of torch.distributed, for example "gloo" or "cpu:gloo,cuda:nccl".
        timeout_s: how long a collective may wait for a rank.
        deadline_s: how long all may take; None for no limit.
        threads_per_rank: torch threads.
    Returns: what each rank returned, pickled back.
    Raises: CollectiveError that names the rank which failed, from its own error where that could be pickled.
    """
    job = refer(target, args)
    workers = Workers(num_ranks, backend=backend, timeout_s=timeout_s, threads_per_rank=threads_per_rank)
    stream = _stream(workers, job, deadline_s)
    while True:
        try:
            next(stream)
        except StopIteration as end:
            results: list[Any] = end.value
            return results


def launch_stream(
    num_ranks: int,
    target: Target,
    args: Sequence[Any] = (),
    *,
    backend: str = "gloo",
    timeout_s: float = 100.0,
    deadline_s: float | None = None,
    threads_per_rank: int = 1,
) -> Generator[Any, None, list[Any]]:
    """Run `target(rank, world_size, emit, *args)` as `launch` does; yield what rank 0 emits, as it does.

    On the other ranks `emit` does nothing. Closing the generator ends the ranks. Its return value
    (StopIteration.value) is the list of results.
    """
    job = refer(target, args, streaming=True)
    workers = Workers(num_ranks, backend=backend, timeout_s=timeout_s, threads_per_rank=threads_per_rank)
    return (yield from _stream(workers, job, deadline_s))


def _stream(workers: Workers, job: Job, deadline_s: float | None) -> Generator[Any, None, list[Any]]:
    try:
        workers.submit(job)
        results = yield from workers.collect(deadline_s)
        workers.stop()
        return results
    finally:
        workers.kill()


class Workers:
    """N ranks in processes of their own, one process group, one job at a time."""

    def __init__(self, num_ranks: int, *, backend: str, timeout_s: float, threads_per_rank: int) -> None:
        if num_ranks < 1:
            raise InputError("no ranks to start", got=str(num_ranks), needed="1 or more")
        self.num_ranks = num_ranks
        self._directory = tempfile.TemporaryDirectory(prefix="axisplit-")  # mode 0700
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._setups = [
            Setup(rank, num_ranks, self._directory.name, backend, timeout_s, threads_per_rank)
            for rank in range(num_ranks)
        ]
        context = _context()
        try:
            for setup in self._setups:
                self._start(context, setup)
        except BaseException:
            self.kill()
            raise

    def _start(self, context: BaseContext, setup: Setup) -> None:
        ours, theirs = context.Pipe()
        # typeshed's BaseContext does not declare Process
        process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=serve, args=(setup, theirs), daemon=True, name=f"axisplit rank {setup.rank}"
        )
        self._pipes.append(ours)
        process.start()
        self._processes.append(process)
        theirs.close()

    def submit(self, job: Job) -> None:
        """Give every rank the job. A rank that is gone shows in `collect`."""
        for pipe in self._pipes:
            with suppress(OSError):
                pipe.send(job)

    def collect(self, deadline_s: float | None) -> Generator[Any, None, list[Any]]:
        """Yield what rank 0 emits; return all results. Raises: CollectiveError for the rank that failed or is late."""
        ends = None if deadline_s is None else time.monotonic() + deadline_s
        reports: dict[int, Result | Failure] = {}
        failed = False
        while len(reports) < self.num_ranks:
            waiting = [rank for rank in range(self.num_ranks) if rank not in reports]
            pipes = [self._pipes[rank] for rank in waiting]
            ready = wait(pipes, None if ends is None else max(0.0, ends - time.monotonic()))
            if not ready:
                break
            for rank in waiting:
                if self._pipes[rank] in ready:
                    report = self._receive(rank)
                    if isinstance(report, Item):
                        yield pickle.loads(report.value)
                        continue
                    reports[rank] = report
                    if isinstance(report, Failure) and not failed:
                        failed, ends = True, time.monotonic() + _GRACE_S
        failures = {rank: report for rank, report in reports.items() if isinstance(report, Failure)}
        if failures or len(reports) < self.num_ranks:
            raise self._error(failures, [rank for rank in range(self.num_ranks) if rank not in reports], deadline_s)
        return [pickle.loads(reports[rank].value) for rank in range(self.num_ranks)]  # type: ignore[union-attr]

    def _receive(self, rank: int) -> Item | Result | Failure:
        try:
            report: Item | Result | Failure = self._pipes[rank].recv()
        except (EOFError, OSError):
            self._processes[rank].join(_GRACE_S)
            return Failure(_exit_text(self._processes[rank].exitcode), "", consequence=False, error=None)
        return report

    def _error(self, failures: dict[int, Failure], silent: list[int], deadline_s: float | None) -> CollectiveError:
        if not failures:
            stacks = "\n".join(f"rank {rank} is at:\n{self._stack(rank)}" for rank in silent)
            return CollectiveError(
                f"no answer from rank {', '.join(map(str, silent))} of {self.num_ranks}",
                got=stacks,
                needed=f"an answer within {deadline_s:g} s",
                do="look for a rank that waits in a collective the others do not call",
            )
        first = min(failures, key=lambda rank: failures[rank].consequence)
        others = [f"rank {rank}: {failures[rank].summary}" for rank in sorted(failures) if rank != first]
        others += [f"rank {rank}: no word" for rank in silent]
        failure = failures[first]
        error = CollectiveError(
            f"rank {first} of {self.num_ranks} failed",
            got="\n".join([failure.summary, *failure.trace.splitlines(), *others]),
        )
        error.__cause__ = pickle.loads(failure.error) if failure.error else None
        return error

    def _stack(self, rank: int) -> str:
        """Where the rank's main thread is now, as it writes itself on a signal."""
        pid, file = self._processes[rank].pid, self._setups[rank].stack_file
        if pid is None or not hasattr(signal, "SIGUSR1") or not file.exists():
            return "(unknown)"
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
        ends = time.monotonic() + _GRACE_S
        while not file.stat().st_size and time.monotonic() < ends:
            time.sleep(0.01)
        return file.read_text() or "(it does not answer: stopped, or still starting)"

    def stop(self) -> None:
        """Let every rank leave the group and exit."""
        for pipe in self._pipes:
            with suppress(OSError):
                pipe.send(None)
        for process in self._processes:
            process.join(_GRACE_S)

    def kill(self) -> None:
        """End whatever is left, now."""
        for process in self._processes:
            if process.is_alive():
                process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()
        if Path(self._directory.name).exists():
            self._directory.cleanup()


def _context() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed"])
    return context


def _exit_text(code: int | None) -> str:
    if code is None:
        return "closed its pipe without a report"
    if code == -signal.SIGABRT:
        return f"exit code {code} (SIGABRT), without a report: gloo aborts where the sizes of ranks differ"
    if code < 0:
        return f"exit code {code} ({signal.Signals(-code).name}), without a report"
    return f"exit code {code}, without a report"
