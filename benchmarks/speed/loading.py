"""Loading a checkpoint of sharded safetensors from a warm cache: time beside reading as many bytes plainly, and the
most private memory (RssAnon: mapped pages of files do not count) beside the parameters that a rank holds.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.series import ratio, rotated, spread

RANKS = 2
_PIECE_BYTES = 2**26


@dataclass(frozen=True)
class Loaded:
    """Seconds, the most private memory above what the process had, and the parameters' bytes."""

    seconds: float
    private_bytes: int
    parameter_bytes: int


def measure(options: Namespace) -> dict[str, Any]:
    """{checkpoint: {"bytes": of it, "found": {way: [Loaded of the slowest rank, one for each round]}}}."""
    makers = {
        "SmolLM2 135M": resolved_checkpoint,
        f"Llama of {options.checkpoint_gb:g} GB": lambda folder: make_checkpoint(folder, options.checkpoint_gb),
    }
    return {name: measure_checkpoint(make, min(options.rounds, 5)) for name, make in makers.items()}


def measure_checkpoint(make: Callable[[Path], int], rounds: int) -> dict[str, Any]:
    from axisplit.runtime.pool import RankPool

    with tempfile.TemporaryDirectory(prefix="axisplit-bench-") as folder:
        size = make(Path(folder))
        found: dict[str, list[Loaded]] = {name: [] for name in WAYS}
        for number in range(rounds + 1):
            for name in rotated(list(WAYS), number):
                with RankPool(RANKS, deadline_s=600.0) as pool:  # fresh processes: memory that was freed may be kept
                    ranks = pool.run("benchmarks.speed.loading:on_rank", name, Path(folder))
                if number:  # the first warms the cache
                    found[name].append(max(ranks, key=lambda rank: rank.seconds))
            print(f"\rround {number}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {"bytes": size, "found": {name: [vars(each) for each in rounds] for name, rounds in found.items()}}


def tables(results: dict[str, Any]) -> str:
    """As markdown."""
    lines = [f"Float32 in safetensors, {RANKS} ranks at once in new processes, warm cache."]
    lines[0] += " Imports are not timed; the table of renamings that transformers builds in a process, for both, is."
    for checkpoint, result in results.items():
        lines += ["", f"{checkpoint}, {result['bytes'] / 1e9:.2f} GB:", ""]
        lines += ["| | seconds | times reading plainly | private memory beside the rank's parameters |"]
        lines += ["| --- | --- | --- | --- |"]
        plainly = [each["seconds"] for each in result["found"][PLAINLY]]
        for name, rounds in result["found"].items():
            seconds = [each["seconds"] for each in rounds]
            memory = [each["private_bytes"] / each["parameter_bytes"] for each in rounds]
            lines.append(
                f"| {name} | {spread(seconds, 1, 's')} | {ratio(plainly, seconds):.2f} | {spread(memory, 1, '×')} |"
            )
    lines += ["", "Where memory is less than the parameters, the others are left in the mapped file, unread."]
    return "\n".join(lines)


def resolved_checkpoint(folder: Path) -> int:
    """SmolLM2, which a package carries, saved as `make_checkpoint` does."""
    from axisplit.models import resolve_model

    return _save(resolve_model("smollm2").load().float(), folder, max_shard_size="50GB")


def make_checkpoint(folder: Path, gigabytes: float) -> int:
    """A Llama of about that size, in files of a quarter of it, and its plan; its bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    width, inner = 2048, 5632
    layer = 4 * (2 * width * width + 2 * width * 512 + 3 * width * inner)
    config = LlamaConfig(
        vocab_size=32_000, hidden_size=width, intermediate_size=inner, num_attention_heads=16, num_key_value_heads=4,
        num_hidden_layers=max(1, int((gigabytes * 1e9 - 8 * 32_000 * width) / layer)),
    )  # fmt: skip
    torch.manual_seed(0)
    return _save(LlamaForCausalLM(config), folder, max_shard_size=f"{gigabytes / 4:.3f}GB")


def _save(model: Any, folder: Path, max_shard_size: str) -> int:
    import axisplit

    model.eval().save_pretrained(folder, max_shard_size=max_shard_size)
    inputs = {"input_ids": torch.ones(1, 16, dtype=torch.int64), "use_cache": True}
    axisplit.plan(model, inputs, ranks=RANKS).save(folder / "plan.json")
    return sum(p.numel() * p.element_size() for p in model.parameters())


def on_rank(rank: int, world_size: int, name: str, folder: Path) -> Loaded:
    """Load this rank's part, which is held until the clock has been read."""
    import torch.distributed as dist

    from axisplit.cli.measure import PrivateMemory

    load = WAYS[name](rank, folder)
    gc.collect()
    dist.barrier()
    before = PrivateMemory().peak or 0
    with PrivateMemory() as memory:
        begin = time.perf_counter()
        held = load()
        seconds = time.perf_counter() - begin
    return Loaded(seconds, (memory.peak or 0) - before, _bytes(held))


def _axisplit(rank: int, folder: Path) -> Callable[[], torch.nn.Module]:
    from transformers import LlamaForCausalLM  # noqa: F401  so that importing it is not timed

    import axisplit
    import axisplit.checkpoint.shards

    return partial(axisplit.load, folder, axisplit.Plan.load(folder / "plan.json"))


def _transformers(rank: int, folder: Path) -> Callable[[], torch.nn.Module]:
    from transformers import LlamaForCausalLM

    return partial(LlamaForCausalLM.from_pretrained, folder, dtype="float32", tp_plan="auto")


def _plainly(rank: int, folder: Path) -> Callable[[], list[bytes]]:
    """As many bytes as a rank's part has, read into new memory that nothing else has written to."""

    def read() -> list[bytes]:
        held, left = [], sum(file.stat().st_size for file in folder.glob("*.safetensors")) // RANKS
        for path in sorted(folder.glob("*.safetensors"))[:: -1 if rank else 1]:
            with path.open("rb", buffering=0) as file:
                while left and (piece := file.read(min(left, _PIECE_BYTES))):
                    held.append(piece)
                    left -= len(piece)
        return held

    return read


def _bytes(held: torch.nn.Module | list[bytes]) -> int:
    if isinstance(held, list):
        return sum(map(len, held))
    found = 0
    for p in held.parameters():
        local = p.to_local() if hasattr(p, "to_local") else p
        found += local.numel() * local.element_size()
    return found


PLAINLY = "as many bytes read plainly"
WAYS: dict[str, Callable[[int, Path], Callable[[], Any]]] = {
    "axisplit": _axisplit,
    "transformers": _transformers,
    PLAINLY: _plainly,
}
