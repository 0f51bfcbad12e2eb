"""A tiny Llama on disk with a tokenizer of its own, a cache for each test, and the command line in this process."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def axisplit_main(monkeypatch, capfd, tmp_path) -> Callable[..., Ran]:
    from axisplit.cli import main

    monkeypatch.setenv("AXISPLIT_CACHE", str(tmp_path / "cache"))

    def run(*args: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["axisplit", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ran(ended.value.code or 0, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def llama_dir(tmp_path_factory) -> Path:
    """2 layers, 6 heads, 3 kv heads (2 ranks do not divide them), 40 words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=3,
        vocab_size=40, tie_word_embeddings=True, bos_token_id=None, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(40)}, unk_token="w1"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w1").save_pretrained(directory)
    return directory
