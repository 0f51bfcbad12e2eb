"""`axisplit generate`: a prompt, real processes, text as it comes, and what it cost.

prepare      prompt -> tokens; the plan, kept from an earlier run where nothing has changed
generate     the processes (rank.py), tokens as they come, one summary
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axisplit.cli.preload import start_fork_server
from axisplit.cli.rank import RankReport, Request, Sampling, generate_on_rank
from axisplit.cli.steps import step
from axisplit.cli.store import find_or_make, structure_digest
from axisplit.errors import CollectiveError, InputError
from axisplit.report.text import bytes_text, clean

if TYPE_CHECKING:
    from axisplit.models import ModelSource
    from axisplit.solve.plan import Plan

_LEAST_SEQ = 32


@dataclass(frozen=True)
class Generation:
    """What the ranks did together. `tokens_per_s` counts decode steps; None if there were none."""

    text: str
    token_ids: list[int]
    ranks: int
    threads_per_rank: int
    reports: list[RankReport]

    @property
    def decode_steps(self) -> int:
        return len(self.token_ids) - 1

    @property
    def tokens_per_s(self) -> float | None:
        slowest = max(report.decode_s for report in self.reports)
        return self.decode_steps / slowest if self.decode_steps and slowest else None

    @property
    def comm_bytes_per_token(self) -> float | None:
        most = max(report.decode_comm_bytes for report in self.reports)
        return most / self.decode_steps if self.decode_steps else None

    @property
    def prefill_s(self) -> float:
        """Of the rank that was ready last: the others waited for it."""
        return min(report.prefill_s for report in self.reports)

    def to_json(self) -> dict[str, Any]:
        """The fields of `axisplit generate --json`."""
        return {
            "text": self.text,
            "token_ids": self.token_ids,
            "ranks": self.ranks,
            "tokens_per_s": self.tokens_per_s,
            "comm_bytes_per_token": self.comm_bytes_per_token,
            "peak_bytes_per_rank": [report.peak_bytes for report in self.reports],
            "idle_bytes_per_rank": [report.idle_bytes for report in self.reports],
            "private_bytes_per_rank": [report.private_bytes for report in self.reports],
            "parameter_bytes_per_rank": [report.parameter_bytes for report in self.reports],
            "prefill_comm_bytes": max(report.prefill_comm_bytes for report in self.reports),
            "prefill_s": self.prefill_s,
            "load_s": max(report.load_s for report in self.reports),
            "threads_per_rank": self.threads_per_rank,
        }


class TextStream:
    """Tokens to text, piece by piece; a character that is not complete yet waits."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = ""

    def add(self, token: int) -> str:
        """What the token adds, without escape sequences and other unseen characters."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        if text.endswith("\ufffd"):
            return ""
        new, self._shown = text[len(self._shown) :], text
        return clean(new, keep="\n\t")

    @property
    def text(self) -> str:
        """All of it, as it is."""
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=True))


def encode(tokenizer: Any, prompt: str, chat: bool | None) -> tuple[int, ...]:
    """The prompt as tokens: as a user's turn of a chat where the tokenizer has a template (None), asked for or not.

    Raises: InputError without a template, or without a token.
    """
    template = getattr(tokenizer, "chat_template", None)
    if chat and not template:
        raise InputError("the tokenizer has no chat template", where="--chat", do="leave --chat out")
    if template and chat is not False:
        turn = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=True)[
            "input_ids"
        ]
    else:
        ids = tokenizer(prompt)["input_ids"]
    if not ids:
        raise InputError("the prompt has no token", where="--prompt", got=repr(prompt), needed="some text")
    return tuple(int(token) for token in ids)


def end_tokens(checkpoint: Path, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a text: the generation config's, the config's and the tokenizer's."""
    from axisplit.checkpoint.strict_json import read_json_object

    found = [getattr(tokenizer, "eos_token_id", None)]
    for name in ("generation_config.json", "config.json"):
        if (checkpoint / name).is_file():
            value = read_json_object(checkpoint / name, "cannot read the model's config", 2**23, special_floats=True)
            eos = value.get("eos_token_id")
            found += eos if isinstance(eos, list) else [eos]
    return frozenset(token for token in found if isinstance(token, int))


