"""What config fields are called across transformers, and how small each becomes: data, no logic.

Sizes are chosen so that every kind of axis is there and none equals another by accident: 4 heads of 16, 2 kv heads, 4
experts of which 2 are chosen, a vocabulary of 256, 2 layers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """How much a config is shrunk; milder ones are for models whose fields depend on each other in other ways."""

    head_dim: int = 16
    fill: bool = False  # give fields that are None a value
    mild: bool = False  # only layers, vocabulary and token ids
    default: bool = False  # not at all

    @property
    def width(self) -> int:
        return {16: 64, 64: 256, 128: 512}[self.head_dim]

    @property
    def ffn(self) -> int:
        return 2 * self.width

    @property
    def corrected(self) -> bool:
        """Whether `corrections.CONFIGS`, written for the smallest sizes, apply."""
        return self.head_dim == 16 and not self.mild and not self.default


LEVELS = (
    Level(),
    Level(fill=True),
    Level(fill=True, head_dim=64),
    Level(fill=True, head_dim=128),
    Level(mild=True),
    Level(default=True),
)

HEADS, KV_HEADS, VOCAB, EXPERTS, CHOSEN_EXPERTS, LAYERS = 4, 2, 256, 4, 2, 2
BATCH, LENGTH = 2, 12


def _names(*patterns: str) -> re.Pattern[str]:
    return re.compile(f"^({'|'.join(patterns)})$")


WIDTHS = _names(
    "hidden_size", "d_model", "n_embd", "embed_dim", "embedding_size", "dim", "hidden_dim", "model_dim", "width",
    "projection_dim", "out_hidden_size", "emb_dim", "project_dim", "word_embed_proj_dim", "embedding_dim",
    "hidden_channels", "pooler_output_size", "true_hidden_size", "reduce_dim", "d_latents", "lru_width",
    "attention_hidden_size", "projection_size", "fusion_hidden_size", "classifier_proj_size", "output_dim",
    "input_embedding_size", "vit_dim", "d_embed", "n_state", "text_dim", "vision_dim", "hidden_size_global",
    "projector_dim", "adapter_(in|out)_dim", "input_size_dim", "mask_dim", "head_hidden_size",
    ".*_(hidden_size|hidden_dim|embed_dim|embedding_size|d_model|output_dim|input_dim|width|hidden_channels)",
    ".*_(hidden_sizes?_int|hidden_dims?|model_dim|dim)",
)  # fmt: skip
FFNS = _names(
    "intermediate_size", "ffn_dim", "d_ff", "n_inner", "mlp_dim", "dim_feedforward", "dim_ff", "dff", "d_inner",
    "feed_forward_size", "ff_dim", "ffn_hidden_size", "ffn_size",
    ".*(intermediate_size|ffn_dim|ffn_hidden_size|dim_feedforward|feedforward_dim|linear_units|intermediate_dim)",
    ".*(intermediate_size_mlp|mlp_dim|feed_forward_hidden_size|feedforward_size)",
)  # fmt: skip
LAYER_COUNTS = _names(
    "num_hidden_layers", "num_layers", "n_layers?", "depth", "layers", "encoder_layers", "decoder_layers", "num_blocks",
    "num_decoder_layers", "num_encoder_layers",
    "(?!num_residual|num_kv|.*_every).*(_hidden_layers|encoder_layers|decoder_layers|_num_layers|_n_layer|num_.*_blocks)",
)  # fmt: skip
DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth", "decoder_layers", "encoder_layers")
HEAD_COUNTS = _names(
    "num_attention_heads", "num_heads", "n_heads?", "attention_heads", "encoder_attention_heads",
    "decoder_attention_heads", ".*(_attention_heads|_num_heads|_n_heads?|_heads)",
)  # fmt: skip
QUERY_HEADS = ("num_attention_heads", "num_heads", "n_head", "n_heads")
KV_HEAD_COUNTS = _names(
    "num_key_value_heads", "num_kv_heads", "n_kv_heads", "num_query_groups",
    ".*(num_key_value_heads|kv_heads|kv_n_heads)",
)  # fmt: skip
HEAD_DIMS = _names(
    "head_dim", "d_kv", "d_head", "kv_channels", "attention_head_dim", "attention_head_size", "dim_head",
    "global_head_dim", "qk_nope_head_dim", "v_head_dim", "kv_head_dim", ".*(head_dim|_d_head|head_size)",
)  # fmt: skip
VOCABS = _names(
    "vocab_size", ".*vocab_size", "vocab_size_per_layer_input", "n_vocab", "codebook_vocab_size", "entity_vocab_size"
)
TOKENS = re.compile(r"(token_id|token_ids|token_index|_id|_ids)$")
EXPERT_COUNTS = _names(
    "num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "num_routed_experts", "zero_expert_num",
    "n_experts", ".*(_num_experts|num_moe_experts)",
)  # fmt: skip
CHOSEN_COUNTS = _names(
    "num_experts_per_tok", "moe_topk", "top_k_experts", "moe_top_k", "num_experts_per_token", "moe_k",
    "num_selected_experts", "top_k_expert",
)  # fmt: skip
LAYER_INDICES = re.compile(
    r"(indices|indexes|_idxs?|_layers|layer_ids|_ids|block_indexes|out_indices|attn_layers|attn_indexes)$"
)
BACKBONE = ("stage_names", "out_features", "out_indices", "_out_features", "_out_indices")  # derived from the sizes
STAGE_WIDTHS = (
    "hidden_sizes", "embed_dims", "stage_out_channels", "encoder_in_channels", "neck_hidden_sizes",
    "backbone_channel_list", "embed_dim", "decoder_hidden_sizes", "embed_dim_per_stage", "backbone_fused_channels",
)  # fmt: skip
KERNEL_WIDTHS = ("conv_dim", "tdnn_dim")
IMAGE_SIZES = ("img_size", "pretrain_image_size", "crop_size", "max_image_size", "input_image_size")

FIXED: dict[str, int] = {
    # positions and windows
    "max_position_embeddings": 128, "n_positions": 128, "n_ctx": 128, "max_seq_len": 128, "max_sequence_length": 128,
    "max_source_positions": 32, "max_target_positions": 64, "max_2d_position_embeddings": 128,
    "num_position_embeddings": 16, "position_embedding_size": 64, "posemb_grid_size": 8, "rel_extent": 32, "d_rel": 16,
    "sliding_window": 8, "attention_window": 8, "local_attention": 8, "window_size_ph": 4, "attention_chunk_size": 8,
    "max_window_layers": 1, "mem_len": 16, "rotary_dim": 8,
    # attention
    "q_lora_rank": 32, "kv_lora_rank": 32, "o_lora_rank": 16, "qk_rope_head_dim": 16, "qk_head_dim": 32,
    "query_pre_attn_scalar": 16, "num_attention_groups": 2, "num_kv_shared_layers": 0, "index_head_dim": 16,
    "index_n_heads": 4, "index_topk": 8, "index_kpool": 4, "compress_ratio": 4, "adapter_rank": 8, "embedding_rank": 16,
    "gated_norm_rank": 8, "laurel_rank": 8,
    # layers
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "num_expert_groups": 1, "attn_layer_period": 2,
    "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "num_nextn_predict_layers": 0,
    "num_timestamp_prediction_layers": 2, "vision_feature_layer": -1, "pretraining_tp": 1, "type_vocab_size": 2,
    "hidden_size_per_layer_input": 16,
    # state spaces and linear attention
    "mamba_d_state": 16, "state_size": 16, "ssm_state_size": 16, "mamba_n_heads": 8, "mamba_num_heads": 8,
    "mamba_d_head": 16, "mamba_head_dim": 16, "mamba_headdim": 16, "mamba_d_ssm": 128, "n_mamba_heads": 2,
    "mamba_dt_rank": 8, "time_step_rank": 8, "mamba_chunk_size": 8, "chunk_size_ssm": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_heads": 4,
    "linear_head_dim": 16,
    # images and sound
    "num_query_tokens": 4, "num_image_tokens": 4, "mm_tokens_per_image": 4, "image_seq_length": 16, "image_seq_len": 16,
    "num_mel_bins": 16, "n_mels": 16, "n_mel_bins": 16, "num_queries": 10, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4, "num_codevectors_per_group": 8, "codevector_dim": 16, "proj_codevector_dim": 16,
    "codebook_size": 32, "codebook_dim": 16, "num_filters": 8, "latent_dim": 16, "num_latents": 4,
    "stem_hidden_channels": 16, "stem_channels_i": 16, "upsample_initial_channel": 32, "max_num_patches": 16,
    "num_patches": 16, "fpn_hidden_size": 32, "coordinate_size": 12, "shape_size": 8, "resampler_n_heads": 4,
    "resampler_n_latents": 4, "resampler_head_dim": 16, "prompt_length": 4, "xvector_output_dim": 32,
    # byte and hash embeddings
    "encoder_hash_byte_group_vocab": 64, "num_hash_buckets": 16,
}  # fmt: skip
ZERO_STAYS = ("first_k_dense_replace",)  # fields that get their fixed value even where it was 0

WHERE_NONE: dict[str, int] = {
    "num_key_value_heads": KV_HEADS, "head_dim": 16, "n_routed_experts": EXPERTS, "num_experts": EXPERTS,
    "num_local_experts": EXPERTS, "num_experts_per_tok": CHOSEN_EXPERTS, "moe_topk": CHOSEN_EXPERTS,
    "n_shared_experts": 1, "index_compress_ratio": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
MROPE_SECTION = [4, 2, 2]
