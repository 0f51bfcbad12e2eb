"""The audit as text: the answer first, then where, then what moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from axisplit.report.text import bytes_text, clean, columns, percent_text

if TYPE_CHECKING:
    from axisplit.auditing.judge import Audit, WrongGradient

MOST_GRADIENTS = 12


def render_audit(audit: Audit) -> str:
    """The audit as text, for people."""
    rows = [
        ("plan", f"{audit.kind} styles on {audit.ranks} real ranks, float64"),
        *[("", f"matches nothing in the model: {rule}") for rule in audit.unused],
        ("forward", _forward(audit)),
        *_where(audit),
        *_parameters(audit),
        *_gradients(audit),
        *_crash(audit),
        *_bytes(audit),
    ]
    return "\n".join([_answer(audit), *columns([(label, clean(text)) for label, text in rows], "lw")])


def _answer(audit: Audit) -> str:
    name = audit.model
    if audit.right:
        return f"RIGHT  {name}: outputs and every parameter's gradient are the whole model's"
    if audit.forward is False:
        return f"WRONG  {name}: it runs, and its outputs are not the whole model's"
    if audit.crash is not None:
        return f"WRONG  {name}: it crashes"
    if audit.forward_with_gradients is False:
        return f"WRONG  {name}: its outputs are right without gradients and wrong with them"
    if audit.gradients and audit.accumulated is False:
        return f"WRONG  {name}: its gradients are right in one backward, and wrong where several add up"
    if audit.gradients:
        return f"WRONG  {name}: it runs right, but does not hold the checkpoint's parameters"
    return f"WRONG  {name}: its outputs are right, its gradients are not"


def _forward(audit: Audit) -> str:
    if audit.forward is None:
        return "not reached"
    if audit.forward and audit.forward_with_gradients is not False:
        return "every output is the whole model's on every rank"
    return "; ".join(f"{leaf}: {_words(state)}" for leaf, state in audit.outputs.items() if state != "whole")


def _words(state: str | None) -> str:
    return {
        "whole": "whole",
        "part": "each rank's own part",
        "partial": "to be summed over ranks",
        "repeated": "counted on several ranks",
        "absent": "missing on a rank",
        "reordered": "whole, in another order",
        "wrong": "neither the whole model's nor a part of it",
        None: "unknown",
    }[state]


def _where(audit: Audit) -> list[tuple[str, str]]:
    if audit.first_wrong is None:
        return []
    wrong = audit.first_wrong
    place = f"in its own code, before {wrong.before}" if wrong.before else "in what it returns"
    after = [("", f"after {name or 'the model'}: {_words(state)}") for name, state in wrong.after]
    return [
        ("first wrong", f"{wrong.module or 'the model itself'}, {place}: {_words(wrong.state)}"),
        *after,
    ]


def _parameters(audit: Audit) -> list[tuple[str, str]]:
    states = dict.fromkeys(audit.wrong_parameters.values())
    texts = [
        f"not the checkpoint's, but {_words(state)}: "
        + ", ".join(name for name, own in audit.wrong_parameters.items() if own == state)
        for state in states
    ]
    return [("parameters" if number == 0 else "", text) for number, text in enumerate(texts)]


def _gradients(audit: Audit) -> list[tuple[str, str]]:
    if audit.gradients is None:
        return [("gradients", "not reached")]
    if audit.gradients:
        return [("gradients", "every parameter's is the whole model's"), *_accumulated(audit)]
    shown = [_gradient(wrong) for wrong in audit.wrong_gradients[:MOST_GRADIENTS]]
    more = len(audit.wrong_gradients) - len(shown)
    texts = ["wrong, nearest to the cause first:", *shown, *([f"and {more} more"] if more else [])]
    return [("gradients" if number == 0 else "", text) for number, text in enumerate(texts)] + _accumulated(audit)


def _accumulated(audit: Audit) -> list[tuple[str, str]]:
    if audit.accumulated is not False:
        return []
    texts = [
        "right in one backward, wrong where several add up (zero gradients before each):",
        *audit.wrong_accumulated,
    ]
    return [("" if number else "accumulated", text) for number, text in enumerate(texts)]


def _gradient(wrong: WrongGradient) -> str:
    layers = f" ({wrong.count} layers)" if wrong.count > 1 else ""
    ours = {"sum": "; axisplit's plan sums it", "shared": "; axisplit's plan sums it over those that share it"}
    return f"{wrong.parameter}{layers}: {wrong.missing}{ours.get(wrong.planned or '', '')}"


def _crash(audit: Audit) -> list[tuple[str, str]]:
    if audit.crash is None:
        return []
    crash = audit.crash
    where = f" in {crash.module}" if crash.module else ""
    return [("crash", f"{crash.step}{where}: {crash.error}")]


def _bytes(audit: Audit) -> list[tuple[str, str]]:
    ours, rows = audit.optimum, []
    if audit.comm_bytes_per_rank is not None:
        rows.append(("moves", f"{bytes_text(audit.comm_bytes_per_rank)} a rank forward: {_kinds(audit.forward_bytes)}"))
        if audit.backward_bytes:
            sent = bytes_text(sum(audit.backward_bytes.values()))
            rows.append(("", f"{sent} a rank backward: {_kinds(audit.backward_bytes)}"))
    if audit.split_fraction is not None:
        rows.append(("split", f"{percent_text(audit.split_fraction)} of the parameters"))
    if ours is None:
        return [*rows, ("optimum", f"not derived: {audit.no_optimum}")]
    text = f"{bytes_text(ours.comm_bytes_per_rank)} a rank forward, {percent_text(ours.split_fraction)} split"
    beyond = (audit.comm_bytes_per_rank or 0) - ours.comm_bytes_per_rank
    if audit.right and beyond > 0:
        text += f"; the plan moves {bytes_text(beyond)} more ({audit.comm_bytes_per_rank or 0:,} against"
        text += f" {ours.comm_bytes_per_rank:,.0f} bytes)"
    return [*rows, ("optimum", text)]


def _kinds(sent: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {bytes_text(size)}" for kind, size in sent.items()) or "nothing"
