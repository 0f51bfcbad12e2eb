"""A SHA-256 manifest beside the files we write, so that one flipped byte is noticed.

`manifest.json`: {"format": 1, "files": {name: {"bytes": int, "sha256": hex}}, "made_from": {...}}. Written last and
atomically by its caller's rename: a directory with a manifest is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from axisplit.checkpoint.strict_json import read_json_object
from axisplit.errors import InputError

MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 2**20


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's contents."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_manifest(directory: Path, made_from: Mapping[str, str]) -> None:
    """Write the manifest of every file in the directory (not in folders below), and sync all to disk."""
    files = {}
    for path in sorted(p for p in directory.iterdir() if p.name != MANIFEST_FILE):
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        _sync(path)
    text = json.dumps({"format": 1, "made_from": dict(made_from), "files": files}, indent=1, sort_keys=True)
    (directory / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")
    _sync(directory / MANIFEST_FILE)
    _sync(directory)


def manifest_problems(directory: Path, *, contents: bool) -> list[str]:
    """What differs from the manifest, in words; sizes only, or with `contents` every byte. Empty if all is well."""
    try:
        manifest = read_json_object(directory / MANIFEST_FILE, "cannot read a manifest", MAX_MANIFEST_BYTES)
    except InputError as error:
        return [str(error)]
    files = manifest.get("files")
    if (
        manifest.get("format") != 1
        or not isinstance(files, dict)
        or not all(isinstance(f, dict) for f in files.values())
    ):
        return [f"{MANIFEST_FILE} is not of format 1"]
    problems = []
    for name, said in files.items():
        path = directory / Path(name).name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != said.get("bytes"):
            problems.append(f"{name} has {path.stat().st_size} bytes, not {said.get('bytes')}")
        elif contents and sha256_of(path) != said.get("sha256"):
            problems.append(f"{name} has other contents than were written")
    return problems


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
