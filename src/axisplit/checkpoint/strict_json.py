"""JSON from files that others wrote: bounded in size, no duplicate keys, every fault an InputError."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from axisplit.errors import InputError

SPECIAL_FLOATS = ("Infinity", "-Infinity", "NaN")


class DuplicateKeyError(ValueError):
    """A JSON object holds one key twice (most parsers silently keep the last)."""


def parse_json_object(text: bytes, what: str, where: str, *, special_floats: bool = False) -> dict[str, Any]:
    """The JSON object in `text`; `what` and `where` name it in the error.

    `special_floats` admits infinities and NaN, bare (as Python writes them) or tagged (as transformers does).
    Raises: InputError for anything but one UTF-8 JSON object whose keys are unique at every level.
    >>> parse_json_object(b'{"a": {"b": 1}}', "read", "x.json")
    {'a': {'b': 1}}
    """
    hook = _unique_or_float if special_floats else _unique
    constant = float if special_floats else _refuse_constant
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=hook, parse_constant=constant)
    except RecursionError:
        got = "JSON nested too deeply"
    except ValueError as error:
        got = str(error)
    else:
        if isinstance(value, dict):
            return value
        got = f"JSON of type {type(value).__name__}"
    raise InputError(
        what=what, where=where, got=got, needed="one JSON object", do="restore the file from where it came"
    )


def read_json_object(path: Path, what: str, max_bytes: int, *, special_floats: bool = False) -> dict[str, Any]:
    """`parse_json_object` of a regular file of at most `max_bytes`."""
    try:
        size_bytes = path.stat().st_size
        if size_bytes <= max_bytes:
            return parse_json_object(path.read_bytes(), what, str(path), special_floats=special_floats)
        got, needed = f"a file of {size_bytes:,} bytes", f"at most {max_bytes:,} bytes"
    except OSError as error:
        got, needed = error.strerror or str(error), "a readable file"
    raise InputError(what=what, where=str(path), got=got, needed=needed, do="check the path and the file")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise DuplicateKeyError(f"keys that are there twice: {ascii(twice)[:200]}")
    return result


def _unique_or_float(pairs: list[tuple[str, Any]]) -> Any:
    """An object, or the number that transformers writes as {"__float__": "Infinity"}."""
    if [key for key, _ in pairs] == ["__float__"] and pairs[0][1] in SPECIAL_FLOATS:
        return float(pairs[0][1])
    return _unique(pairs)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
