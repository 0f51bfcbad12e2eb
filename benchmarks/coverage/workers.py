"""A warm process that forks one child for each model, each with hard limits on CPU time, wall time and memory.

Importing torch and transformers takes some ten seconds, a fork takes none. A child builds its model once and measures
all its cases, telling the parent over a pipe each stage it begins and each record it finishes. If it dies or is too
late, the case it was at gets a record that says so, and a new child takes the cases after it.

    child -> parent, a line of JSON each:  {"stage": "build"}, {"stage": "verify", "so far": {...}}, {"record": {...}}
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import selectors
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.coverage.record import LATER, Case, Outcome, Record

BEGIN = ("build", "plan")  # stages at which the limits begin anew
Tell = Callable[[dict[str, Any]], None]
Work = Callable[[Sequence[Case], Tell], None]
"""Measures cases of one model in a child: tells stages, what is known of a case before each, and records."""


@dataclass(frozen=True)
class Limits:
    """Of one case, or of building one model, and once its outcome is known of each stage after that. Wall time is
    limited too: a child that waits for nothing uses no CPU.
    """

    cpu_s: float = 100.0
    wall_s: float = 300.0
    memory_gib: float = 8.0
    later_cpu_s: float = 60.0


@dataclass
class _Child:
    pid: int
    pipe: int
    cases: list[Case]  # not finished; the first is the one it is at
    deadline: float
    log: Path
    stage: str = "build"
    so_far: Record | None = None  # of the case it is at
    killed: bool = False
    received: bytearray = field(default_factory=bytearray)


def run_cases(groups: Sequence[Sequence[Case]], work: Work, limits: Limits, jobs: int, logs: Path) -> Iterator[Record]:
    """Records as they are finished, each group (the cases of one model and head) in a child of its own."""
    waiting = deque(list(group) for group in groups if group)
    running: dict[int, _Child] = {}
    logs.mkdir(parents=True, exist_ok=True)
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    child = _start(waiting.popleft(), work, limits, logs)
                    running[child.pipe] = child
                    selector.register(child.pipe, selectors.EVENT_READ)
                for key, _ in selector.select(timeout=1.0):
                    child = running[key.fd]
                    data = os.read(key.fd, 1 << 16)
                    if data:
                        yield from _read(child, data, limits)
                        continue
                    selector.unregister(key.fd)
                    del running[key.fd]
                    yield from _end(child, limits)
                    if child.cases:
                        waiting.appendleft(child.cases)
                _kill_late(running.values())
        finally:
            for child in running.values():
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)


def _start(cases: list[Case], work: Work, limits: Limits, logs: Path) -> _Child:
    log = logs / f"{cases[0].head}-{cases[0].model}.log"
    sys.stdout.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _be_child(cases, work, limits, writer, log)
    os.close(writer)
    return _Child(pid, reader, cases, time.monotonic() + limits.wall_s, log)


def _be_child(cases: list[Case], work: Work, limits: Limits, writer: int, log: Path) -> None:
    """Never returns."""
    status = 1
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        faulthandler.enable()
        faulthandler.register(signal.SIGXCPU, all_threads=False, chain=True)  # where the time went, then the end
        memory = int(limits.memory_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        def tell(message: dict[str, Any]) -> None:
            if message.get("stage") in BEGIN:
                _allow_cpu(limits.cpu_s)
            elif message.get("stage") in LATER:
                _allow_cpu(limits.later_cpu_s)
            os.write(writer, json.dumps(message).encode() + b"\n")

        work(cases, tell)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _allow_cpu(seconds: float) -> None:
    """From now on so much; the kernel sends SIGXCPU at the end of it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 1, hard))


def _read(child: _Child, data: bytes, limits: Limits) -> Iterator[Record]:
    child.received += data
    *lines, rest = bytes(child.received).split(b"\n")
    child.received = bytearray(rest)
    for line in lines:
        message = json.loads(line)
        if "stage" in message:
            child.stage = message["stage"]
            child.so_far = Record.from_json(message["so far"]) if "so far" in message else None
        if "record" in message or message.get("stage") in BEGIN:
            child.deadline = time.monotonic() + limits.wall_s
        if "record" in message:
            record, child.so_far = Record.from_json(message["record"]), None
            child.cases = [case for case in child.cases if case != record.case]
            yield record


def _kill_late(children: Any) -> None:
    for child in children:
        if time.monotonic() > child.deadline and not child.killed:
            child.killed = True
            os.kill(child.pid, signal.SIGKILL)


def _end(child: _Child, limits: Limits) -> Iterator[Record]:
    """The record of the case at which a child ended too early; while building, of all its cases."""
    os.close(child.pipe)
    _, status = os.waitpid(child.pid, 0)
    if not child.cases:
        return
    outcome, reason = _why(child, status, limits)
    building = child.stage == "build"
    at, child.cases = (child.cases, []) if building else (child.cases[:1], child.cases[1:])
    for case in at:
        ended: Outcome = "does not run" if building else outcome
        known = child.so_far or Record(case.model, case.head, case.ranks, "equal")
        yield known.cut_off(child.stage, ended, reason, _stack(child))


def _why(child: _Child, status: int, limits: Limits) -> tuple[Outcome, str]:
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if ended_by == signal.SIGXCPU:
        allowed = limits.later_cpu_s if child.stage in LATER else limits.cpu_s
        return "timeout", f"{allowed:g} s of CPU passed in {child.stage}"
    if child.killed:
        return "timeout", f"{limits.wall_s:g} s passed in {child.stage}"
    if ended_by:
        return "error", f"the process died in {child.stage}: {signal.Signals(ended_by).name}"
    last = "".join(_log_of(child).strip().splitlines()[-1:])
    return "error", f"the process died in {child.stage}: exit status {os.WEXITSTATUS(status)}: {last[:200]}"


def _log_of(child: _Child) -> str:
    return child.log.read_text(errors="replace") if child.log.exists() else ""


def _stack(child: _Child, most: int = 3) -> str:
    """The innermost lines that faulthandler wrote when the process was ended by a signal."""
    *_, last = _log_of(child).rpartition("(most recent call first):")
    frames = re.findall(r'File "[^"]*?([^/"]+)", line (\d+) in (\S+)', last)
    return " · ".join(f"{file}:{line} {function}" for file, line, function in frames[:most])
