"""Plans and verdicts in a notebook's cell: compact, without ids, script or style sheet: many fit in one notebook.

Colours are the drawings' own and the text's is the notebook's, so both its themes are served.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from axisplit.report.page.view import FigureView, MoveView, RowView, StackView, View, view_of
from axisplit.report.text import bytes_text, clean, percent_text
from axisplit.report.verdict import verdict_rows

if TYPE_CHECKING:
    from axisplit.proof.verify import Verdict
    from axisplit.solve.plan import Plan

_BOX = "max-width:64em;line-height:1.5"
_FLOW = "display:flex;flex-wrap:wrap;align-items:center;gap:.4em 1.2em;margin:.5em 0"
_CELL = "text-align:left;vertical-align:baseline;padding:.1em 1.2em .1em 0"
_MOST_ROWS = 6


def plan_html(plan: Plan) -> str:
    """A sentence, the axes, and the first rows of the model; `Plan.to_html` has the rest."""
    view = view_of(plan)
    rows = list(_drawn_rows(view.items))
    more = len(rows) - _MOST_ROWS
    parts = [
        f"<p><b>{escape(view.model)}</b> over {plan.ranks} {'rank' if plan.ranks == 1 else 'ranks'}. {_lead(plan)}</p>",
        _axes(view),
        *(_row(label, row) for label, row in rows[:_MOST_ROWS]),
        f"<p>… and {more} more rows: <code>plan.to_html()</code></p>" if more > 0 else "",
    ]
    return f'<div class="axisplit-plan" style="{_BOX}">{"".join(parts)}</div>'


def _lead(plan: Plan) -> str:
    held = f"Each holds at most {bytes_text(max(plan.bytes_per_rank, default=0))} of {bytes_text(plan.total_bytes)}"
    moved = f"the busiest sends {bytes_text(plan.comm_bytes_per_rank)} in a forward"
    bound = "which no plan undercuts" if plan.optimal else "which is not proved to be the least"
    warned = "".join(f"<br><b>Warning.</b> {escape(clean(text))}" for text in plan.warnings)
    return f"{held} ({percent_text(plan.split_fraction)} split); {moved}, {bound}.{warned}"


def _axes(view: View) -> str:
    rows = "".join(
        f'<tr><td style="{_CELL};white-space:nowrap"><b>{escape(axis.word)}</b> {axis.size}</td>'
        f'<td style="{_CELL}">{axis.strip}</td>'
        f'<td style="{_CELL}"><code>{escape(axis.where)}</code></td></tr>'
        for axis in view.axes
    )
    return f"<table>{rows}</table>" if rows else ""


def _drawn_rows(items: tuple[RowView | StackView, ...], prefix: str = "") -> Iterator[tuple[str, RowView]]:
    """Rows with something drawn, each with what it is part of."""
    for item in items:
        if isinstance(item, StackView):
            block = f"{prefix}{item.label} {item.first}–{item.last} × {item.count}"
            yield from _drawn_rows(item.items, f"{block}: ")
        elif any(isinstance(shape, FigureView) for shape in item.drawn):
            yield f"{prefix}{item.label}".rstrip(": "), item


def _row(label: str, row: RowView) -> str:
    shapes = [shape.svg if isinstance(shape, FigureView) else _move(shape) for shape in row.drawn]
    return f'<div><small>{escape(label)}</small><div style="{_FLOW}">{"".join(shapes)}</div></div>'


def _move(shown: MoveView) -> str:
    move = shown.move
    if move.backward:
        return ""
    calls = "<br>".join(f"{text} {escape(phase)}" for phase, text, _ in move.calls)
    at = f"{escape(shown.at)}<br>" if shown.at else ""
    return f'<small style="text-align:center">{at}<b>{escape(move.kind)}</b> →<br>{calls}</small>'


def verdict_html(verdict: Verdict) -> str:
    """The answer and its grounds."""
    answer, rows = verdict_rows(verdict)
    word, _, rest = answer.partition("  ")
    lines = "".join(
        f'<tr><td style="{_CELL}"><i>{escape(label)}</i></td><td style="{_CELL}">{escape(text)}</td></tr>'
        for label, text in rows
    )
    head = f"<p><b>{escape(word)}</b> {escape(rest)}</p>"
    return f'<div class="axisplit-verdict" style="{_BOX}">{head}<table>{lines}</table></div>'
