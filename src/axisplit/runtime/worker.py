"""What a started rank does: join the group, run jobs, report each result or failure, leave the group.

    parent (launch.py, pool.py)                     rank (here, `serve`)
      Setup              --- at start ------------>   init_process_group over a FileStore in a private directory
      Job                --- pipe ---------------->   target(rank, world_size[, emit], *args)
                         <-- pipe ----------------    Item ... (rank 0, streaming jobs), then Result or Failure
      None               --- pipe ---------------->   destroy_process_group, exit

Nothing listens beyond loopback: the store is a file, and gloo is told to use the loopback interface. A rank ends
when its parent does, however that ended. It ignores Ctrl-C: its parent hears it and ends the ranks.
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.util
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist

from axisplit.errors import CollectiveError, InputError

__all__ = ["Failure", "Item", "Job", "Result", "Setup", "Target", "loopback_environment", "refer", "serve"]

Target = Callable[..., Any] | str
"""A function at the top level of a module, or its "module:qualname"."""


@dataclass(frozen=True)
class Setup:
    """What a rank must know to join: `directory` is private (0700) and holds the store and the stack dumps."""

    rank: int
    num_ranks: int
    directory: str
    backend: str
    timeout_s: float
    threads: int
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def stack_file(self) -> Path:
        return Path(self.directory) / f"stack-{self.rank}.txt"


@dataclass(frozen=True)
class Job:
    """One call on every rank. The function travels by reference, its arguments pickled."""

    module: str
    qualname: str
    file: str | None
    arguments: bytes
    sys_path: tuple[str, ...]
    streaming: bool = False


@dataclass(frozen=True)
class Item:
    """Something that rank 0 emitted."""

    value: bytes


@dataclass(frozen=True)
class Result:
    """What the target returned, pickled by value: it outlives the rank."""

    value: bytes


@dataclass(frozen=True)
class Failure:
    """What the target raised. `consequence`: a communication error, which may follow from another rank's failure."""

    summary: str
    trace: str
    consequence: bool
    error: bytes | None


def loopback_environment(threads: int) -> dict[str, str]:
    """Settings of a local rank; those that the user has made are kept by the caller."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "MASTER_ADDR": "127.0.0.1",
    }


def refer(target: Target, args: Sequence[Any], *, streaming: bool = False) -> Job:
    """A job that calls a function by its name in its module.

    Raises: InputError for a function that other processes cannot find by name.
    """
    if isinstance(target, str):
        module, _, qualname = target.partition(":")
        file = None
    else:
        module, qualname = target.__module__, target.__qualname__
        file = getattr(sys.modules.get(module), "__file__", None)
    if not qualname or "<" in qualname:
        raise InputError(
            "other processes cannot find this function",
            got=f"{module}:{qualname}",
            needed="a function at the top level of a module, or its 'module:qualname'",
        )
    return Job(module, qualname, file, pickle.dumps(tuple(args)), tuple(sys.path), streaming)


def serve(setup: Setup, pipe: Connection) -> None:
    """The life of one rank."""
    _settle_in(setup)
    try:
        dist.init_process_group(
            setup.backend,
            init_method=f"{Path(setup.directory).as_uri()}/store",
            rank=setup.rank,
            world_size=setup.num_ranks,
            timeout=timedelta(seconds=setup.timeout_s),
        )
        while (job := pipe.recv()) is not None:
            pipe.send(_answer(setup, pipe, job))
    except EOFError:
        return  # the parent ended
    except Exception as error:
        pipe.send(_failure(error))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _settle_in(setup: Setup) -> None:
    with suppress(ValueError):  # only a main thread may
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(setup.directory,), daemon=True).start()
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, file=setup.stack_file.open("w"), all_threads=False)
    ours = {"RANK": str(setup.rank), "LOCAL_RANK": str(setup.rank), "WORLD_SIZE": str(setup.num_ranks)}
    os.environ.update(loopback_environment(setup.threads) | setup.environment | ours)
    os.environ["OMP_NUM_THREADS"] = str(setup.threads)
    torch.set_num_threads(setup.threads)


def _end_with_parent(directory: str) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(1)


def _answer(setup: Setup, pipe: Connection, job: Job) -> Result | Failure:
    def emit(value: Any) -> None:
        if setup.rank == 0:
            pipe.send(Item(pickle.dumps(value)))

    try:
        sys.path[:] = job.sys_path
        target = _find(job)
        extra = (emit,) if job.streaming else ()
        return Result(pickle.dumps(target(setup.rank, setup.num_ranks, *extra, *pickle.loads(job.arguments))))
    except BaseException as error:  # SystemExit too: a rank that left is a rank that failed
        return _failure(error)


def _find(job: Job) -> Callable[..., Any]:
    found: Any = _module(job.module, job.file)
    for name in job.qualname.split("."):
        found = getattr(found, name)
    function: Callable[..., Any] = found
    return function


def _module(name: str, file: str | None) -> ModuleType:
    """By name; from its file where the name means nothing here, as for test modules under importlib mode."""
    try:
        module = importlib.import_module(name)
        if file is None or getattr(module, "__file__", None) == file:
            return module
    except ImportError:
        if file is None:
            raise
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _failure(error: BaseException) -> Failure:
    trace = "".join(traceback.format_exception(error))
    consequence = isinstance(error, CollectiveError | dist.DistError) or "gloo" in str(error)
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception:  # any class may fail to travel; its text has
        return Failure(repr(error), trace, consequence, None)
    return Failure(repr(error), trace, consequence, pickled)
