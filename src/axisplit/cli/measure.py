"""What a rank's process uses: peak memory and times."""

from __future__ import annotations

import re
import resource
import sys
import threading
from pathlib import Path
from types import TracebackType

_STATUS = Path("/proc/self/status")
_EVERY_S = 0.02


def peak_resident_bytes() -> int:
    """Largest resident set of this process so far, shared and file pages included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int | None:
    """Resident set of this process now; None where the system does not tell."""
    return _status("VmRSS")


class PrivateMemory:
    """Within, samples this process's anonymous memory (RssAnon); `peak` is None where the system does not tell."""

    def __init__(self) -> None:
        self.peak = _private_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PrivateMemory:
        if self.peak is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self.peak is not None:
            self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(_EVERY_S):
            now = _private_bytes()
            if now is not None and self.peak is not None:
                self.peak = max(self.peak, now)


def _private_bytes() -> int | None:
    return _status("RssAnon")


def _status(field: str) -> int | None:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
