"""Tiny, randomly initialised models that must come out equal, their inputs, and what an expert would move.

`build(name)` gives a model whose every parameter counts: biases and norm weights differ from 0 and 1, so that a bias
added twice or a norm skipped shows. `expert` is the number of collectives of one forward pass that a plan written by
hand issues:

    one after attention and one after the MLP of each layer (one for both where they run side by side), one after a
    split embedding, one for split logits; one more for each mean over split heads (olmo2's q and k norms).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")

Inputs = tuple[Any, ...] | dict[str, Any]
WIDTH, HEADS, FFN, VOCAB, LAYERS = 64, 4, 128, 192, 2


@dataclass(frozen=True)
class Tiny:
    """How to build one model, what it is called with at (batch, length), and what its plan should look like."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int, int], Inputs]
    expert: int
    split: float = 0.95
    steps: int = 0  # greedy decode steps with the model's own cache
    captured: bool = False  # whether a module runs a captured program


def perturb(model: nn.Module, seed: int = 0) -> nn.Module:
    """Matrices of unit gain, everything else moved off its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "A_log" in name or name.endswith(".D"):
                parameter.add_(0.05 * noise)
            elif parameter.ndim < 2:
                parameter.copy_(parameter.round() + 0.1 * noise)  # near 0 or 1, whatever the initial value
            elif parameter.ndim == 3 and "expert" in name:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return model


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return perturb(ZOO[name].make().eval())


def ids(batch: int, length: int, vocab: int = VOCAB) -> Tensor:
    """Tokens clear of the special ones."""
    return torch.randint(8, vocab, (batch, length), generator=torch.Generator().manual_seed(batch * 100 + length))


def floats(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


# --- plain torch ------------------------------------------------------------------------------------------------------


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` on one input, with its weights returned."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, weights = self.attention(x, x, x)
        return x + y, weights


class CrossAttention(nn.Module):
    """Queries of one width; keys and values of another width and length."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, kdim=40, vdim=40)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return x + self.attention(x, memory, memory, need_weights=False)[0]


def mlp(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def encoder_layer(batch_first: bool, norm_first: bool) -> Callable[[], nn.Module]:
    return lambda: nn.TransformerEncoderLayer(WIDTH, HEADS, FFN, batch_first=batch_first, norm_first=norm_first)


# --- transformers -----------------------------------------------------------------------------------------------------


def hf(model: str, config: str, **fields: Any) -> Callable[[], nn.Module]:
    """A transformers model by class name, made when it is asked for."""

    def make() -> nn.Module:
        import transformers

        transformers.logging.set_verbosity_error()
        made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**fields))
        return made

    return make


COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GATED = {**COMMON, "intermediate_size": FFN, "num_key_value_heads": 2, "tie_word_embeddings": False}
SEQ2SEQ = {
    "vocab_size": VOCAB,
    "d_model": WIDTH,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": FFN,
    "decoder_ffn_dim": FFN,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}


def tokens(batch: int, length: int) -> Inputs:
    return {"input_ids": ids(batch, length)}


def translation(batch: int, length: int) -> Inputs:
    return {"input_ids": ids(batch, length), "decoder_input_ids": ids(batch, length - 3)}


def speech(batch: int, length: int) -> Inputs:
    return {"input_features": floats(batch, 16, 48), "decoder_input_ids": ids(batch, length - 3)}


def llama(heads: int = HEADS, kv_heads: int = 2, width: int = WIDTH) -> Callable[[], nn.Module]:
    fields = {
        **GATED,
        "intermediate_size": 2 * width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_size": width,
    }
    return hf("LlamaForCausalLM", "LlamaConfig", **fields)


def causal(make: Callable[[], nn.Module], expert: int, **more: Any) -> Tiny:
    return Tiny(make, tokens, expert, steps=3, **more)


