"""What trials found, kept: for torch's own ops in the user's cache directory, a file for each version of torch; for all
others in memory only, because their code may change while their name stays.

    <cache>/rules/<VERSION>-torch-<version>.json     {kind of call: {"pattern": {...} or null, "reason": ...}}

A file is written beside its place and moved there, so a reader sees all of it or nothing; of two processes that write
at once one's findings are found again later. A damaged file is ignored, with a warning.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from axisplit.axes.pattern import Pattern, Term
from axisplit.cache_dir import cache_dir
from axisplit.capture.apart import belongs_to_torch

VERSION = 1  # of what trials do: a file of another one says nothing


@dataclass(frozen=True)
class Finding:
    """The rule that trials found, None if they found none; and why dims are needed whole."""

    pattern: Pattern | None
    reason: str


_in_memory: WeakKeyDictionary[Any, dict[str, Finding]] = WeakKeyDictionary()  # an op registered again is another op
_files: dict[Path, dict[str, Finding]] = {}


def recall(op: Any, kind: str) -> Finding | None:
    """What was found for one kind of call of an op."""
    found = _in_memory.setdefault(op, {}).get(kind)
    if found is None and belongs_to_torch(op):
        found = _read(_path()).get(f"{op} {kind}")
    return found


def remember(op: Any, kind: str, finding: Finding) -> None:
    """Keep what was found; a cache that cannot be written costs a warning, and a trial in the next process."""
    _in_memory.setdefault(op, {})[kind] = finding
    if not belongs_to_torch(op):
        return
    path = _path()
    _files.pop(path, None)  # another process may have added to it
    findings = {**_read(path), f"{op} {kind}": finding}
    _files[path] = findings
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({key: asdict(found) for key, found in findings.items()}, indent=1))
        part.replace(path)
    except OSError as error:
        warnings.warn(f"rules found by trial cannot be kept in {path}: {error}", stacklevel=2)


def _path() -> Path:
    return cache_dir() / "rules" / f"{VERSION}-torch-{torch.__version__}.json"


def _read(path: Path) -> dict[str, Finding]:
    """The findings of a file, read once; none if it is not there or damaged."""
    if path not in _files:
        try:
            _files[path] = {key: _finding(entry) for key, entry in json.loads(path.read_text()).items()}
        except FileNotFoundError:
            _files[path] = {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            warnings.warn(f"{path} is damaged and not used: {type(error).__name__}: {error}", stacklevel=2)
            _files[path] = {}
    return _files[path]


def _finding(entry: dict[str, Any]) -> Finding:
    """Raises: ValueError, TypeError, KeyError or AttributeError if the entry is none."""
    pattern, reason = entry["pattern"], entry["reason"]
    if not isinstance(reason, str):
        raise TypeError("a reason is no text")
    if pattern is None:
        return Finding(None, reason)
    linear = tuple(_whole_numbers(group) for group in pattern["linear"])
    sizes = tuple((_whole_numbers([position])[0], _term(term)) for position, term in pattern["sizes"])
    operands, outputs = (tuple(map(_term, pattern[name])) for name in ("operands", "outputs"))
    return Finding(
        Pattern(operands, outputs, _term(pattern["whole"]), linear, _whole_numbers(pattern["added"]), sizes), reason
    )


def _term(items: Any) -> Term:
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise TypeError(f"{items!r} is no list of letters")
    return tuple(items)


def _whole_numbers(items: Any) -> tuple[int, ...]:
    if not isinstance(items, list) or not all(type(item) is int for item in items):
        raise TypeError(f"{items!r} is no list of integers")
    return tuple(items)
