"""All-reduce between processes of this machine, by size: ours beside gloo and MPICH (or NCCL), in turns."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.speed.series import rotated, spread

SIZES = (4, 1024, 4096, 16_384, 65_536, 2**18, 2**20, 2**22, 2**24, 2**26)
_BATCH_S = 0.02
_BATCHES = 5


def measure(options: Namespace) -> dict[str, dict[int, list[float]]]:
    """{contender: {bytes: seconds of an all-reduce, one for each round}}."""
    from axisplit.runtime.pool import RankPool

    found: dict[str, dict[int, list[float]]] = {}

    def note(name: str, times: dict[int, float]) -> None:
        for size, seconds in times.items():
            found.setdefault(name, {}).setdefault(size, []).append(seconds)

    on_cpu = options.device == "cpu"
    with RankPool(options.ranks, deadline_s=300.0, backend="gloo" if on_cpu else "nccl") as pool:
        for number in range(options.rounds):
            for name in rotated(list(OURS if on_cpu else ON_ACCELERATORS), number):
                note(name, pool.run("benchmarks.speed.collectives:on_rank", name, options.device)[0])
            if on_cpu and mpi_is_here():
                note("MPICH", on_mpi(options.ranks))
            print(f"\rround {number + 1} of {options.rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def timed(
    call: Callable[[], Any],
    meet: Callable[[], Any],
    agreed: Callable[[int], int],
    finish: Callable[[], None] = lambda: None,
) -> float:
    """Seconds of one call: the median over batches of as many calls as rank 0 says; `finish` waits for the last."""
    begin = time.perf_counter()
    for _ in range(3):
        call()
    finish()
    count = agreed(max(3, int(_BATCH_S / ((time.perf_counter() - begin) / 3))))
    batches = []
    for _ in range(count):
        call()  # for warmth
    for _ in range(_BATCHES):
        meet()
        begin = time.perf_counter()
        for _ in range(count):
            call()
        finish()
        batches.append((time.perf_counter() - begin) / count)
    return statistics.median(batches)


_ways: dict[str, Callable[[Any], Any]] = {}


def on_rank(rank: int, world_size: int, name: str, device: str) -> dict[int, float]:
    """Seconds by size in bytes."""
    import torch
    import torch.distributed as dist

    if device != "cpu":
        torch.accelerator.set_device_index(rank)
    if name not in _ways:
        _ways[name] = (OURS | ON_ACCELERATORS)[name]()

    def agreed(count: int) -> int:
        value = torch.tensor([count], device=device)
        dist.broadcast(value, 0)
        return int(value)

    def finish() -> None:
        if device != "cpu":
            torch.accelerator.synchronize()

    times = {}
    for size in SIZES:
        x = torch.ones(size // 4, device=device)
        times[size] = timed(lambda x=x: _ways[name](x), dist.barrier, agreed, finish)  # type: ignore[misc]
    return times


def _default_group() -> Callable[[Any], Any]:
    from axisplit.runtime.groups import ProcessGroup

    return ProcessGroup(None).all_reduce_sum


def _backend() -> Callable[[Any], Any]:
    import torch.distributed as dist

    import axisplit

    axisplit.register_backend()
    group = dist.new_group(backend="axisplit")
    return lambda x: dist.all_reduce(x, group=group)


def _torch() -> Callable[[Any], Any]:
    import torch.distributed as dist

    return dist.all_reduce


def _without_compiler() -> Callable[[Any], Any]:
    from axisplit.runtime.groups import ProcessGroup
    from axisplit.runtime.shared import connect

    built, connect._native = connect._native, lambda: None
    group = ProcessGroup(None)
    group.barrier()  # connects
    connect._native = built
    return group.all_reduce_sum


OURS = {
    "axisplit, compiled": _default_group,
    "axisplit, Python alone": _without_compiler,
    "axisplit as a backend of torch.distributed": _backend,
    "gloo": _torch,
}


ON_ACCELERATORS = {"axisplit": _default_group, "torch.distributed": _torch}


def mpi_is_here() -> bool:
    """Whether mpi4py and MPICH are installed."""
    return find_spec("mpi4py") is not None and mpiexec() is not None


def mpiexec() -> str | None:
    """The launcher beside this Python, or on the path."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def on_mpi(ranks: int) -> dict[int, float]:
    """Seconds by size in bytes."""
    command = [str(mpiexec()), "-n", str(ranks), sys.executable, "-m", "benchmarks.speed.collectives_mpi"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {int(size): seconds for size, seconds in found.items()}


def tables(found: dict[str, dict[str, list[float]]]) -> str:
    """As markdown."""
    lines = [f"| bytes | {' | '.join(found)} |", f"| --- |{' --- |' * len(found)}"]
    for size in SIZES:
        cells = [spread(times[str(size)], 1e6, "µs") for times in found.values()]
        lines.append(f"| {size:,} | {' | '.join(cells)} |")
    if "gloo" in found and "MPICH" not in found:
        lines += ["", "MPICH was not there: `pip install mpi4py mpich`."]
    return "\n".join(lines)
