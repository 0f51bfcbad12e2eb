"""`axisplit demo`: the whole of axisplit on a real model, SmolLM2-135M-Instruct, whose 9 heads 2 ranks do not divide.

plan, verify      derived and proved now, or kept from an earlier run in which nothing was different
2 processes       each loads its part and they answer a prompt, streaming
1 process         the whole model answers the same; every token must be the same
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import axisplit
from axisplit.cli.generation import Generation, Prepared, generate, prepare, threads_for
from axisplit.cli.planning import sizes_for
from axisplit.cli.rank import Request, Sampling
from axisplit.cli.steps import step
from axisplit.cli.store import contents_digest, find_or_make
from axisplit.models import ModelSource, resolve_model
from axisplit.report.text import bytes_text, columns

if TYPE_CHECKING:
    from axisplit.solve.plan import Plan

MODEL = "smollm2"
Say = Callable[[str], None]


@dataclass(frozen=True)
class KeptVerdict:
    """A verdict as text and as fields, and when it was made ("" if now)."""

    text: str
    fields: dict[str, Any]
    made: str


@dataclass(frozen=True)
class DemoResult:
    """Everything that the demo showed."""

    plan: Plan
    verdict: KeptVerdict
    split: Generation
    whole: Generation

    @property
    def first_difference(self) -> int | None:
        """Where the tokens part; None if they are equal."""
        left, right = self.split.token_ids, self.whole.token_ids
        differing = (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
        return next(differing, None if len(left) == len(right) else min(len(left), len(right)))

    @property
    def exit_code(self) -> int:
        """1 if tokens differ or the verdict says so, 2 if there is no verdict."""
        if self.first_difference is not None or self.verdict.fields["equal"] is False:
            return 1
        return 2 if self.verdict.fields["control_caught"] is False else 0

    def to_json(self) -> dict[str, Any]:
        """The fields of `axisplit demo --json`."""
        return {
            "model": MODEL,
            "plan": self.plan.to_json(),
            "verdict": {**self.verdict.fields, "gradients": None, "kept_from": self.verdict.made or None},
            "split": self.split.to_json(),
            "whole": self.whole.to_json(),
            "tokens_equal": self.first_difference is None,
            "first_difference": self.first_difference,
        }


def run_demo(ranks: int, prompt: str, max_new_tokens: int, say: Say, write: Callable[[str], None]) -> DemoResult:
    """The demo; `say` prints lines, `write` pieces of generated text."""
    source = resolve_model(MODEL)
    ready = prepare(source, ranks, prompt, max_new_tokens, Sampling())
    plan = ready.request.plan
    assert plan is not None
    say(f"\n{plan}\n" + (f"\n  This plan was derived on {ready.plan_made}.\n" if ready.plan_made else ""))
    verdict = verify_once(source, ready.request.checkpoint, plan)
    say(verdict.text + (f"\n  This verdict was reached on {verdict.made}.\n" if verdict.made else "\n"))
    say(f"PROMPT  {prompt}\n")
    split = _answer(ready, ready.request, ranks, threads_for(ranks), say, write)
    whole_request = Request(**{**vars(ready.request), "plan": None})
    whole = _answer(ready, whole_request, 1, threads_for(1), say, write)
    result = DemoResult(plan, verdict, split, whole)
    say(_comparison(result, ready.tokenizer))
    return result


def verify_once(source: ModelSource, checkpoint: Path, plan: Plan) -> KeptVerdict:
    """The verdict on the plan, kept by the weights' every byte."""
    sizes = sizes_for(None, None, plan)

    def build(directory: Path) -> None:
        with step("opening the model") as progress:
            model, inputs = source.with_inputs(*sizes, progress=progress)
        with step("verifying: laws, programs, numbers, control"):
            verdict = axisplit.verify(model, inputs, plan)
        (directory / "verdict.json").write_text(json.dumps(verdict.to_json()))
        (directory / "verdict.txt").write_text(str(verdict), encoding="utf-8")

    plan_digest = hashlib.sha256(repr(plan).encode()).hexdigest()
    depends_on = {"contents": contents_digest(checkpoint), "plan": plan_digest, "sizes": sizes}
    directory, made = find_or_make("verdict", depends_on, build)
    text = (directory / "verdict.txt").read_text(encoding="utf-8")
    return KeptVerdict(text, json.loads((directory / "verdict.json").read_text()), made)


def _answer(
    ready: Prepared, request: Request, ranks: int, threads: int, say: Say, write: Callable[[str], None]
) -> Generation:
    parts = f"{ranks} PROCESSES, each with its part" if request.plan is not None else "1 PROCESS with the whole model"
    say(f"{parts}, {threads} thread{'s' if threads > 1 else ''} each" if ranks > 1 else f"{parts}, {threads} threads")
    write("  ")
    made = generate(ranks, request, ready.tokenizer, threads, lambda text: write(text.replace("\n", "\n  ")))
    write("\n\n")
    return made


def _comparison(result: DemoResult, tokenizer: Any) -> str:
    at = result.first_difference
    count = len(result.whole.token_ids)
    if at is None:
        answer = f"EQUAL  {count} of {count} tokens are the same, one by one"
    else:
        pair = [g.token_ids[at : at + 1] for g in (result.split, result.whole)]
        words = " and ".join(repr(tokenizer.decode(tokens)) if tokens else "the end" for tokens in pair)
        answer = f"DIFFERENT  from token {at + 1} on: {words}"
    made = (result.split, result.whole)
    names = [f"{g.ranks} processes" if g.ranks > 1 else "1 process" for g in made]
    rows = [("", *names), *_figures(made)]
    return "\n".join([answer, "", "MEASURED", *columns(rows, "lrr"), *_gathered(result)])


def _gathered(result: DemoResult) -> list[str]:
    """What a token would move if its logits were gathered, as the plan counts; nothing where they were."""
    planned, sent = (
        sum(c.bytes for c in result.plan.collectives if c.phase == "decode"),
        result.split.comm_bytes_per_token,
    )
    if sent is None or sent >= planned:
        return []
    return [
        f"  The plan counts {bytes_text(planned)} a token, for logits that come back whole: generating needs no more"
    ]


def _figures(made: tuple[Generation, ...]) -> list[tuple[str, ...]]:
    def row(label: str, figure: Callable[[Generation], float | None], unit: Callable[[float], str]) -> tuple[str, ...]:
        return label, *("–" if (value := figure(g)) is None else unit(value) for g in made)

    def seconds(value: float) -> str:
        return f"{value:.2f} s"

    return [
        row("tokens/s, decoding", lambda g: g.tokens_per_s, lambda v: f"{v:.1f}"),
        row("prompt, prefill", lambda g: g.prefill_s, seconds),
        row("loading", lambda g: max(r.load_s for r in g.reports), seconds),
        row("sent by a rank for a token", lambda g: g.comm_bytes_per_token, bytes_text),
        row("sent by a rank for the prompt", lambda g: max(r.prefill_comm_bytes for r in g.reports), bytes_text),
        row("parameters, of the largest rank", lambda g: max(r.parameter_bytes for r in g.reports), bytes_text),
        row("memory of a rank, at most", lambda g: max(r.peak_bytes for r in g.reports), bytes_text),
        row("memory before loading", lambda g: _most([r.idle_bytes for r in g.reports]), bytes_text),
    ]


def _most(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None
