"""Lines over powers of two, as SVG that reads on light and on dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log2

__all__ = ["Line", "plot"]

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 330, 280, 56, 68, 44
_STYLE = """
  svg { font: 12px system-ui, sans-serif; fill: #333; background: #fff }
  path { fill: none; stroke: #1f6feb; stroke-width: 2 } circle { fill: #1f6feb }
  path.bound { stroke: #888; stroke-dasharray: 5 4 } .axis { stroke: #ccc; stroke-width: 1 }
  @media (prefers-color-scheme: dark) {
    svg { fill: #ddd; background: #1b1b1b } path { stroke: #79b8ff } circle { fill: #79b8ff } .axis { stroke: #444 }
  }
"""


@dataclass(frozen=True)
class Line:
    """One series; a bound is dashed. What is 0 is not drawn: there is no place for it on a logarithmic axis."""

    name: str
    values: Sequence[float]
    bound: bool = False


def plot(over: str, at: Sequence[float], panels: Sequence[tuple[str, Sequence[Line]]]) -> str:
    """Panels side by side over the same values; both axes logarithmic."""
    width = len(panels) * _WIDTH
    drawn = [_panel(i * _WIDTH, over, at, title, lines) for i, (title, lines) in enumerate(panels)]
    label = escape(f"{', '.join(title for title, _ in panels)} against {over}", quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" width="{width}" role="img" '
        f'aria-label="{label}"><style>{_STYLE}</style>\n{"".join(drawn)}</svg>\n'
    )


def _panel(left: int, over: str, at: Sequence[float], title: str, lines: Sequence[Line]) -> str:
    shown = [value for line in lines for value in line.values if value > 0]
    low, high = floor(log2(min(shown))), ceil(log2(max(shown)))
    first, last = log2(at[0]), log2(at[-1])
    right, bottom = _WIDTH - 16, _HEIGHT - _BOTTOM

    def x(value: float) -> float:
        return _LEFT + (log2(value) - first) / (last - first) * (right - _LEFT)

    def y(value: float) -> float:
        return bottom - (log2(value) - low) / (high - low) * (bottom - _TOP)

    parts = [f'<g transform="translate({left} 0)"><text x="{_LEFT}" y="18">{escape(title)}</text>\n']
    parts += [
        f'<path class="axis" d="M{_LEFT} {y(v):.1f}H{right}"/><text x="{_LEFT - 6}" y="{y(v) + 4:.1f}" '
        f'text-anchor="end">{v:g}</text>\n'
        for v in _ticks(low, high)
    ]
    parts += [f'<text x="{x(v):.1f}" y="{bottom + 16}" text-anchor="middle">{v:g}</text>\n' for v in at]
    parts.append(f'<text x="{(_LEFT + right) / 2}" y="{bottom + 34}" text-anchor="middle">{escape(over)}</text>\n')
    for number, line in enumerate(lines):
        points = [(x(a), y(v)) for a, v in zip(at, line.values, strict=True) if v > 0]
        kind = ' class="bound"' if line.bound else ""
        parts.append(f'<path{kind} d="M{" L".join(f"{a:.1f} {b:.1f}" for a, b in points)}"/>\n')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3"/>\n' for a, b in points if not line.bound]
        place = 34 + 16 * number
        parts.append(f'<path{kind} d="M{_LEFT + 8} {place}h22"/>')
        parts.append(f'<text x="{_LEFT + 36}" y="{place + 4}">{escape(line.name)}</text>\n')
    return "".join([*parts, "</g>\n"])


def _ticks(low: int, high: int) -> list[float]:
    """Powers of two, or of four where there are many."""
    return [2.0**power for power in range(low, high + 1, 1 if high - low <= 6 else 2)]
