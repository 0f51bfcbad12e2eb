"""Run a script as one rank of `axisplit run`; started by script.py, by path, and free of axisplit's own imports.

The script runs as `python SCRIPT ARGS` would. What is added: the rank ends when its launcher does, however that
ended, and the process group is destroyed at exit even if the script forgets (3 of 16 correct runs without it aborted).
"""

from __future__ import annotations

import atexit
import os
import runpy
import sys
import threading
import time

_POLL_S = 0.5


def _end_with(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_POLL_S)
    os._exit(1)


def _destroy_process_group() -> None:
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def main(launcher: int, report: str, script: str, args: list[str]) -> None:
    """Become the script; write to the file `report` when it raised (the clock is one for all processes)."""
    threading.Thread(target=_end_with, args=(launcher,), daemon=True).start()
    atexit.register(_destroy_process_group)
    sys.argv[:] = [script, *args]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    try:
        runpy.run_path(script, run_name="__main__")
    except BaseException:
        with open(report, "w") as file:
            file.write(repr(time.monotonic()))
        raise


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
