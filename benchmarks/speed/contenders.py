"""Ways to run one causal language model, each in processes of its own; the functions here run on their ranks.

On an accelerator each rank has a device of its own, and `threads` count for what the CPU does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CONTENDERS", "Contender", "Timing", "lowering", "measure", "prepare", "process"]


@dataclass(frozen=True)
class Contender:
    """How it is called, how many processes and threads of each it takes, and how its ranks get their model."""

    name: str
    ranks: int
    threads: int
    build: Callable[[int, int, Path], nn.Module]


@dataclass(frozen=True)
class Timing:
    """Seconds of one prefill and of each decode step after it; `met_s` of the latter in meetings with other ranks."""

    prefill_s: float
    decode_s: tuple[float, ...]
    met_s: float
    tokens: tuple[int, ...]


_model: nn.Module | None = None
_met = [0.0]


def prepare(rank: int, world_size: int, name: str, checkpoint: Path, device: str) -> str:
    """Build this rank's model and try it; why it does not run, if so."""
    global _model
    contender = CONTENDERS[name]
    torch.set_num_threads(contender.threads)
    place = torch.device(device, rank) if device != "cpu" else torch.device(device)
    if device != "cpu":
        torch.accelerator.set_device_index(rank)
    try:
        _model = contender.build(rank, world_size, checkpoint).to(place)
        measure(rank, world_size, torch.ones(1, 4, dtype=torch.int64), 1)
    except Exception as error:  # whatever another library raises is its result
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    _time_meetings()
    return ""


def process(rank: int, world_size: int) -> int:
    """Its id."""
    return os.getpid()


def measure(rank: int, world_size: int, prompt: Tensor, num_steps: int) -> Timing:
    """One prefill and `num_steps` decode steps, greedy."""
    from axisplit.runtime.decode import generate

    assert _model is not None
    prompt = prompt.to(next(_model.parameters()).device)
    ticks = [time.perf_counter()]

    def tick(token: int) -> None:
        if len(ticks) == 1:
            _met[0] = 0.0  # of decoding alone
        ticks.append(time.perf_counter())

    tokens = generate(_model, prompt, max_new_tokens=num_steps + 1, on_token=tick)
    prefill, *steps = (after - before for before, after in pairwise(ticks))
    return Timing(prefill, tuple(steps), _met[0], tuple(tokens))


def lowering(rank: int, world_size: int, checkpoint: Path, num_steps: int) -> list[tuple[float, float]]:
    """CPU seconds of decode steps, in turns: of a hand-sliced model and of a lowered one without communication, of the
    same sizes and on the same weights, as where weights lie makes a difference of its own.
    """
    lowered = _silent(0, 2, checkpoint)
    models = _hand_sliced(lowered, checkpoint), lowered
    weights = dict(models[0].named_parameters())
    for name, parameter in models[1].named_parameters():
        if weights[name].shape == parameter.shape:
            weights[name].data = parameter.data
    token, found = torch.ones(1, 1, dtype=torch.int64), []
    with torch.inference_mode(), models[1].__dict__["axisplit_outputs"].kept("logits"):
        states = [m(input_ids=token.expand(1, 64), use_cache=True).cache for m in models]
        for number in range(num_steps):
            seconds = [0.0, 0.0]
            for which in (0, 1) if number % 2 else (1, 0):
                begin = time.thread_time()
                models[which](input_ids=token, use_cache=True, logits_to_keep=1, cache=states[which])
                seconds[which] = time.thread_time() - begin
            found.append((seconds[0], seconds[1]))
    return found[4:]


def _time_meetings() -> None:
    """Add up what ranks spend in meetings, most of it in wait for one that has not come yet."""
    from axisplit.runtime.shared.board import Board

    meet = Board._meet

    def timed(*arguments: Any) -> bool:
        begin = time.perf_counter()
        all_done = meet(*arguments)
        _met[0] += time.perf_counter() - begin
        return all_done

    Board._meet = timed  # type: ignore[method-assign, assignment]


def _whole(rank: int, size: int, checkpoint: Path) -> nn.Module:
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    return model.eval()


