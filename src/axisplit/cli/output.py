"""Printing: text with its headings in bold on a terminal, or one JSON object."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

_HEADING = re.compile(r"^[^\s].*$", re.MULTILINE)


def show(text: str = "") -> None:
    """Print text; on a terminal the lines that are not indented are bold."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        text = _HEADING.sub("\x1b[1m\\g<0>\x1b[0m", text)
    print(text, flush=True)


def show_json(fields: dict[str, Any]) -> None:
    """Print one JSON object. Infinite and undefined numbers, which JSON lacks, become null."""
    print(json.dumps(_finite(fields), indent=1, allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value not in (float("inf"), float("-inf")) and value == value:
        return value
    return None if isinstance(value, float) else value
