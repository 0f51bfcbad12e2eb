"""How time and bytes grow with ranks, batch, sequence and layers, with the bound on each, as plots.

A Llama of 8 layers, 512 wide, runs one forward on 2 ranks, 4 sequences of 128 tokens, but for what is varied. Time is
the CPU time of the fullest rank's part on one thread, which 8 ranks on 2 cores could not show together; its bound is
the whole model's time over the ranks. Bytes are those counted at the collectives, on that rank; their bound is the
solver's.
"""

from __future__ import annotations

import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.speed.plot import Line, plot
from benchmarks.speed.silent import silent_group

VOCABULARY, WIDTH, INNER, HEADS = 8192, 512, 1408, 8


@dataclass(frozen=True)
class Case:
    """One forward."""

    ranks: int = 2
    batch: int = 4
    sequence: int = 128
    layers: int = 8


VARIED = {
    "ranks": (1, 2, 4, 8),
    "batch": (1, 2, 4, 8),
    "sequence": (32, 64, 128, 256, 512),
    "layers": (2, 4, 8, 16, 32),
}


def measure(options: Namespace) -> dict[str, Any]:
    """{what is varied: [{its value, ranks, part_s: [per round], whole_s: [per round], sent, bound}]}."""
    torch.set_num_threads(1)
    rounds = min(options.rounds, 5)
    found: dict[str, list[dict[str, Any]]] = {}
    for what, values in VARIED.items():
        found[what] = []
        for value in values:
            case = replace(Case(), **{what: value})
            found[what].append({"value": value, **asdict(case), **_measured(case, rounds)})
            print(f"\r{what} {value}   ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def _measured(case: Case, rounds: int) -> dict[str, Any]:
    import axisplit

    model = _llama(case.layers)
    tokens = torch.randint(0, VOCABULARY, (case.batch, case.sequence), generator=torch.Generator().manual_seed(0))
    plan = axisplit.plan(model, {"input_ids": tokens}, ranks=case.ranks)
    fullest = max(range(case.ranks), key=plan.bytes_per_rank.__getitem__)
    with _part(model, plan, fullest) as (part, context), torch.inference_mode():
        seconds: dict[nn.Module, list[float]] = {model: [], part: []}
        for number in range(rounds + 1):
            for each in (model, part) if number % 2 else (part, model):
                begin = time.thread_time()
                each(input_ids=tokens)
                seconds[each].append(time.thread_time() - begin)
        sent = context.comm_bytes / (rounds + 1)
    return {
        "part_s": seconds[part][1:], "whole_s": seconds[model][1:], "sent": sent, "bound": plan.lower_bound_bytes,
    }  # fmt: skip


@contextmanager
def _part(model: nn.Module, plan: Any, rank: int) -> Iterator[tuple[nn.Module, Any]]:
    from axisplit.lower.apply import make_rank
    from axisplit.runtime.sites import unregister

    try:
        yield make_rank(model, plan, silent_group(rank, plan.ranks), "scaling")
    finally:
        unregister("scaling")


def _llama(layers: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=layers,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model: nn.Module = LlamaForCausalLM(config)
    return model.eval()


def tables(found: dict[str, Any]) -> str:
    """As markdown, with the plots beside it."""
    usual = ", ".join(f"{value} {name}" for name, value in asdict(Case()).items())
    lines = [
        (
            f"One forward of a Llama, {WIDTH} wide, {INNER} inside, {HEADS} heads, {usual}, but for what is varied. "
            "Time: CPU of the fullest rank's part on one thread, without communication; its bound, the whole model's "
            "over the ranks. Bytes: what it sends, as counted; their bound, the solver's."
        ),
        "",
        *(f"![{what}](benchmarks/{what}.svg)" for what in found),
        "",
        "| | | time | its bound | bytes | their bound |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for what, points in found.items():
        for point in points:
            part, whole = _times(point)
            cells = [f"{part:.1f} ms", f"{whole:.1f} ms", f"{point['sent']:,.0f}", f"{point['bound']:,.0f}"]
            lines.append(f"| {what} | {point['value']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _times(point: dict[str, Any]) -> tuple[float, float]:
    """Milliseconds of the fullest rank's part, and of its bound."""
    part, whole = statistics.median(point["part_s"]), statistics.median(point["whole_s"]) / point["ranks"]
    return 1e3 * part, 1e3 * whole


def draw(found: dict[str, Any], folder: Path) -> None:
    """A plot for each of what is varied: time on the left, bytes on the right."""
    folder.mkdir(exist_ok=True)
    for what, points in found.items():
        values = [point["value"] for point in points]
        parts, whole = zip(*map(_times, points), strict=True)
        sent, bound = ([point[name] / 1e6 for point in points] for name in ("sent", "bound"))
        panels = [
            ("ms of the fullest rank", [Line("whole model / ranks", whole, bound=True), Line("axisplit", parts)]),
            ("MB that a rank sends", [Line("the solver's bound", bound, bound=True), Line("axisplit", sent)]),
        ]
        (folder / f"{what}.svg").write_text(plot(what, values, panels), encoding="utf-8")
