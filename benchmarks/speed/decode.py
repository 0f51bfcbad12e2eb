"""Prefill and decode of a Llama of 124 million parameters (or SmolLM2): every contender in turns, many rounds."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.coverage import machine
from benchmarks.speed import contenders


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=16, help="decode steps in each round")
    parser.add_argument("--prompt", type=int, default=256, help="tokens")
    parser.add_argument("--only", default="", help="contenders with this in their name, and the limit")
    options = parser.parse_args()
    from axisplit.runtime.pool import RankPool

    prompt = torch.randint(0, 1000, (1, options.prompt), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory(prefix="axisplit-bench-") as folder:
        make_checkpoint(Path(folder), prompt)
        chosen = [c for c in contenders.CONTENDERS.values() if options.only in c.name or "halves" in c.name]
        pools = {c.name: RankPool(c.ranks, deadline_s=300.0) for c in chosen}
        for name, pool in pools.items():
            pool.run("benchmarks.speed.contenders:prepare", name, Path(folder))
        found: dict[str, list[list[contenders.Timing]]] = {name: [] for name in pools}
        for number in range(options.rounds + 1):
            for name, pool in pools.items():
                timings = pool.run("benchmarks.speed.contenders:measure", prompt, options.steps)
                if number:  # the first is for warmth
                    found[name].append(timings)
            print(f"\rround {number} of {options.rounds}", end="", file=sys.stderr, flush=True)
        for pool in pools.values():
            pool.close()
    print(file=sys.stderr)
    json.dump(machine.about(), sys.stdout, indent=1)
    print()
    show(found)
    return 0


def make_checkpoint(folder: Path, prompt: torch.Tensor) -> None:
    """Random weights and a plan, as a directory."""
    from transformers import LlamaConfig, LlamaForCausalLM

    import axisplit

    config = LlamaConfig(
        vocab_size=32_000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
        num_key_value_heads=4, tie_word_embeddings=False, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    axisplit.plan(model, {"input_ids": prompt, "use_cache": True, "logits_to_keep": 1}, ranks=2).save(
        folder / "plan-2.json"
    )


def show(found: dict[str, list[list[contenders.Timing]]]) -> None:
    limit = "two halves without communication"
    rows = {}
    for name, rounds in found.items():
        prefill = [max(t.prefill_s for t in ranks) for ranks in rounds]
        decode = [max(statistics.median(t.decode_s) for t in ranks) for ranks in rounds]
        waited = [min(t.waited_s for t in ranks) for ranks in rounds]
        rows[name] = (prefill, decode, waited)
    for name, (prefill, decode, waited) in rows.items():
        ratios = [
            statistics.median(theirs / ours for theirs, ours in zip(rows[limit][k], (prefill, decode)[k], strict=True))
            for k in (0, 1)
        ]
        print(
            f"{name:34} prefill {1e3 * statistics.median(prefill):7.1f} ms ({ratios[0]:.3f} of the limit's speed)   "
            f"decode {1e3 * statistics.median(decode):6.2f} ms ({ratios[1]:.3f})   "
            f"waited {1e3 * statistics.median(waited):.2f} ms"
        )


if __name__ == "__main__":
    raise SystemExit(main())
