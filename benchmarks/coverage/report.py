"""Records as docs/coverage.md (a summary, what falls short, every model) and docs/coverage.json (everything)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.coverage.group import LEAST_SPLIT, Shortfall, label, shortfalls
from benchmarks.coverage.hand import HandPlan
from benchmarks.coverage.record import OUTCOMES, Case, Record

HandPlans = Mapping[Case, HandPlan]
INTRO = """# Coverage

Every model type of transformers, tiny (two layers or one of each kind, width 64) and with random weights, planned,
verified and generated with at several numbers of ranks, all simulated on one CPU. `equal` means that `verify` said so
(law, program, numbers, control) and that a second check, written apart from it, found every output of a forward pass in
float64 equal to the whole model's. `axisplit bench coverage` makes this page; its configs, inputs and limits are in
`benchmarks/`, and everything below is in `coverage.json`.
"""
LEGEND = """Figures are for the numbers of ranks in the second column, in that order, once where they agree.

- split: percent of the parameter bytes
- collectives and bytes: of one forward pass (a prefill, where the model generates), as the busiest rank sends them
- hand: outcome and split of the hand plan, and the bytes that a rank hands to collectives in it / in ours
- tiers: modules with hooks only (n), with attributes (a) or expressions (e) changed, or with a captured program (c)
- generates: greedy tokens with the model's own cache are the whole model's
"""


def write(directory: Path, about: Mapping[str, str], records: Iterable[Record], hand: tuple[str, HandPlans]) -> None:
    """Write coverage.md and coverage.json, whole or not at all."""
    ordered = sorted(records, key=lambda record: (record.head != "causal", record.model.lower(), record.ranks))
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in (("coverage.md", page(about, ordered, hand)), ("coverage.json", data(about, ordered, hand))):
        scratch = directory / f"{name}.partial"
        scratch.write_text(text)
        scratch.replace(directory / name)


def data(about: Mapping[str, str], records: Sequence[Record], hand: tuple[str, HandPlans]) -> str:
    """One record a line, so that a difference can be read."""
    lines = [json.dumps(_joined(record, hand[1].get(record.case))) for record in records]
    head = json.dumps({**about, "hand_plans": hand[0]}, indent=1)
    body = ",\n".join(lines)
    return f'{{"about": {head},\n"records": [\n{body}\n]}}\n'


def _joined(record: Record, plan: HandPlan | None) -> dict[str, Any]:
    known = None if plan is None else {**vars(plan)}
    return {**record.to_json(), "hand_plan": known}


def page(about: Mapping[str, str], records: Sequence[Record], hand: tuple[str, HandPlans]) -> str:
    """The whole of coverage.md."""
    codes = Counter(record.code for record in records if record.code)
    states = {"source": ", ".join(f"{code} ({count} records)" for code, count in codes.most_common())} if codes else {}
    made_with = [f"- {name}: {value}" for name, value in {**about, **states}.items()]
    parts = [INTRO, *made_with, "", "## Summary", "", *summary(records, hand[1]), "", f"Hand plans: {hand[0]}", ""]
    parts += ["## What falls short", "", *_falls_short(records)]
    parts += ["## All models", "", LEGEND, *_table(records, hand[1])]
    return "\n".join(parts) + "\n"


# --- summary ----------------------------------------------------------------------------------------------------------


def summary(records: Sequence[Record], hand: HandPlans) -> list[str]:
    """For each head and number of ranks: outcomes, generation, bytes, and the same of the hand plans."""
    columns = ["head", "ranks", "runs", *OUTCOMES[:-1], "generates alike", "hand plans: equal", "bytes beside them"]
    rows = []
    for head, ranks in dict.fromkeys((r.head, r.ranks) for r in sorted(records, key=lambda r: (r.head, r.ranks))):
        rows.append(_summary_row([r for r in records if (r.head, r.ranks) == (head, ranks)], hand))
    return table(columns, rows)


def _summary_row(records: list[Record], hand: HandPlans) -> list[str]:
    runs = [r for r in records if r.outcome != "does not run"]
    counts = [sum(r.outcome == outcome for r in runs) for outcome in OUTCOMES[:-1]]
    generated = [r.generate_equal for r in runs if r.generate_equal is not None]
    plans = [hand[r.case] for r in runs if r.case in hand]
    tried = [plan for plan in plans if plan.tried]
    by_hand = f"{sum(p.outcome == 'equal' for p in tried)} of {len(tried)} tried" if plans else "not measured"
    return [
        records[0].head,
        str(records[0].ranks),
        f"{len(runs)} of {len(records)}",
        *(str(count) if count else "" for count in counts),
        f"{sum(generated)} of {len(generated)}" if generated else "",
        by_hand,
        _bytes_beside(runs, hand),
    ]


def _bytes_beside(records: list[Record], hand: HandPlans) -> str:
    """How often fewer, the same or more bytes than a hand plan that is equal, too, and the ratio of the sums."""
    pairs = [
        (record.payload_bytes, hand[record.case].payload_bytes)
        for record in records
        if record.outcome == "equal" and record.case in hand and hand[record.case].outcome == "equal"
    ]
    known = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs]
    if not known:
        return ""
    fewer, more = sum(a < b for a, b in known), sum(a > b for a, b in known)
    ratio = sum(a for a, _ in known) / sum(b for _, b in known)
    return f"fewer {fewer}, same {len(known) - fewer - more}, more {more}; {ratio:.2f} of theirs"


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
    stage = f" in {shortfall.stage}" if shortfall.stage not in ("", "build", "generate") else ""
    return f"- {len(models)}{stage}: {_code(shortfall.example)} — {', '.join(models)}"


def _code(text: str, most: int = 300) -> str:
    short = text if len(text) <= most else text[: most - 1] + "…"
    return f"`{short.replace('`', chr(39))}`" if short else "no reason given"


# --- every model ------------------------------------------------------------------------------------------------------


def _table(records: Sequence[Record], plans: HandPlans) -> list[str]:
    columns = ["model", "ranks", "outcome", "split", "collectives", "bytes", "hand", "tiers", "generates", "CPU s"]
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(label(record), []).append(record)
    return table(columns, [_row(name, group, plans) for name, group in groups.items()])


def _row(name: str, group: list[Record], plans: HandPlans) -> list[str]:
    return [
        name,
        " ".join(str(r.ranks) for r in group),
        alike(r.outcome for r in group),
        alike("–" if r.split_fraction is None else f"{100 * r.split_fraction:.1f}" for r in group),
        alike("–" if r.collectives is None else str(r.collectives) for r in group),
        alike("–" if r.comm_bytes_per_rank is None else f"{r.comm_bytes_per_rank:,.0f}" for r in group),
        alike(_hand(r, plans.get(r.case)) for r in group),
        alike(_tiers(r) for r in group),
        alike({True: "yes", False: "no", None: "–"}[r.generate_equal] for r in group),
        f"{sum(r.cpu_s or 0.0 for r in group):.0f}",
    ]


def _hand(record: Record, plan: HandPlan | None) -> str:
    if plan is None:
        return "–"
    if plan.outcome != "equal" or plan.split_fraction is None:
        return plan.outcome.lower()
    ours = "–" if record.payload_bytes is None else f"{record.payload_bytes:,.0f}"
    return f"equal {100 * plan.split_fraction:.1f} {plan.payload_bytes:,} / {ours}"


def _tiers(record: Record) -> str:
    if record.tiers is None:
        return "–"
    counts = [f"{count}{tier[0]}" for tier, count in sorted(record.tiers.items(), key=lambda item: item[0])]
    share = f" ({100 * record.captured_fraction:.0f} % captured)" if record.captured_fraction else ""
    return " ".join(counts) + share


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
