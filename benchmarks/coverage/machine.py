"""What a report says of where and with what it was made."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


def code_digest(root: Path) -> str:
    """What tells states of the source apart: the package and the models it is measured on."""
    digest = hashlib.sha256()
    for folder in ("src/axisplit", "benchmarks/zoo"):
        for file in sorted((root / folder).rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def about() -> dict[str, str]:
    """Date, hardware and versions."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": f"{_cpu()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("axisplit", "torch", "transformers", "highspy")),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()
