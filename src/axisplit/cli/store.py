"""Plans and verdicts kept beside converted models, found again by everything that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import axisplit
from axisplit.checkpoint.manifest import MANIFEST_FILE, sha256_of
from axisplit.checkpoint.stream import open_checkpoint
from axisplit.models.cache import find_cached, make_cached


def find_or_make(kind: str, depends_on: dict[str, Any], build: Callable[[Path], None]) -> tuple[Path, str]:
    """(directory, when it was made earlier or ""): `build(directory)` fills it if nothing is kept for `depends_on`.

    The code of axisplit and the versions of torch and transformers are part of what everything depends on.
    """
    made_from = {**{name: str(value) for name, value in depends_on.items()}, **_versions(), "code": _code_digest()}
    key = f"{kind}-{hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:32]}"
    found = find_cached(key, contents=True)
    if found is not None:
        made = datetime.fromtimestamp((found / MANIFEST_FILE).stat().st_mtime).astimezone()
        return found, made.strftime("%Y-%m-%d %H:%M")
    return make_cached(key, build, made_from, contents=True), ""


def structure_digest(checkpoint: Path) -> str:
    """Of a checkpoint's config and of every tensor's name, shape and dtype: what a plan depends on.

    Raises: InputError if the checkpoint is damaged.
    """
    digest = hashlib.sha256((checkpoint / "config.json").read_bytes())
    for name, entry in sorted(open_checkpoint(checkpoint).tensors.items()):
        digest.update(f"\n{name} {tuple(entry.shape)} {entry.dtype}".encode())
    return digest.hexdigest()


def contents_digest(checkpoint: Path) -> str:
    """Of every byte of a converted checkpoint, as its manifest says: what a verdict depends on."""
    return sha256_of(checkpoint / MANIFEST_FILE)


def _versions() -> dict[str, str]:
    found = {"axisplit": axisplit.__version__}
    for package in ("torch", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def _code_digest() -> str:
    """Of axisplit's own source, but for what only talks: plans change when the code does, not when its version does."""
    root = Path(axisplit.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).parts[0] not in ("cli", "report"):
            digest.update(f"\n{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
