"""Records as docs/coverage.md (totals, what falls short, every model) and docs/coverage.json (everything)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.coverage.family import FAMILIES
from benchmarks.coverage.group import Shortfall, label, shortfalls
from benchmarks.coverage.hand import HandPlan, Standing, may_be_lower, standing
from benchmarks.coverage.record import OUTCOMES, Record
from benchmarks.coverage.totals import LEAST_SPLIT, Alike, HandPlans, Totals, share_of_bytes, totals

INTRO = """# Coverage

Every model type of transformers, tiny (two layers or one of each kind, width 64) and with random weights, planned,
verified, generated with and differentiated at several numbers of ranks. `equal` means that `verify` said so (law,
program, numbers, control) and that a second check, written apart from it, found every output of a forward pass in
float64 equal to the whole model's. Ranks are simulated for all, and real (processes) for a sample of every kind.
`axisplit bench coverage` makes this page; its configs, inputs and limits are in `benchmarks/`, and everything below is
in `coverage.json`.
"""
GRADIENTS = """Gradients: of every parameter on every rank, in training mode with dropout at 0 (in evaluation where
training draws random numbers), by the plan of inference, or one made for training where that runs another program.
"""
LEGEND = """Figures are for the numbers of ranks in the second column, in that order, once where they agree.

