"""A runner whose models misbehave on purpose, in a process of its own: it forks, and has no torch.

python fake_work.py LOGS: prints a record for each case.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.coverage.record import Case, Record
from benchmarks.coverage.workers import Limits, Tell, run_cases

PATIENT = ("works", "never built", "burns time", "dies", "raises", "eats memory", "dies late")
IMPATIENT = ("waits for nothing",)


def work(cases: Sequence[Case], tell: Tell) -> None:
    tell({"stage": "build"})
    if cases[0].model == "never built":
        os.kill(os.getpid(), signal.SIGSEGV)
    for case in cases:
        tell({"stage": "plan"})
        if case.ranks == 3:
            misbehave(case.model)
            if case.model == "dies late":
                tell(
                    {"stage": "generate", "so far": Record(case.model, case.head, 3, "equal", collectives=7).to_json()}
                )
                os.kill(os.getpid(), signal.SIGSEGV)
        tell({"record": Record(case.model, case.head, case.ranks, "equal").to_json()})


def misbehave(model: str) -> None:
    if model == "burns time":
        while True:
            sum(range(1000))
    if model == "waits for nothing":
        time.sleep(1000)
    if model == "dies":
        os.kill(os.getpid(), signal.SIGSEGV)
    if model == "raises":
        raise KeyError("layers")
    if model == "eats memory":
        bytearray(2**31)


if __name__ == "__main__":
    for names, limits in ((PATIENT, Limits(0.5, 60.0, 1.0)), (IMPATIENT, Limits(60.0, 1.5, 1.0))):
        groups = [[Case(name, "causal", ranks) for ranks in (2, 3, 4)] for name in names]
        for record in run_cases(groups, work, limits, jobs=4, logs=Path(sys.argv[1])):
            print(json.dumps(record.to_json()))
