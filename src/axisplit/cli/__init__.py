"""The command line: parse, call, print.

Exit codes: 0 done or equal, 1 different, 2 could not or bad input, 70 a fault of axisplit itself (with a traceback).
"""

from __future__ import annotations

import io
import sys
import traceback

from axisplit.errors import AxisplitError, CollectiveError
from axisplit.report.text import clean

__all__ = ["main"]

_FAULT = 70  # EX_SOFTWARE of sysexits.h; Python's own 1 means "different" here


def main() -> None:
    """The `axisplit` command. An error that the user can cause is told without a traceback, with exit code 2."""
    from axisplit.cli.commands import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows "?"
    try:
        app(prog_name="axisplit")
    except AxisplitError as error:
        sys.stderr.write(f"axisplit: {clean(error_text(error), keep=chr(10))}\n")
        raise SystemExit(2) from None
    except Exception:
        traceback.print_exc()
        raise SystemExit(_FAULT) from None


def error_text(error: AxisplitError) -> str:
    """What to tell the user: of a rank that failed for a known reason the reason, not the rank's traceback."""
    if isinstance(error, CollectiveError) and isinstance(error.__cause__, AxisplitError):
        return f"{error.what}: {error.__cause__}"
    return str(error)
