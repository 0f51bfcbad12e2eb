"""Sizes and counts as people write them."""

from __future__ import annotations

import re

from axisplit.errors import InputError

_UNITS: dict[str, float] = {"": 1.0, "B": 1.0} | {
    f"{letter}{middle}B": float(base**power)
    for power, letter in enumerate("KMGT", 1)
    for middle, base in (("", 1000), ("I", 1024))
}
_COUNTS: dict[str, float] = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
_NUMBER = re.compile(r"(\d+(?:\.\d*)?(?:e\d+)?)\s*([A-Za-z]*)")


def parse_bytes(text: str, where: str = "--memory-per-rank") -> float:
    """A size in bytes; `where` is the option that it was given to.

    Raises: InputError.
    >>> parse_bytes("24GiB") == 24 * 2**30, parse_bytes("1.5 kB"), parse_bytes("4096")
    (True, 1500.0, 4096.0)
    """
    size = _value(text, _UNITS)
    if not size:
        raise InputError(
            "this is not a size", where=where, got=text, needed="a number and a unit", do="write 24GiB or 500MB"
        )
    return size


def parse_count(text: str, where: str = "--params") -> int:
    """A number of parameters.

    Raises: InputError.
    >>> parse_count("7e9"), parse_count("7B"), parse_count("1.3b"), parse_count("135M")
    (7000000000, 7000000000, 1300000000, 135000000)
    """
    count = _value(text, _COUNTS)
    if not count or count < 1:
        raise InputError(
            "this is not a number of parameters",
            where=where,
            got=text,
            needed="a number, or one with K, M, B or T",
            do="write 7e9 or 7B",
        )
    return round(count)


def is_count(text: str) -> bool:
    """Whether a text is a number of parameters.

    >>> is_count("7B"), is_count("smollm2")
    (True, False)
    """
    return (_value(text, _COUNTS) or 0) >= 1


def _value(text: str, units: dict[str, float]) -> float | None:
    found = _NUMBER.fullmatch(text.strip())
    unit = units.get(found[2].upper()) if found else None
    return None if found is None or unit is None else float(found[1]) * unit
