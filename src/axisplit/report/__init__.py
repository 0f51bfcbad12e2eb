"""Plans and verdicts as text: plain strings, the same every time, at most 110 columns wide."""

from axisplit.report.table import render_plan, render_verdict

__all__ = ["render_plan", "render_verdict"]
