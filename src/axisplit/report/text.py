"""Plain text: clean names, sizes in words, columns, wrapped lists."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence

WIDTH = 110
_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?")
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (bidi, zero width), surrogates, line separators
_UNITS = ("kB", "MB", "GB", "TB")
_NO_BREAK = "\u00a0"


def clean(text: str, keep: str = "") -> str:
    r"""The text without escape sequences, control, bidi and other unseen characters, but those in `keep`.

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
        return f"{size:.0f} B"
    power = 1
    while size / 1000**power >= 999.5 and power < len(_UNITS):
        power += 1
    size /= 1000**power
    digits = 2 if size < 9.995 else 1 if size < 99.95 else 0
    return f"{size:.{digits}f} {_UNITS[power - 1]}"


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
    """Rows as lines: a letter of `align` for each column, l(eft), r(ight), or for the last one w(rapped to WIDTH).

    >>> columns([("a", "10"), ("bcd", "2")], "lr")
    ['  a     10', '  bcd    2']
    """
    lines = []
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(len(align))]
    for row in rows:
        cells = [
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, align, strict=True)
        ]
        if align[-1] == "w":
            head = " " * indent + "".join(cell + " " * gap for cell in cells[:-1])
            lines += hang(head, row[-1])
        else:
            lines.append((" " * indent + (" " * gap).join(cells)).rstrip())
    return lines


def hang(prefix: str, text: str) -> list[str]:
    """`prefix` and text, wrapped to WIDTH under where the text starts.

    >>> hang("axes  ", "heads, ffn")
    ['axes  heads, ffn']
    """
    room = max(WIDTH - len(prefix), 20)
    wrapped = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
    lines = [prefix + wrapped[0], *(" " * len(prefix) + line for line in wrapped[1:])]
    return [line.replace(_NO_BREAK, " ").rstrip() for line in lines]


def unbroken(items: Iterable[str], separator: str = ", ") -> str:
    """Items in a row, for `hang`: a line ends between two of them, not inside one."""
    return separator.join(item.replace(" ", _NO_BREAK) for item in items)
