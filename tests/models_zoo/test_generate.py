"""Generation token by token as the whole model's: transformers' own `generate` with every kind of cache, and ours.

Prompts are padded on the left; with what follows they are longer than the window of models that have one. Each model
runs at one number of ranks, in rotation; `--full` runs the whole product.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import axisplit
from axisplit.runtime.decode import generate
from models_zoo.equality import left_padding, on_ranks
from models_zoo.tiny import GATED, ZOO, build, hf, ids, perturb

PROMPT, NEW, WINDOW = 7, 6, 8
CACHES: dict[str, dict[str, Any]] = {"dynamic": {}, "static": {"cache_implementation": "static"}}
WINDOWED = {
    "mistral": hf("MistralForCausalLM", "MistralConfig", **GATED, sliding_window=WINDOW),
    "gemma2": ZOO["gemma2"].make,
}
NAMES = ("llama 9 heads", "gpt2", "mixtral", "mistral", "gemma2", "deepseek_v3")
PRODUCT = [(name, ranks) for name in NAMES for ranks in (2, 3, 4)]
ROTATION = [case for i, case in enumerate(PRODUCT) if (i // 3) % 3 == i % 3]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = PRODUCT if metafunc.config.getoption("--full") else ROTATION
    metafunc.parametrize(("name", "ranks"), chosen, ids=lambda x: str(x))


def made(name: str) -> nn.Module:
    if name in ZOO:
        return build(name)
    torch.manual_seed(0)
    return perturb(WINDOWED[name]().eval())


def greedy(model: nn.Module, cache: str, windowed: bool) -> list[list[int]]:
    """Tokens [2, NEW] by transformers' `generate`."""
    prompt = ids(2, PROMPT)
    mask, settings = left_padding(prompt), {"max_new_tokens": NEW, "do_sample": False, **CACHES[cache]}
    found = model.generate(prompt, attention_mask=mask, return_dict_in_generate=True, **settings)
    assert any(layer.is_sliding for layer in found.cache.layers) == windowed
    return found.sequences[:, PROMPT:].tolist()


def sampled(model: nn.Module, seed: int) -> list[int]:
    """Tokens [NEW] by ours: rank 0 draws and tells the others."""
    return generate(model, ids(1, PROMPT), max_new_tokens=NEW, sample=True, top_k=20, seed=seed)


def test_every_token(name: str, ranks: int) -> None:
    model, windowed = made(name), name in WINDOWED
    assert not windowed or model.config.sliding_window == WINDOW < PROMPT + NEW

    def tokens(part: nn.Module) -> dict[str, list[Any]]:
        found = {cache: greedy(part, cache, windowed) for cache in CACHES}
        return found | {f"seed {seed}": sampled(part, seed) for seed in (1, 2)}

    whole = tokens(model)
    assert whole["seed 1"] != whole["seed 2"]
    plan = axisplit.plan(model, {"input_ids": ids(2, 12)}, ranks=ranks)
    for part, _ in on_ranks(plan, model, tokens):
        assert part == whole
