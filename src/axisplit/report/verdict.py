"""The verdict as text: the answer first, then each of its four grounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from axisplit.report.text import clean, columns

if TYPE_CHECKING:
    from axisplit.proof.delivered import Delivery
    from axisplit.proof.verify import Verdict

MOST_MISMATCHES = 12


def render_verdict(verdict: Verdict) -> str:
    """The verdict as text, for people."""
    answer, rows = verdict_rows(verdict)
    return "\n".join([answer, *columns(rows, "lw")])


def verdict_rows(verdict: Verdict) -> tuple[str, list[tuple[str, str]]]:
    """The answer, and (label, text) of its grounds; a label is empty where a text goes on."""
    rows = [
        ("laws", _laws(verdict)),
        ("program", _program(verdict)),
        ("exact", _exact(verdict)),
        ("numbers", _numbers(verdict)),
        *_labelled("choices", _choices(verdict)),
        *_labelled("control", _control(verdict)),
        *_labelled("gradients", _gradients(verdict)),
        *_labelled("assumed", verdict.proof.assumed or ["nothing"]),
        *_labelled("mismatches", _mismatches(verdict)),
    ]
    return _answer(verdict), [(label, clean(text)) for label, text in rows]


def _answer(verdict: Verdict) -> str:
    if verdict.equal is False:
        return "DIFFERENT  the parts do not give the whole model's answer"
    if verdict.could_not:
        if verdict.no_gradients:
            return "COULD NOT  the forward is equal; gradients could not be derived"
        return "COULD NOT  the comparison would not notice a collective that is missing, so it says nothing"
    if verdict.equal is None:
        return "COULD NOT  no weights, so no numbers were run: laws and program only"
    return "EQUAL  the parts give the whole model's answer"


def _laws(verdict: Verdict) -> str:
    proof = verdict.proof
    return f"{proof.proved:,} of {proof.ops:,} ops are proved to split by a stated rule"


def _program(verdict: Verdict) -> str:
    if verdict.mismatches:
        return "a rank's program is not the split of the whole one"
    return "every rank's program is the split of the whole one, op for op, in every argument"


def _exact(verdict: Verdict) -> str:
    if verdict.exact_error is None:
        return "not run"
    return f"float64 throughout: error {verdict.exact_error:.2g}, relative to the output's scale"


def _numbers(verdict: Verdict) -> str:
    if verdict.max_error is None or verdict.bound is None:
        return "not run"
    relation = "within" if verdict.max_error <= verdict.bound else "ABOVE"
    errors = f"largest error {verdict.max_error:.3g}, {relation} the rounding bound {verdict.bound:.3g}"
    return f"the model's own dtype: {errors}"


def _choices(verdict: Verdict) -> list[str]:
    """Nothing where nothing is chosen."""
    if verdict.numbers is None:
        return []
    choices = verdict.numbers.choices
    made, relation = choices.pinned + choices.not_pinned, "within" if choices.equal else "ABOVE"
    if not made:
        return []
    left = f"; {choices.not_pinned:,} left as they fall" if choices.not_pinned else ""
    scores = f"largest error {choices.max_error:.3g}, {relation} the rounding bound {choices.bound:.3g}"
    texts = [
        f"{choices.pinned:,} of {made:,} decisions (top-k, argmax, sort) pinned to the whole model's{left}",
        f"made otherwise if not pinned: {choices.flipped:,}",
        f"what they are made from: {scores}",
    ]
    if choices.margin is not None and choices.rounding is not None:
        flips = "cannot" if choices.margin > 2 * choices.rounding else "CAN"
        moved = f"rounding moves its scores by up to {choices.rounding:.3g}"
        texts.append(f"closest one: margin {choices.margin:.3g}; {moved} and {flips} flip it")
    return texts


def _control(verdict: Verdict) -> list[str]:
    if verdict.numbers is None:
        return ["not run"]
    errors = verdict.numbers.control_errors
    if not errors:
        return ["no collective to leave out"]
    needed = all(delivery.noticed for delivery in verdict.deliveries)
    caught = _caught(verdict.control_caught, needed)
    lines = [f"each collective left out in turn: {caught}", *(f"{e:9.3g}  without {n}" for n, e in errors.items())]
    lines += _exactly(verdict.numbers.exact_controls)
    return [*lines, *(text for delivery in verdict.deliveries for text in _delivery(delivery, "output"))]


def _caught(control: bool | None, needed: bool) -> str:
    if not control:
        return "NOT each is noticed (needs 10 × the bound)"
    return "each is noticed" if needed else "each is noticed or not needed"


def _delivery(delivery: Delivery, compared: str) -> list[str]:
    relation = "within" if delivery.max_error <= delivery.bound else "ABOVE"
    errors = f"{delivery.max_error:.3g}, {relation} its rounding bound {delivery.bound:.3g}"
    if delivery.noticed:
        told = "what it delivers was compared itself"
    else:
        told = "it delivers what is there without it" if delivery.exercised else "it delivers zeros on these inputs"
    return [
        f"no {compared} notices {delivery.collective}: {told}",
        f"{delivery.missing:9.3g}  without it; error {errors}",
        f"{delivery.exact_missing:9.3g}  without it in float64; error {delivery.exact_error:.2g}",
    ]


def _gradients(verdict: Verdict) -> list[str]:
    if verdict.no_gradients:
        return [f"could not be derived: {verdict.no_gradients}"]
    found = verdict.gradients
    if found is None:
        return []
    relation = "within" if found.max_error <= found.bound else "ABOVE"
    errors = f"largest error {found.max_error:.3g}, {relation} the rounding bound {found.bound:.3g}"
    lines = [
        f"float64 throughout: error {found.exact_error:.2g}, relative to each gradient's scale",
        f"the model's own dtype: {errors} ({found.parameter})",
    ]
    if not found.control_errors:
        return [*lines, "no collective in backward to leave out"]
    needed = not found.vanishing and all(delivery.noticed for delivery in found.deliveries)
    caught = _caught(found.control_caught, needed)
    without = [f"{e:9.3g}  without {n}" for n, e in found.control_errors.items()]
    delivered = [text for delivery in found.deliveries for text in _delivery(delivery, "gradient")]
    without += _exactly(found.exact_controls)
    without += [f"no gradient notices {name}: it sums what is zero but for rounding" for name in found.vanishing]
    return [*lines, f"each collective of backward left out in turn: {caught}", *without, *delivered]


def _exactly(errors: dict[str, float]) -> list[str]:
    """Those that the model's own dtypes do not show by enough."""
    return [f"{error:9.3g}  in float64, relative, without {name}" for name, error in errors.items()]


def _mismatches(verdict: Verdict) -> list[str]:
    shown = [str(mismatch) for mismatch in verdict.mismatches[:MOST_MISMATCHES]]
    more = len(verdict.mismatches) - len(shown)
    return shown + ([f"and {more} more"] if more else []) or ["none"]


def _labelled(label: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    return [(label if number == 0 else "", text) for number, text in enumerate(texts)]