- error / bound: the largest in float32, at the number of ranks where it comes closest to its bound
- split: percent of the parameter bytes
- collectives and bytes: of one forward pass (a prefill, where the model generates), as the busiest rank sends them
- hand: the hand plan's outcome, and split and bytes if that is equal
- tiers: modules with hooks only (n), with attributes (a) or expressions (e) changed, or with a captured program (c)
- generates: greedy tokens with the model's own cache are the whole model's
- gradients: are the shards of the whole model's
- real: the same on real processes
"""
YES = {True: "yes", False: "no", None: "–"}


def write(directory: Path, about: Mapping[str, str], records: Iterable[Record], hand: tuple[str, HandPlans]) -> None:
    """Write coverage.md and coverage.json, whole or not at all."""
    ordered = in_order(records)
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in (("coverage.md", page(about, ordered, hand)), ("coverage.json", data(about, ordered, hand))):
        scratch = directory / f"{name}.partial"
        scratch.write_text(text)
        scratch.replace(directory / name)


def in_order(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (record.head != "causal", record.model.lower(), record.ranks))


def data(about: Mapping[str, str], records: Sequence[Record], hand: tuple[str, HandPlans]) -> str:
    """One record a line, so that a difference can be read; of each the fields that say something."""
    lines = [json.dumps(_joined(record, hand[1].get(record.case)), separators=(",", ":")) for record in records]
    head = json.dumps({**about, "hand_plans": hand[0]}, indent=1)
    counted = ",\n".join(json.dumps(each.to_json()) for each in totals(records, hand[1]))
    body = ",\n".join(lines)
    return f'{{"about": {head},\n"totals": [\n{counted}\n],\n"records": [\n{body}\n]}}\n'


def _joined(record: Record, plan: HandPlan | None) -> dict[str, Any]:
    fields = {name: _short(name, value) for name, value in record.to_json().items()}
    if plan is None or not plan.tried:
        return fields
    known = {name: value for name, value in vars(plan).items() if value}
    return {**fields, "hand_plan": {**known, "standing": standing(record, plan)}}


def _short(name: str, value: Any) -> Any:
    """An error or its bound in four digits."""
    return float(f"{value:.4g}") if isinstance(value, float) and name.endswith(("error", "bound")) else value


def page(about: Mapping[str, str], records: Sequence[Record], hand: tuple[str, HandPlans]) -> str:
    """The whole of coverage.md."""
    codes = Counter(record.code for record in records if record.code)
    states = {"source": ", ".join(f"{code} ({count} records)" for code, count in codes.most_common())} if codes else {}
    made_with = [f"- {name}: {value}" for name, value in {**about, **states}.items()]
    counted = totals(records, hand[1])
    parts = [INTRO, *made_with, "", "## Totals", "", *_totals(counted), "", GRADIENTS, *_captured(records), ""]
    parts += [_times(records), ""]
    parts += ["## Beside plans made by hand", "", *_beside(counted, records, hand), ""]
    parts += ["## On real ranks", "", *_real(records), ""]
    parts += ["## What falls short", "", *_falls_short(records)]
    parts += ["## All models", "", LEGEND, *_table(records, hand[1])]
    return "\n".join(parts) + "\n"


# --- totals -----------------------------------------------------------------------------------------------------------


def _totals(counted: Sequence[Totals]) -> list[str]:
    columns = ["head", "ranks", *OUTCOMES, f"≥ {LEAST_SPLIT:.0%} split", "bytes split", "captured"]
    columns += ["generate alike", "gradients alike", "CPU min"]
    return table(columns, [_totals_row(each) for each in counted])


def _totals_row(each: Totals) -> list[str]:
    return [
        each.head,
        str(each.ranks),
        *(str(each.outcomes[outcome] or "") for outcome in OUTCOMES),
        str(each.well_split),
        percent(each.split_share),
        percent(each.captured_share, 2),
        str(each.generate),
        str(each.gradients),
        f"{each.cpu_s / 60:.0f}",
    ]


def _captured(records: Sequence[Record]) -> list[str]:
    """The share of parameters whose modules run a captured program, and whose those are."""
    share = share_of_bytes(records, "captured_fraction")
    shares: dict[str, float] = {}
    for record in records:
        if record.captured_fraction:
            shares[label(record)] = max(shares.get(label(record), 0.0), record.captured_fraction)
    models = len({label(record) for record in records if record.split_fraction is not None})
    named = [f"{name} {percent(shares[name])}" for name in sorted(shares, key=lambda name: (-shares[name], name))]
    head = f"Modules that need a captured program hold {percent(share, 2)} of all parameter bytes, in {len(shares)} of "
    return [f"{head}{models} models{': ' if named else '.'}{', '.join(named)}"]


def _times(records: Sequence[Record]) -> str:
    """Where the time went."""
    spent: Counter[str] = Counter()
    for record in records:
        spent.update(record.stage_cpu_s or {})
    total = spent.total()
    shares = ", ".join(f"{stage} {percent(spent[stage] / total, 0)}" for stage in spent) if total else "not measured"
    return f"CPU time, without building models: {total / 60:.0f} min: {shares}."


# --- beside plans made by hand ----------------------------------------------------------------------------------------

_LISTED: dict[Standing, str] = {
    "worse": "Ours moves no fewer bytes and splits no more, and is worse in one of them",
    "fewer bytes, less split": "Ours moves fewer bytes and splits less",
    "more bytes, more split": "Ours moves more bytes and splits more",
}
_GOOD: tuple[Standing, ...] = ("fewer bytes at an equal split", "no more bytes, more split", "the same")


def _beside(counted: Sequence[Totals], records: Sequence[Record], hand: tuple[str, HandPlans]) -> list[str]:
    columns = ["head", "ranks", "hand plans: equal", "compared", *_GOOD, *reversed(_LISTED)]
    rows = []
    for each in counted:
        counts = [each.standings.get(kind, 0) for kind in (*_GOOD, *reversed(_LISTED))]
        compared = sum(counts)
        if compared or each.hand_plans.of:
            rows.append([each.head, str(each.ranks), str(each.hand_plans), str(compared), *map(str, counts)])
    lines = [f"{hand[0]} Compared are those that are equal, by the bytes a rank sends.", "", *table(columns, rows), ""]
    wrong = [label(r) for r in records if (plan := hand[1].get(r.case)) and plan.outcome == "SILENTLY WRONG"]
    lines += [f"Silently wrong by hand: {', '.join(dict.fromkeys(wrong)) or 'none'}.", ""]
    for kind, text in _LISTED.items():
        found = [r for r in records if standing(r, hand[1].get(r.case)) == kind]
        lines += [f"{text}: {len(found)}{'.' if not found else ':'}", "", *_pairs(found, hand[1])]
    lower = [r for r in records if standing(r, hand[1].get(r.case)) and may_be_lower(r, hand[1][r.case])]
    text = "Ours is not below though the bound on the optimum is (what the optimum needs could not be lowered)"
    return [*lines, f"{text}: {', '.join(f'{label(r)} at {r.ranks}' for r in lower) or 'none'}."]


def _pairs(records: Sequence[Record], hand: HandPlans) -> list[str]:
    lines = []
    for record in records:
        theirs = hand[record.case]
        ours = f"{record.comm_bytes_per_rank:,.0f} bytes, {percent(record.split_fraction)}"
        other = f"{theirs.comm_bytes:,.0f} bytes, {percent(theirs.split_fraction)}"
        lines.append(f"- {label(record)} at {record.ranks}: {ours}; by hand {other}")
    return [*lines, ""] if lines else []


# --- on real ranks ----------------------------------------------------------------------------------------------------


def _real(records: Sequence[Record]) -> list[str]:
    """How many of each kind of model were run on real processes."""
    run = [record for record in records if record.real_equal is not None]
    if not run:
        return ["Not measured."]
    ranks = sorted({record.ranks for record in run})
    rows = []
    for family in FAMILIES:
        of = [record for record in run if record.family == family]
        alike = [str(Alike.count(record.real_equal for record in of if record.ranks == n)) for n in ranks]
        rows.append([family, *alike, ", ".join(sorted({label(record) for record in of}))])
    return table(["kind", *(f"{n} ranks" for n in ranks), "models"], [row for row in rows if row[-1]])


# --- what falls short -------------------------------------------------------------------------------------------------


def _falls_short(records: Sequence[Record]) -> list[str]:
    lines = [
        f"Also what is equal with less than {LEAST_SPLIT:.0%} of the parameter bytes split. At all numbers of ranks"
    ]
    lines += ["unless some are given.", ""]
    every = {r.ranks for r in records}
    found = shortfalls(records)
    for kind in dict.fromkeys(shortfall.kind for shortfall in found):
        lines += [f"### {kind}", "", *(_item(s, every) for s in found if s.kind == kind), ""]
    return lines if found else [*lines, "Nothing.", ""]


def _item(shortfall: Shortfall, every: set[int]) -> str:
    models = [
        name if set(ranks) == every else f"{name} at {', '.join(map(str, ranks))}"
        for name, ranks in shortfall.models.items()
    ]
    stage = f" in {shortfall.stage}" if shortfall.stage in ("plan", "verify", "check") else ""
    return f"- {len(models)}{stage}: {_code(shortfall.example)} — {', '.join(models)}"


def _code(text: str, most: int = 300) -> str:
    short = text if len(text) <= most else text[: most - 1] + "…"
    return f"`{short.replace('`', chr(39))}`" if short else "no reason given"


# --- every model ------------------------------------------------------------------------------------------------------


def _table(records: Sequence[Record], plans: HandPlans) -> list[str]:
    columns = ["model", "ranks", "outcome", "error / bound", "split", "collectives", "bytes", "hand", "tiers"]
    columns += ["generates", "gradients", "real", "CPU s"]
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(label(record), []).append(record)
    return table(columns, [_row(name, group, plans) for name, group in groups.items()])


def _row(name: str, group: list[Record], plans: HandPlans) -> list[str]:
    return [
        name,
        " ".join(str(r.ranks) for r in group),
        alike(r.outcome for r in group),
        _closest(group),
        alike("–" if r.split_fraction is None else f"{100 * r.split_fraction:.1f}" for r in group),
        alike("–" if r.collectives is None else str(r.collectives) for r in group),
        alike("–" if r.comm_bytes_per_rank is None else f"{r.comm_bytes_per_rank:,.0f}" for r in group),
        alike(_hand(plans.get(r.case)) for r in group),
        alike(_tiers(r) for r in group),
        alike(YES[r.generate_equal] for r in group),
        alike(YES[r.gradients_equal] for r in group),
        alike(YES[r.real_equal] for r in group if r.real_equal is not None),
        f"{sum(r.cpu_s or 0.0 for r in group):.0f}",
    ]


def _closest(group: list[Record]) -> str:
    """The error and bound of the number of ranks at which they are closest."""
    known = [(r.max_error, r.bound) for r in group if r.max_error is not None and r.bound is not None]
    if not known:
        return "–"
    error, bound = max(known, key=lambda pair: pair[0] / pair[1] if pair[1] else pair[0])
    return f"{error:.0e} / {bound:.0e}"


def _hand(plan: HandPlan | None) -> str:
    if plan is None or not plan.tried:
        return "–"
    if plan.outcome != "equal" or plan.split_fraction is None or plan.comm_bytes is None:
        return plan.outcome.lower()
    return f"{100 * plan.split_fraction:.1f}, {plan.comm_bytes:,.0f}"


def _tiers(record: Record) -> str:
    if record.tiers is None:
        return "–"
    counts = [f"{count}{tier[0]}" for tier, count in sorted(record.tiers.items(), key=lambda item: item[0])]
    share = f" ({100 * record.captured_fraction:.0f} % captured)" if record.captured_fraction else ""
    return " ".join(counts) + share


def percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def alike(texts: Iterable[str]) -> str:
    """One text if all agree, else all of them.

    >>> alike(["equal", "equal"]), alike(["equal", "refused"])
    ('equal', 'equal · refused')
    """
    found = list(texts)
    return found[0] if len(set(found)) == 1 else " · ".join(found)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