ZOO: dict[str, Tiny] = {
    "mlp": Tiny(lambda: mlp(48, 96, 24), lambda b, s: (floats(b, s, 48),), 1),
    "mlp odd": Tiny(lambda: mlp(33, 67, 21), lambda b, s: (floats(b, s, 33),), 1),
    "mlp 5": Tiny(lambda: mlp(48, 96, 48, 96, 48, 96), lambda b, s: (floats(b, s, 48),), 3),
    "encoder layer": Tiny(encoder_layer(True, False), lambda b, s: (floats(b, s, WIDTH),), 2, captured=True),
    "encoder layer, norm first": Tiny(encoder_layer(True, True), lambda b, s: (floats(b, s, WIDTH),), 2, captured=True),
    "encoder layer, sequence first": Tiny(
        encoder_layer(False, False), lambda b, s: (floats(s, b, WIDTH),), 2, captured=True
    ),
    "encoder layer, both": Tiny(encoder_layer(False, True), lambda b, s: (floats(s, b, WIDTH),), 2, captured=True),
    "self attention": Tiny(SelfAttention, lambda b, s: (floats(b, s, WIDTH),), 2, captured=True),
    "cross attention": Tiny(CrossAttention, lambda b, s: (floats(b, s, WIDTH), floats(b, s + 3, 40)), 1, captured=True),
    "conv net": Tiny(conv_net, lambda b, s: (floats(b, 3, s, s),), 2),
    "llama": causal(llama(), 6),
    "llama 1 kv": causal(llama(kv_heads=1), 6),
    "llama 9 heads": causal(llama(9, 3, 144), 6),
    "gpt2": causal(
        hf(
            "GPT2LMHeadModel",
            "GPT2Config",
            vocab_size=VOCAB,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            n_positions=64,
            bos_token_id=1,
            eos_token_id=2,
        ),
        6,
    ),
    "bert": Tiny(hf("BertForMaskedLM", "BertConfig", **COMMON, intermediate_size=FFN), tokens, 6, split=0.94),
    "bloom": causal(
        hf(
            "BloomForCausalLM",
            "BloomConfig",
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            bos_token_id=1,
            eos_token_id=2,
        ),
        6,
    ),
    "falcon, multi query": causal(
        hf("FalconForCausalLM", "FalconConfig", **{**COMMON, "num_attention_heads": 8}, multi_query=True, bias=True), 4
    ),
    "falcon, new": causal(
        hf("FalconForCausalLM", "FalconConfig", **COMMON, new_decoder_architecture=True, num_kv_heads=2, bias=True),
        4,
    ),
    "gpt_neox": causal(
        hf("GPTNeoXForCausalLM", "GPTNeoXConfig", **COMMON, intermediate_size=FFN, use_parallel_residual=True), 4
    ),
    "gpt_neox, in turn": causal(
        hf("GPTNeoXForCausalLM", "GPTNeoXConfig", **COMMON, intermediate_size=FFN, use_parallel_residual=False), 6
    ),
    "opt": causal(hf("OPTForCausalLM", "OPTConfig", **COMMON, ffn_dim=FFN, word_embed_proj_dim=WIDTH), 6),
    "t5": Tiny(
        hf(
            "T5ForConditionalGeneration",
            "T5Config",
            vocab_size=VOCAB,
            d_model=WIDTH,
            d_kv=16,
            d_ff=FFN,
            num_layers=LAYERS,
            num_heads=HEADS,
            decoder_start_token_id=0,
        ),
        translation,
        13,
        steps=3,
    ),
    "bart": Tiny(hf("BartForConditionalGeneration", "BartConfig", **SEQ2SEQ), translation, 13, steps=3),
    "mixtral": causal(
        hf("MixtralForCausalLM", "MixtralConfig", **GATED, num_local_experts=4, num_experts_per_tok=2), 6
    ),
    "phi3": causal(hf("Phi3ForCausalLM", "Phi3Config", **GATED), 6),
    "qwen3": causal(hf("Qwen3ForCausalLM", "Qwen3Config", **GATED, head_dim=16), 6),
    "olmo2": causal(hf("Olmo2ForCausalLM", "Olmo2Config", **GATED), 10),
    "gemma2": causal(
        hf(
            "Gemma2ForCausalLM",
            "Gemma2Config",
            **{**GATED, "tie_word_embeddings": True},
            head_dim=16,
            sliding_window=8,
            query_pre_attn_scalar=16,
        ),
        6,
    ),
    "mamba": causal(
        hf(
            "MambaForCausalLM",
            "MambaConfig",
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            state_size=8,
            time_step_rank=8,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        6,
    ),
    "vit": Tiny(
        hf(
            "ViTForImageClassification",
            "ViTConfig",
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=FFN,
            image_size=32,
            patch_size=8,
            num_labels=10,
        ),
        lambda b, s: {"pixel_values": floats(b, 3, 32, 32)},
        5,
    ),
    "whisper": Tiny(
        hf(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            **SEQ2SEQ,
            num_mel_bins=16,
            max_source_positions=24,
            max_target_positions=32,
            suppress_tokens=[],
            begin_suppress_tokens=[],
        ),
        speech,
        13,
        steps=3,
    ),
    "deepseek_v3": causal(
        hf(
            "DeepseekV3ForCausalLM",
            "DeepseekV3Config",
            **{**GATED, "num_key_value_heads": HEADS},
            moe_intermediate_size=32,
            n_routed_experts=4,
            n_shared_experts=1,
            num_experts_per_tok=2,
            n_group=1,
            topk_group=1,
            kv_lora_rank=16,
            q_lora_rank=24,
            qk_rope_head_dim=8,
            qk_nope_head_dim=16,
            v_head_dim=16,
            first_k_dense_replace=1,
        ),
        6,
        split=0.93,  # the low-rank projections stay whole
    ),
    "gptj": causal(
        hf(
            "GPTJForCausalLM",
            "GPTJConfig",
            vocab_size=VOCAB,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            n_positions=64,
            rotary_dim=8,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=False,
        ),
        4,
    ),
    "mpt": causal(
        hf(
            "MptForCausalLM",
            "MptConfig",
            vocab_size=VOCAB,
            d_model=WIDTH,
            n_layers=LAYERS,
            n_heads=HEADS,
            max_seq_len=64,
            expansion_ratio=2,
        ),
        6,
    ),
    "cohere": causal(hf("CohereForCausalLM", "CohereConfig", **{**GATED, "tie_word_embeddings": True}), 4),
}
