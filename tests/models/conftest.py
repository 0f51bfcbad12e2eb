"""Tiny models of each kind, and a network that fails loudly when it is tried."""

import socket

import pytest


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(self, address):
        raise AssertionError(f"tried to connect to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path, request):
    """A cache of the test's own; slow tests share the user's, which makes them slow once."""
    if "slow" not in request.keywords:
        monkeypatch.setenv("AXISPLIT_CACHE", str(tmp_path / "axisplit-cache"))


@pytest.fixture(scope="session")
def tiny_llama():
    """(model, config) of a Llama with 2 layers, tied embeddings, 4 heads and 2 kv heads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def llama_dir(tiny_llama, tmp_path):
    tiny_llama.save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.fixture
def llama_gguf(tmp_path):
    """A GGUF file of a Llama with 2 layers, 4 heads and 2 kv heads, in float32, without a tokenizer."""
    import gguf
    import numpy as np

    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(64)
    shapes = {"token_embd.weight": (64, 32), "output_norm.weight": (32,)}
    for layer in range(2):
        for name, shape in {
            "attn_norm": (32,),
            "ffn_norm": (32,),
            "attn_q": (32, 32),
            "attn_k": (16, 32),
            "attn_v": (16, 32),
            "attn_output": (32, 32),
            "ffn_gate": (64, 32),
            "ffn_up": (64, 32),
            "ffn_down": (32, 64),
        }.items():
            shapes[f"blk.{layer}.{name}.weight"] = shape
    generator = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(name, generator.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
