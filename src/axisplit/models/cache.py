"""Things made once per machine: built in a hidden folder, renamed into place, found again by key.

Layout of the cache directory: `<key>/` (complete, with its manifest), `.<key>.<pid>.part/` (being built),
`.<key>.lock` (held by the one process that builds). A reader sees all of an entry or nothing; what a killed process
left behind is removed by the next one that holds the lock.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from axisplit.cache_dir import cache_dir
from axisplit.checkpoint.manifest import manifest_problems, write_manifest
from axisplit.errors import InputError

Progress = Callable[[str, int, int], None]
"""`progress(stage, done, total)`: called while something slow goes on."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Tells nobody."""


def find_cached(key: str, *, contents: bool = False) -> Path | None:
    """The entry's directory if it is there, complete and of the right sizes; with `contents`, right in every byte."""
    entry = cache_dir() / key
    return entry if entry.is_dir() and not manifest_problems(entry, contents=contents) else None


def make_cached(
    key: str,
    build: Callable[[Path], None],
    made_from: Mapping[str, str],
    progress: Progress = no_progress,
    *,
    contents: bool = False,
) -> Path:
    """The entry's directory; `build(directory)` fills it if it is not there or damaged, once for all processes.

    Args:
        made_from: what the manifest says about the entry's origin.
        contents: look for damage in every byte (about a second a GB), not in the sizes only.

    Raises: InputError if the cache cannot be written; whatever `build` raises (nothing is left behind then).
    """
    found = find_cached(key, contents=contents)
    if found is not None:
        return found
    home = cache_dir()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(home / f".{key}.lock", progress):
            found = find_cached(key, contents=contents)
            return found if found is not None else _build(home, key, build, made_from)
    except OSError as error:
        raise InputError(
            what="cannot write to axisplit's cache",
            where=str(home),
            got=error.strerror or str(error),
            needed="a directory that can be written, with room for the converted model",
            do="free some space, or set AXISPLIT_CACHE to another directory",
        ) from error


def _build(home: Path, key: str, build: Callable[[Path], None], made_from: Mapping[str, str]) -> Path:
    """Build the entry; the caller holds its lock, so no other process has an unfinished one."""
    for leftover in home.glob(f".{key}.*.part"):
        shutil.rmtree(leftover)
    part, entry = home / f".{key}.{os.getpid()}.part", home / key
    part.mkdir(mode=0o700)
    try:
        build(part)
        write_manifest(part, made_from)
        if entry.exists():
            shutil.rmtree(entry)
        part.rename(entry)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return entry


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    """Hold an exclusive lock that the system lets go of when this process ends, however it ends."""
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that converts the same model", 0, 1)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
