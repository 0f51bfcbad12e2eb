"""Prefill and decode: every way to run one causal language model in turns, many rounds, beside the limit.

The limit is two half models side by side (half the heads, half of the inner size, half the vocabulary) that never
communicate. Tokens are chosen greedily; every contender that holds the whole model must choose the same.
"""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import contenders
from benchmarks.speed.series import ratio, rotated, spread

LIMIT = "two halves without communication"
WITHOUT = "axisplit without communication"
OURS = "axisplit, 2 ranks"

Found = dict[str, dict[str, list[float]]]
"""Contender -> what was timed -> seconds, one for each round."""


def measure(options: Namespace) -> dict[str, Any]:
    """{model: {"prompt": tokens, "steps": per round, "found": Found}}."""
    from axisplit.runtime.pool import RankPool

    results = {}
    for model, make in MODELS.items():
        prompt = torch.randint(0, 1000, (1, options.prompt), generator=torch.Generator().manual_seed(0))
        with tempfile.TemporaryDirectory(prefix="axisplit-bench-") as folder:
            make(Path(folder), prompt)
            backend = "gloo" if options.device == "cpu" else "nccl"
            pools = {
                name: RankPool(c.ranks, deadline_s=300.0, backend=backend) for name, c in contenders.CONTENDERS.items()
            }
            reasons = {}
            for name, pool in list(pools.items()):
                refused = pool.run("benchmarks.speed.contenders:prepare", name, Path(folder), options.device)[0]
                if refused:
                    reasons[name] = refused
                    pools.pop(name).close()
            found = in_turns(pools, prompt, options)
            for pool in pools.values():
                pool.close()
            with RankPool(1, deadline_s=300.0) as pool:
                (steps,) = pool.run("benchmarks.speed.contenders:lowering", Path(folder), 20 * options.rounds)
        about = {"prompt": options.prompt, "steps": options.steps, "refused": reasons}
        results[model] = {**about, "found": found, "lowering": steps}
    return results


def in_turns(pools: dict[str, Any], prompt: torch.Tensor, options: Namespace) -> Found:
    """Rounds of one prefill and `options.steps` decode steps of each, beginning with another contender each time, the
    others' processes stopped; the first round is for warmth.
    """
    found: Found = {name: {"prefill": [], "decode": [], "meetings": [], "waiting": []} for name in pools}
    tokens = {}
    processes = {name: pool.run("benchmarks.speed.contenders:process") for name, pool in pools.items()}
    signal_all(processes, signal.SIGSTOP)
    for number in range(options.rounds + 1):
        for name, pool in rotated(list(pools.items()), number):
            signal_all({name: processes[name]}, signal.SIGCONT)
            ranks = pool.run("benchmarks.speed.contenders:measure", prompt, options.steps)
            signal_all({name: processes[name]}, signal.SIGSTOP)
            tokens[name] = ranks[0].tokens
            if number:
                found[name]["prefill"].append(max(rank.prefill_s for rank in ranks))
                found[name]["decode"].append(max(statistics.median(rank.decode_s) for rank in ranks))
                found[name]["meetings"].append(min(rank.met_s for rank in ranks) / options.steps)
                found[name]["waiting"].append(max(rank.met_s for rank in ranks) / options.steps)
        print(f"\rround {number} of {options.rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    signal_all(processes, signal.SIGCONT)
    whole = {name: text for name, text in tokens.items() if name not in (LIMIT, WITHOUT)}
    if len(set(whole.values())) > 1:
        raise AssertionError(f"contenders choose different tokens: {whole}")
    return found


def signal_all(processes: dict[str, list[int]], number: signal.Signals) -> None:
    for process in itertools.chain(*processes.values()):
        os.kill(process, number)


def tables(results: dict[str, Any]) -> str:
    """As markdown."""
    lines = []
    for model, result in results.items():
        found: Found = result["found"]
        lines += [
            (
                f"**{model}**, prompt of {result['prompt']} tokens, {result['steps']} decode steps a round, "
                f"{len(found[LIMIT]['decode'])} rounds; in brackets the least and the most."
            ),
            "",
            "| | prefill | of the limit's speed | a decode step | of the limit's speed |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, times in found.items():
            cells = [
                cell
                for what in ("prefill", "decode")
                for cell in (spread(times[what], 1e3, "ms"), f"{ratio(times[what], found[LIMIT][what]):.1%}")
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines += [f"| {name} | does not run: {reason} | | | |" for name, reason in result["refused"].items()]
        by_hand, lowered = ([step[which] for step in result["lowering"]] for which in (0, 1))
        lines += [
            "",
            (
                f"Of a decode step, in meetings with the other rank: {spread(found[OURS]['meetings'], 1e3, 'ms')} on "
                "the rank that is there less (messages, their copies and sums), "
                f"{spread(found[OURS]['waiting'], 1e3, 'ms')} on the other, which waits. Lowering itself, a model "
                "without communication beside a hand-sliced one on the same weights in one process, in turns: "
                f"{1 / ratio(lowered, by_hand) - 1:+.1%} of CPU time in {len(lowered)} decode steps."
            ),
            "",
        ]
    return "\n".join(lines)


def _llama(folder: Path, prompt: torch.Tensor) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32_000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
        num_key_value_heads=4, tie_word_embeddings=False, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    _save(LlamaForCausalLM(config), folder, prompt)


def _smollm2(folder: Path, prompt: torch.Tensor) -> None:
    from axisplit.models import resolve_model

    _save(resolve_model("smollm2").load(), folder, prompt)


def _save(model: torch.nn.Module, folder: Path, prompt: torch.Tensor) -> None:
    """As a directory with a plan for 2 ranks, made as `axisplit generate` makes it: with all logits, so that the head
    is cut by its vocabulary and 8 bytes find the token.
    """
    import axisplit

    model.eval().save_pretrained(folder)  # type: ignore[operator]
    inputs = {"input_ids": prompt, "use_cache": True}
    axisplit.plan(model, inputs, ranks=2).save(folder / "plan-2.json")


MODELS: dict[str, Callable[[Path, torch.Tensor], None]] = {"Llama 124M, float32": _llama, "SmolLM2 135M": _smollm2}