def plan_for(source: ModelSource, checkpoint: Path, ranks: int, num_tokens: int) -> tuple[Plan, str]:
    """(plan for prompts of about so many tokens, when it was made earlier or "").

    Lengths are rounded up to a power of two, so that one plan serves many prompts.
    """
    import axisplit

    seq = max(_LEAST_SEQ, 1 << (num_tokens - 1).bit_length())

    def build(directory: Path) -> None:
        from axisplit.models import example_inputs

        with step(f"deriving the plan for {ranks} ranks"):
            model = source.build_meta()
            if not getattr(model, "can_generate", bool)():
                raise InputError(
                    "this model does not generate text",
                    where=source.name,
                    got=type(model).__name__,
                    needed="a causal language model",
                    do="axisplit plan and axisplit verify take it",
                )
            limit = getattr(getattr(model, "config", None), "max_position_embeddings", None) or seq
            inputs = example_inputs(model, 1, min(seq, limit))
            axisplit.plan(model, inputs, ranks=ranks, name=source.name).save(directory / "plan.json")

    depends_on = {"structure": structure_digest(checkpoint), "ranks": ranks, "seq": seq, "name": source.name}
    directory, made = find_or_make("plan", depends_on, build)
    return axisplit.Plan.load(directory / "plan.json"), made


def generate(
    ranks: int, request: Request, tokenizer: Any, threads_per_rank: int, on_text: Callable[[str], None]
) -> Generation:
    """Run the request on new local processes; `on_text` gets the text piece by piece.

    Raises: CollectiveError if a rank fails, or ranks do not agree on the tokens.
    """
    from axisplit.runtime.launch import launch_stream

    text = TextStream(tokenizer)
    stream = launch_stream(ranks, generate_on_rank, (request,), threads_per_rank=threads_per_rank)
    while True:
        try:
            on_text(text.add(next(stream)))
        except StopIteration as end:
            reports: list[RankReport] = end.value
            break
    token_ids = reports[0].token_ids
    others = [rank for rank, report in enumerate(reports) if report.token_ids != token_ids]
    if others:
        raise CollectiveError("ranks generated other tokens than rank 0", got=f"rank {', '.join(map(str, others))}")
    return Generation(text.text, token_ids, ranks, threads_per_rank, reports)


def threads_for(ranks: int) -> int:
    """Threads of each rank, so that together they use the cores that this process may."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // ranks)


@dataclass(frozen=True)
class Prepared:
    """All that generation needs, and when its plan was made ("" if now)."""

    request: Request
    tokenizer: Any
    plan_made: str


def prepare(
    source: ModelSource,
    ranks: int,
    prompt: str,
    max_new_tokens: int,
    sampling: Sampling,
    *,
    chat: bool | None = None,
    plan: Plan | None = None,
) -> Prepared:
    """Open the model, read the prompt, and find or make a plan.

    Raises: InputError for a model without weights or tokenizer, or one that does not generate.
    """
    start_fork_server()
    with step("opening the model") as progress:
        checkpoint = source.checkpoint_dir(progress)
        tokenizer = source.tokenizer(progress)
    token_ids, made = encode(tokenizer, prompt, chat), ""
    if plan is None:
        plan, made = plan_for(source, checkpoint, ranks, len(token_ids))
    request = Request(checkpoint, plan, token_ids, end_tokens(checkpoint, tokenizer), max_new_tokens, sampling)
    return Prepared(request, tokenizer, made)


def summary(made: Generation) -> str:
    """What generation cost, in one line."""
    pace = "" if made.tokens_per_s is None else f", {made.tokens_per_s:.1f} tokens/s"
    moved = (
        "" if made.comm_bytes_per_token is None else f", {bytes_text(made.comm_bytes_per_token)} a token sent by each"
    )
    peak = bytes_text(max(report.peak_bytes for report in made.reports))
    ranks = "1 rank" if made.ranks == 1 else f"{made.ranks} ranks"
    return f"{len(made.token_ids)} tokens on {ranks}{pace}{moved}, at most {peak} resident in a rank"
