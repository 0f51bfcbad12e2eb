"""A colour for each rank, and the ink that reads on it: the same on light and on dark pages.

Up to eight ranks have Okabe and Ito's colours (2008), which any kind of colour vision tells apart. More ranks
go once around the hues of Oklab (Ottosson, 2020), every second one darker, so that neighbours differ in lightness too.
Colour is never alone: the drawings write a rank's number where it fits, and say it in their titles.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin

_DARK, _LIGHT = "#101418", "#ffffff"
_OKABE_ITO = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")
_LIGHTNESS, _CHROMA, _FIRST_HUE = (0.52, 0.80), 0.11, 250.0


@dataclass(frozen=True)
class Colour:
    """What is filled, and what is written on it, as CSS hex colours."""

    fill: str
    ink: str


def rank_colours(ranks: int) -> tuple[Colour, ...]:
    """The colour of each of `ranks` ranks.

    >>> rank_colours(2)
    (Colour(fill='#0072b2', ink='#ffffff'), Colour(fill='#e69f00', ink='#101418'))
    >>> len(set(rank_colours(64)))
    64
    """
    fills = _OKABE_ITO[:ranks] if ranks <= len(_OKABE_ITO) else [_cyclic(i, ranks) for i in range(ranks)]
    return tuple(Colour(fill, _ink(fill)) for fill in fills)


def _cyclic(index: int, count: int) -> str:
    hue = radians(_FIRST_HUE + 360 * index / count)
    return _oklab_to_hex(_LIGHTNESS[index % 2], _CHROMA * cos(hue), _CHROMA * sin(hue))


def _oklab_to_hex(lightness: float, a: float, b: float) -> str:
    """An Oklab colour in sRGB, clipped into the gamut."""
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    return "#" + "".join(f"{round(255 * _encode(min(max(value, 0.0), 1.0))):02x}" for value in linear)


def _encode(linear: float) -> float:
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def _ink(fill: str) -> str:
    """Whichever of dark and light has the higher contrast (WCAG 2) on the colour."""
    own = _luminance(fill)
    contrast = {ink: (max(own, _luminance(ink)) + 0.05) / (min(own, _luminance(ink)) + 0.05) for ink in (_DARK, _LIGHT)}
    return max(contrast, key=lambda ink: contrast[ink])


def _luminance(colour: str) -> float:
    red, green, blue = (_decode(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _decode(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
