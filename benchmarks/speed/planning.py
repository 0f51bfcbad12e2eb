"""Planning: CPU seconds and memory of `axisplit.plan` by layers and by ranks, and how long commands take to start.

Each figure is one process of its own, on a model without weights; imports are not counted, but listed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import dataclass
from typing import Any

from benchmarks.speed.series import spread

COMPARE = "compare 'gelu(X @ W1) @ W2' --shape X=2x4 W1=4x4 W2=4x4 --ranks 2"


@dataclass(frozen=True)
class Llama:
    """Its sizes, and over how many ranks it is planned."""

    layers: int
    ranks: int
    width: int = 4096
    inner: int = 14_336
    heads: int = 32
    kv_heads: int = 8
    vocabulary: int = 128_256

    def __str__(self) -> str:
        return f"{self.layers} layers, {self.width} wide, {self.ranks} ranks"


LARGE = Llama(126, 8, 16_384, 53_248, 128, 8)
CASES = (
    *(Llama(layers, 8) for layers in (8, 16, 32, 64, 80, 128)),
    LARGE,
    *(Llama(32, ranks) for ranks in (2, 32, 128, 1024)),
)


def measure(options: Namespace) -> dict[str, Any]:
    """{"plans": {case: [{cpu_s, import_cpu_s, peak_bytes, kept_bytes}]}, "commands": {command: [seconds]}}."""
    plans: dict[str, list[dict[str, float]]] = {str(case): [] for case in CASES}
    commands: dict[str, list[float]] = {"--help": [], COMPARE: []}
    for number in range(min(options.rounds, 5)):
        for case in CASES:
            command = [sys.executable, "-m", "benchmarks.speed.planning", json.dumps(vars(case))]
            found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            plans[str(case)].append(json.loads(found))
        for text in commands:
            begin = time.perf_counter()
            subprocess.run(f"{sys.executable} -m axisplit {text}", shell=True, check=True, capture_output=True)
            commands[text].append(time.perf_counter() - begin)
        print(f"\rround {number + 1}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {"plans": plans, "commands": commands}


def tables(results: dict[str, Any]) -> str:
    """As markdown."""
    lines = ["| Llama without weights | plan, CPU | for each layer | memory above the imports | imports, CPU |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for case in CASES:
        rounds = results["plans"][str(case)]
        cpu = [each["cpu_s"] for each in rounds]
        memory = [(each["peak_bytes"] - each["kept_bytes"]) / 2**20 for each in rounds]
        imports = [each["import_cpu_s"] for each in rounds]
        cells = [spread(cpu, 1, "s"), spread(cpu, 1e3 / case.layers, "ms"), spread(memory, 1, "MiB")]
        lines.append(f"| {case} | {' | '.join(cells)} | {spread(imports, 1, 's')} |")
    lines += ["", "| command | seconds from start to end |", "| --- | --- |"]
    lines += [f"| `axisplit {text}` | {spread(times, 1, 's')} |" for text, times in results["commands"].items()]
    return "\n".join(lines)


def plan_once(case: Llama) -> dict[str, float]:
    """What one plan takes, in this process."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import axisplit
    from axisplit.cli.measure import peak_resident_bytes

    axisplit.plan(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)), (torch.ones(2, 4),), ranks=2)
    imported, kept = time.process_time(), peak_resident_bytes()
    config = LlamaConfig(
        vocab_size=case.vocabulary, hidden_size=case.width, intermediate_size=case.inner,
        num_hidden_layers=case.layers, num_attention_heads=case.heads, num_key_value_heads=case.kv_heads,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config).eval()
    inputs = {"input_ids": torch.ones(1, 32, dtype=torch.int64), "use_cache": True}
    begin = time.process_time()
    axisplit.plan(model, inputs, ranks=case.ranks)
    return {
        "cpu_s": time.process_time() - begin,
        "import_cpu_s": imported,
        "kept_bytes": kept,
        "peak_bytes": peak_resident_bytes(),
    }


if __name__ == "__main__":
    json.dump(plan_once(Llama(**json.loads(sys.argv[1]))), sys.stdout)
