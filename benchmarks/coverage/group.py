"""Records grouped by what they fall short of, so that one cause is read once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.coverage.record import Outcome, Record
from benchmarks.coverage.totals import LEAST_SPLIT


@dataclass(frozen=True)
class Shortfall:
    """Cases that ended alike: one outcome, one stage, one reason but for names and numbers."""

    kind: str  # one of `KINDS`
    stage: str
    signature: str
    records: tuple[Record, ...]

    @property
    def models(self) -> dict[str, list[int]]:
        """Model (and head, if it is the base one) -> numbers of ranks."""
        found: dict[str, list[int]] = defaultdict(list)
        for record in sorted(self.records, key=lambda r: r.case):
            found[label(record)].append(record.ranks)
        return dict(found)

    @property
    def example(self) -> str:
        """The first record's reason in full."""
        record = self.records[0]
        return next(text for kind, _, text in _reasons(record) if kind == self.kind)


GENERATES, GRADIENTS, NO_GRADIENTS = "generates otherwise", "gradients differ", "gradients not compared"
REAL, LITTLE = "other on real ranks", "little is split"
KINDS: tuple[str, ...] = (
    "different", "error", "timeout", "refused", GENERATES, GRADIENTS, REAL, LITTLE, NO_GRADIENTS, "does not run",
)  # fmt: skip


def label(record: Record) -> str:
    return record.model if record.head == "causal" else f"{record.model} (base)"


def shortfalls(records: Iterable[Record]) -> list[Shortfall]:
    """Every way in which records fall short, the commonest of each kind first. A record may be in several."""
    found: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        for kind, stage, reason in _reasons(record):
            found[kind, stage, signature(reason)].append(record)
    made = [Shortfall(*key, tuple(group)) for key, group in found.items()]
    return sorted(made, key=lambda s: (KINDS.index(s.kind), -len(s.models), s.signature))


def _reasons(record: Record) -> Iterable[tuple[str, str, str]]:
    outcome: Outcome = record.outcome
    if outcome != "equal":
        yield outcome, record.stage, record.reason
    if record.generate_equal is False:
        yield GENERATES, "generate", record.generate_reason
    if record.gradients_equal is False:
        yield GRADIENTS, "gradients", record.gradients_reason
    elif record.gradients_reason:
        yield NO_GRADIENTS, "gradients", record.gradients_reason
    if record.real_equal is False:
        yield REAL, "real", record.real_reason
    if outcome == "equal" and record.split_fraction is not None and record.split_fraction < LEAST_SPLIT:
        yield LITTLE, "", "; ".join(record.kept_whole)


def signature(reason: str, most: int = 160) -> str:
    """A reason without what differs between models: numbers, names of layers and classes, what follows `needed`.

    >>> signature("aten.mul.Tensor in model.layers.0.self_attn has other 0.70, needed 0.5")
    'aten.mul.Tensor in … has other #, needed #'
    """
    text = re.sub(r" · (needed|do|where): [^·]*", "", reason)
    text = re.sub(r"\b(?!aten\.)[A-Za-z_]\w*(\.[\w*]+){2,}", "…", text)
    text = re.sub(r"\b[A-Z][a-z]\w*(ForCausalLM|Model|Config|LMHeadModel|Decoder|Attention)\w*", "…", text)
    text = re.sub(r"rank \d+: .*", lambda found: found[0].partition("; rank ")[0], text)
    text = re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "#", text)
    return text[:most]
