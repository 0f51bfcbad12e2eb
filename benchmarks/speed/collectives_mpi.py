"""The ranks of MPICH in the benchmark of collectives: started by mpiexec, prints seconds by size."""

from __future__ import annotations

import json
import sys

import numpy as np

from benchmarks.speed.collectives import SIZES, timed


def main() -> None:
    from mpi4py import MPI

    world, times = MPI.COMM_WORLD, {}
    for size in SIZES:
        x, total = np.ones(size // 4, np.float32), np.empty(size // 4, np.float32)
        times[size] = timed(lambda x=x, total=total: world.Allreduce(x, total), world.Barrier, world.bcast)  # type: ignore[misc]
    if world.rank == 0:
        json.dump(times, sys.stdout)


if __name__ == "__main__":
    main()
