"""Long-lived local ranks, for tests: a call costs milliseconds, not the start of N processes."""

from __future__ import annotations

import weakref
from typing import Any

from axisplit.runtime.launch import Workers
from axisplit.runtime.worker import Target, refer

__all__ = ["RankPool"]


class RankPool:
    """N ranks that wait for calls; started at the first one, and anew after a failed one.

    Args:
        num_ranks: at least 1.
        deadline_s: how long a call may take before its ranks are killed.
        timeout_s: how long a collective may wait for a rank.
        backend: of torch.distributed.
    """

    def __init__(
        self, num_ranks: int, *, deadline_s: float = 60.0, timeout_s: float = 30.0, backend: str = "gloo"
    ) -> None:
        self.num_ranks = num_ranks
        self._deadline_s = deadline_s
        self._timeout_s = timeout_s
        self._backend = backend
        self._workers: Workers | None = None

    def run(self, fn: Target, *args: Any, deadline_s: float | None = None) -> list[Any]:
        """Every rank's `fn(rank, world_size, *args)`; the default process group is theirs.

        Args:
            fn: a function at the top level of a module, or its "module:qualname".
            args: pickled to every rank.
            deadline_s: instead of the pool's.
        Raises: CollectiveError with the failing rank's traceback, or where a late one is.
        """
        job = refer(fn, args)
        workers = self._workers or self._started()
        try:
            workers.submit(job)
            results = workers.collect(deadline_s or self._deadline_s)
            while True:
                next(results)
        except StopIteration as end:
            values: list[Any] = end.value
            return values
        except BaseException:
            self._workers = None
            workers.kill()
            raise

    def _started(self) -> Workers:
        workers = Workers(self.num_ranks, backend=self._backend, timeout_s=self._timeout_s, threads_per_rank=1)
        weakref.finalize(self, workers.kill)
        self._workers = workers
        return workers

    def close(self) -> None:
        """Let the ranks end; a later call starts new ones."""
        if self._workers is not None:
            self._workers.stop()
            self._workers.kill()
            self._workers = None

    def __enter__(self) -> RankPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
