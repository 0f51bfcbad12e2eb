"""`axisplit run`: a script on N local ranks, like torchrun, with safe defaults.

As with torchrun the script finds RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT and calls
`init_process_group()` itself. Unlike it, the rendezvous store listens on loopback only (torchrun's listens on all
interfaces, unauthenticated), gloo stays on loopback, and the first rank that fails ends the others within seconds.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported where torch has distributed

from axisplit.errors import InputError
from axisplit.runtime.worker import loopback_environment

__all__ = ["run_script"]

_POLL_S = 0.05
_REPORT_S = 0.3
"""How long the others may take to fail too, once one has."""
_GRACE_S = 3.0


def run_script(num_ranks: int, script: str, args: Sequence[str] = (), *, threads_per_rank: int = 1) -> int:
    """Run `python SCRIPT ARGS` as `num_ranks` local ranks.

    Args:
        num_ranks: at least 1.
        script: a Python file.
        args: passed on as they are.
        threads_per_rank: OMP_NUM_THREADS, unless the environment sets it.
    Returns: 0, or the exit code of the first rank that failed (128 + the signal that ended it), named on stderr.
    Raises: InputError if there is no such script, or no rank.
    """
    if num_ranks < 1 or not Path(script).is_file():
        raise InputError("nothing to run", got=f"{num_ranks} ranks, script {script}", needed="1 or more, a Python file")
    store = _loopback_store()
    shared = loopback_environment(threads_per_rank) | dict(os.environ) | _rendezvous(num_ranks, store.port)
    ranks: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="axisplit-") as directory:
        reports = [Path(directory) / f"raised-{rank}" for rank in range(num_ranks)]
        try:
            for rank, report in enumerate(reports):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "ROLE_RANK": str(rank)}
                ranks.append(subprocess.Popen(_command(report, script, args), env=shared | own))
            return _wait_for_all(ranks, reports)
        finally:
            _end(ranks)
            del store


def _command(report: Path, script: str, args: Sequence[str]) -> list[str]:
    bootstrap = Path(__file__).with_name("bootstrap.py")
    return [sys.executable, "-u", str(bootstrap), str(os.getpid()), str(report), script, *args]


def _loopback_store() -> TCPStore:
    """The store's server, on a socket that is bound to loopback before the server gets it."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    port = listener.getsockname()[1]
    return TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())


def _rendezvous(num_ranks: int, port: int) -> dict[str, str]:
    """What torchrun sets; with the agent's store no rank starts a server of its own."""
    return {
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "ROLE_WORLD_SIZE": str(num_ranks),
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "ROLE_NAME": "default",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": uuid.uuid4().hex,
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_USE_AGENT_STORE": str(True),
    }


def _wait_for_all(ranks: Sequence[subprocess.Popen[bytes]], reports: Sequence[Path]) -> int:
    while any(process.poll() is None for process in ranks) and not any(process.poll() for process in ranks):
        time.sleep(_POLL_S)
    if not any(process.poll() for process in ranks):
        return 0
    time.sleep(_REPORT_S)
    rank = _first_to_fail([process.poll() for process in ranks], reports)
    try:
        code = ranks[rank].wait(_GRACE_S) or 1
    except subprocess.TimeoutExpired:
        code = 1
    sys.stderr.write(f"axisplit run: rank {rank} of {len(ranks)} failed first, with exit code {code}\n")
    return code if code > 0 else 128 - code


def _first_to_fail(codes: Sequence[int | None], reports: Sequence[Path]) -> int:
    """The cause: a rank that was killed leaves no report; else the first that raised, which may end after others."""
    times = {
        rank: float(report.read_text() or 0) if report.exists() else 0.0
        for rank, (code, report) in enumerate(zip(codes, reports, strict=True))
        if code or (code is None and report.exists())
    }
    return min(times, key=times.__getitem__)


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Terminate what still runs, and kill what has not ended after the grace."""
    for process in ranks:
        if process.poll() is None:
            process.terminate()
    ends = time.monotonic() + _GRACE_S
    for process in ranks:
        try:
            process.wait(max(0.0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
