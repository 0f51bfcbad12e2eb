"""Where things made once per machine are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$AXISPLIT_CACHE`, or `axisplit` in `$XDG_CACHE_HOME`, or in `~/.cache`; not created."""
    own = os.environ.get("AXISPLIT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "axisplit"