def _axisplit(rank: int, size: int, checkpoint: Path) -> nn.Module:
    import axisplit

    return axisplit.load(checkpoint, axisplit.Plan.load(checkpoint / f"plan-{size}.json")).eval()


def _silent(rank: int, size: int, checkpoint: Path) -> nn.Module:
    """Like `_axisplit`, but what goes to other ranks stays here: what lowering itself costs."""
    import axisplit
    from axisplit.api import bind
    from axisplit.checkpoint.shards import load_shards
    from benchmarks.speed.silent import silent_group

    plan = axisplit.Plan.load(checkpoint / f"plan-{size}.json")
    model = load_shards(checkpoint, plan, rank, torch.float32)
    bind(model, plan, silent_group(rank, size))
    return model.eval()


def _half(rank: int, size: int, checkpoint: Path) -> nn.Module:
    """A model of this rank's share of the heads, of the inner size and of the vocabulary, on its own: the limit."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(checkpoint)
    heads, kv_heads = _share(config.num_key_value_heads, rank, size), config.num_key_value_heads
    config.head_dim = config.hidden_size // config.num_attention_heads
    config.num_attention_heads = config.num_attention_heads // kv_heads * heads
    config.num_key_value_heads = heads
    config.intermediate_size = _share(config.intermediate_size, rank, size)
    config.vocab_size = _share(config.vocab_size, rank, size)
    model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()


def _hand_sliced(part: Any, checkpoint: Path) -> nn.Module:
    """A Llama with as many heads, inner features and logits as a rank's part has."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(checkpoint)
    config.head_dim = config.hidden_size // config.num_attention_heads
    layer = part.model.layers[0]
    config.num_attention_heads = layer.self_attn.q_proj.weight.shape[0] // config.head_dim
    config.num_key_value_heads = layer.self_attn.k_proj.weight.shape[0] // config.head_dim
    config.intermediate_size, config.vocab_size = layer.mlp.up_proj.weight.shape[0], part.lm_head.weight.shape[0]
    model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()


def _share(total: int, rank: int, size: int) -> int:
    return (rank + 1) * total // size - rank * total // size


def _transformers(rank: int, size: int, checkpoint: Path) -> nn.Module:
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, tp_plan="auto")
    return model.eval()


def _parallelize_module(rank: int, size: int, checkpoint: Path) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    model = _whole(rank, size, checkpoint)
    styles = {
        "model.embed_tokens": RowwiseParallel(input_layouts=Replicate()),
        "lm_head": ColwiseParallel(output_layouts=Replicate()),
    }
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
        styles[f"model.layers.*.{name}"] = ColwiseParallel()
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        styles[f"model.layers.*.{name}"] = RowwiseParallel()
    parallelize_module(model, init_device_mesh(_device_type(), (size,)), styles)
    return model


def _deepspeed(rank: int, size: int, checkpoint: Path) -> nn.Module:
    # its shared memory is named after what torchrun sets
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "LOCAL_SIZE": str(size), "LOCAL_RANK": str(rank)}
    import deepspeed

    model = _whole(rank, size, checkpoint)
    parallel = {"tensor_parallel": {"tp_size": size}, "dtype": torch.float32, "replace_with_kernel_inject": False}
    engine: nn.Module = deepspeed.init_inference(model, parallel).module
    return engine


def _device_type() -> str:
    """Of the default group's tensors."""
    import torch.distributed as dist

    return "cuda" if dist.get_backend() == "nccl" else "cpu"


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("one process, 1 thread", 1, 1, _whole),
        Contender("one process, 2 threads", 1, 2, _whole),
        Contender("axisplit, 2 ranks", 2, 1, _axisplit),
        Contender("transformers, 2 ranks", 2, 1, _transformers),
        Contender("parallelize_module, 2 ranks", 2, 1, _parallelize_module),
        Contender("DeepSpeed AutoTP, 2 ranks", 2, 1, _deepspeed),
        Contender("axisplit without communication", 2, 1, _silent),
        Contender("two halves without communication", 2, 1, _half),
    )
}
