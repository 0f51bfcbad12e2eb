"""What a plan moves between ranks, phase by phase, and whether any plan could move less."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from axisplit.report.fold import Blocks
from axisplit.report.text import bytes_text, clean, columns, hang, shorten

if TYPE_CHECKING:
    from axisplit.solve.plan import Plan

_MASKED = " masked"
_PLACE_WIDTH = 48
Row = tuple[str, str]  # kind, where
Traffic = dict[Row, tuple[int, float]]  # calls, bytes


def collectives_section(plan: Plan, blocks: Blocks) -> list[str]:
    """Calls and bytes of each collective, a pair of columns for each phase that differs from the others."""
    if not plan.collectives:
        return ["COLLECTIVES  none: nothing moves"]
    shown, hidden = traffic_shown(plan, blocks)
    places = list(dict.fromkeys(row for moved in shown.values() for row in moved))
    rows = [("", "", *(cell for name in shown for cell in ("", clean(name))))]
    for kind, where in places:
        cells = [_cells(*moved.get((kind, where), (0, 0.0))) for moved in shown.values()]
        rows.append((kind, shorten(where, _PLACE_WIDTH), *(cell for pair in cells for cell in pair)))
    sums = [_cells(sum(n for n, _ in moved.values()), sum(b for _, b in moved.values())) for moved in shown.values()]
    rows.append(("together", "", *(cell for pair in sums for cell in pair)))
    same = f"; {' and '.join(map(clean, hidden))} the same with an attention mask" if hidden else ""
    heading = f"COLLECTIVES  calls, and bytes that the busiest rank sends{same}"
    return [*hang("", heading), *columns(rows, "ll" + "rr" * len(shown))]


def traffic_shown(plan: Plan, blocks: Blocks) -> tuple[dict[str, Traffic], list[str]]:
    """The traffic of each phase that differs from the others, and the phases that are the same with a mask."""
    traffic = _by_phase(plan, blocks)
    shown = {name: moved for name, moved in traffic.items() if not _repeats(name, traffic)}
    return shown, [name.removesuffix(_MASKED) for name in traffic if name not in shown]


def _by_phase(plan: Plan, blocks: Blocks) -> dict[str, Traffic]:
    phases: dict[str, Traffic] = defaultdict(dict)
    for entry in plan.collectives:
        row = clean(entry.kind), clean(blocks.fold_module(entry.where))
        calls, size = phases[entry.phase].get(row, (0, 0.0))
        phases[entry.phase][row] = (calls + entry.count, size + entry.bytes)
    return dict(phases)


def _repeats(name: str, traffic: dict[str, Traffic]) -> bool:
    """Whether a phase with a mask moves what it moves without one."""
    return name.endswith(_MASKED) and traffic[name] == traffic.get(name.removesuffix(_MASKED))


def _cells(calls: int, size: float) -> tuple[str, str]:
    return (f"{calls} ×", bytes_text(size)) if calls else ("", "–")


def optimality_section(plan: Plan) -> list[str]:
    """The figure that was minimised, the solver's bound on it, and under which constraints."""
    moved, bound = bytes_text(plan.comm_bytes_per_rank), bytes_text(plan.lower_bound_bytes)
    if plan.optimal:
        heading = f"OPTIMAL  a rank sends {moved} in a forward; the solver's lower bound is {bound}, provided that"
    else:
        known = f"the lower bound is {bound}" if plan.lower_bound_bytes else "there is no lower bound"
        heading = f"NOT PROVED OPTIMAL  a rank sends {moved} in a forward; {known}, provided that"
    lines = hang("", heading) if plan.constraints else hang("", heading.removesuffix(", provided that"))
    excluded = ["EXCLUDED, as it could not be put into the model's code"] if plan.excluded else []
    return [*lines, *_listed(plan.constraints), *excluded, *_listed(plan.excluded)]


def _listed(texts: Sequence[str]) -> list[str]:
    return [line for text in texts for line in hang("  · ", clean(text))]
