"""Plain text: clean names, sizes in words, columns, wrapped lists."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Sequence

WIDTH = 110
_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?")
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (bidi, zero width), surrogates, line and paragraph separators
_NO_BREAK = "\u00a0"


def clean(text: str, keep: str = "") -> str:
    """The text without escape sequences, control, bidi and other unseen characters, but those in `keep`.

    >>> clean("layer\x1b[31m.0\u202e\x07")
    'layer.0'
    """
    text = _ESCAPE.sub("", text)
    return "".join(c for c in text if c in keep or unicodedata.category(c) not in _UNSEEN)


def bytes_text(size: float) -> str:
    """Bytes in decimal units, three digits.

    >>> bytes_text(2304), bytes_text(286_795_008), bytes_text(12), bytes_text(999_900)
    ('2.30 kB', '287 MB', '12 B', '1.00 MB')
    """
    if size < 1000:
        return f"{size:.4g} B"
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if size < 999.5:
            break
    digits = 2 if size < 9.995 else 1 if size < 99.95 else 0
    return f"{size:.{digits}f} {unit}"


def percent_text(share: float) -> str:
    """A share in percent; 100 % only for all of it.

    >>> percent_text(0.9997), percent_text(0.5), percent_text(0.999999), percent_text(1.0)
    ('99.97 %', '50.0 %', '99.99 %', '100 %')
    """
    if share == 1:
        return "100 %"
    percent = 100 * share
    return f"{min(percent, 99.99):.2f} %" if percent > 99 else f"{percent:.1f} %"


def shorten(text: str, width: int) -> str:
    """The text, its middle left out if it is longer than `width`.

    >>> shorten("model.layers.0.mlp", 9)
    'mode….mlp'
    """
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def columns(rows: Sequence[Sequence[str]], align: str, indent: int = 2, gap: int = 3) -> list[str]:
    """Rows as lines: one letter of `align` (l, r) for each column; the last column is not padded.

    >>> columns([("a", "10"), ("bcd", "2")], "lr")
    ['  a     10', '  bcd    2']
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(align))] if rows else []
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, align, strict=True)
        ]
        lines.append((" " * indent + (" " * gap).join(cells)).rstrip())
    return lines


def hang(prefix: str, items: Sequence[str], separator: str = ", ") -> list[str]:
    """`prefix` and the items, wrapped to WIDTH under where the first item starts; no item is broken unless it must be.

    >>> hang("axes  ", ["heads", "ffn"])
    ['axes  heads, ffn']
    """
    text = separator.join(item.replace(" ", _NO_BREAK) for item in items)
    room = max(WIDTH - len(prefix), 20)
    wrapped = textwrap.wrap(text, room, break_on_hyphens=False, break_long_words=True) or [""]
    lines = [prefix + wrapped[0], *(" " * len(prefix) + line for line in wrapped[1:])]
    return [line.replace(_NO_BREAK, " ").rstrip() for line in lines]


def paragraph(prefix: str, text: str) -> list[str]:
    """`prefix` and prose, wrapped to WIDTH under where the prose starts."""
    return hang(prefix, text.split(" "), " ")
