"""What generic shrinking gets wrong for single model types: fields that must fit each other. Test data, never read by
the package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# Fields of the shrunk config that are set; "a.b" is field b of the config in field a.
CONFIGS: dict[str, Mapping[str, Any]] = {
    "autoformer": {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2]},
    "bailing_hybrid": {
        "n_group": 1, "topk_group": 1, "num_expert_group": 1, "num_local_experts": 4, "head_dim": 16,
        "linear_head_dim": 16, "num_key_value_heads": 4,
    },
    "bamba": {"attn_layer_indices": [1]},
    "blt": {
        "patcher_config.num_key_value_heads": 4, "encoder_config.num_key_value_heads": 4,
        "decoder_config.num_key_value_heads": 4, "global_config.num_key_value_heads": 4,
        "patching_threshold": 5.05,  # patches of one byte and of more; attention over one byte has no gradient
    },
    "blip-2": {"image_token_index": 5},
    "bros": {"dim_bbox_sinusoid_emb_2d": 16, "dim_bbox_sinusoid_emb_1d": 2, "dim_bbox_projection": 16},
    "chameleon": {
        "vq_config.base_channels": 32, "vq_config.channel_multiplier": [1, 2],
        "vocabulary_map": {"<image>": 5, "IMGIMGBBBAZ": 6},
    },
    "dab-detr": {"query_dim": 4},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 128, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"n_routed_experts": 4, "num_experts_per_tok": 2},
    "deepseek_ocr2": {"text_config.mlp_layer_types": ["dense", "sparse"]},
    "depth_pro": {"intermediate_hook_ids": [1, 0]},
    "diffusion_gemma": {
        "text_config.num_experts": 4, "text_config.top_k_experts": 2, "text_config.moe_intermediate_size": 32,
    },
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2},
    "emu3": {
        "vocabulary_map": {"<image>": 5, "<|extra_200|>": 6},
        "vq_config.base_channels": 32, "vq_config.channel_multiplier": [1, 2],
    },
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "gemma4_assistant": {
        "text_config.vocab_size_per_layer_input": 0, "text_config.hidden_size_per_layer_input": 0,
        "text_config.num_kv_shared_layers": 2, "text_config.use_double_wide_mlp": False,
    },
    "glm5_next": {"text_config.index_kpool": 4, "text_config.index_topk": 8},
    "glm5_next_text": {"index_kpool": 4, "index_topk": 8},
    "granite4_vision": {"deepstack_layer_map": [[-1, 0]], "downsample_rate": "1/2"},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "grounding-dino": {"num_queries": 2, "query_dim": 4},
    "hrm_text": {"num_layers_per_stack": 1, "num_hidden_layers": 8},
    "informer": {  # attention over a sample of the keys draws random numbers
        "prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2], "attention_type": "full",
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mistral4": {"qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "qk_head_dim": 32, "head_dim": 32},
    "molmo2": {"adapter_config.vision_feature_layer": [-1, -2]},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        # hashing draws random numbers, and axial positions take one length in training, others in generation
        "axial_pos_embds": False, "attn_layers": ["local", "local"], "num_hidden_layers": 2,
        "local_attn_chunk_length": 4,
    },
    "time_series_transformer": {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2]},
    "xlstm": {"qk_dim_factor": 0.5, "v_dim_factor": 1.0, "hidden_size": 64, "num_heads": 4},
}  # fmt: skip

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_COMPASS = {
    "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE},
    "layer_types": ["sliding_attention", "full_attention"],
}
_INDEXER = {
    "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}  # fmt: skip
_ZAMBA = {
    "num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
    "attention_hidden_size": 128, "attention_head_dim": 32, "num_key_value_heads": 4, "mamba_headdim": 16,
    "num_mem_blocks": 1,
}  # fmt: skip
_NOTE_SLIDING = {
    "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 32, "kv_lora_rank": 32, "head_dim": 32,
    "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16,
}  # fmt: skip


def _inside(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}.{field}": value for field, value in fields.items()}


CONFIGS |= {
    "cohere_compass_text": _COMPASS,
    "cohere_compass": _inside("text_config", _COMPASS),
    "qwen4_exp_text": _INDEXER,
    "qwen4_exp": _inside("text_config", _INDEXER),
    "zamba": {**_ZAMBA, "n_mamba_heads": 2},
    "zamba2": {**_ZAMBA, "n_mamba_heads": 8},
    "dots3_note": {
        "audio_config.adapter_input_size": 64, "audio_config.adapter_out_dim": 64,
        "vision_config.adapter_in_dim": 64, "vision_config.adapter_out_dim": 64,
    },
}  # fmt: skip
# Types whose sizes are in lists, or tied to each other by more than a name, and which would stay large otherwise.
_EFFICIENTNET = {
    "image_size": 64, "width_coefficient": 0.5, "depth_coefficient": 1.0, "hidden_dim": 640,
    "in_channels": [32, 16, 24, 40], "out_channels": [16, 24, 40, 80], "kernel_sizes": [3, 3, 5, 3],
    "strides": [1, 2, 2, 2], "num_block_repeats": [1, 2, 2, 2], "expand_ratios": [1, 6, 6, 6], "num_hidden_layers": 28,
}  # fmt: skip
_SAM = {
    "vision_config.output_channels": 64, "vision_config.num_pos_feats": 32, "vision_config.window_size": 3,
    "prompt_encoder_config.image_embedding_size": 4,
}  # fmt: skip
_HIERA = {
    "image_size": [64, 64], "hidden_size": 12, "embed_dim_per_stage": [12, 24, 48, 96],
    "blocks_per_stage": [1, 2, 2, 2], "num_attention_heads_per_stage": [1, 2, 4, 8], "global_attention_blocks": [2, 4],
    "window_size_per_stage": [8, 4, 3, 2],
}  # fmt: skip
_SAM2_VISION = {
    **{f"backbone_config.{name}": value for name, value in _HIERA.items()},
    "backbone_channel_list": [96, 48, 24, 12], "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": 64,
}  # fmt: skip
_SAM3_VISION = {
    "fpn_hidden_size": 64, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "backbone_config.window_size": 3,
}  # fmt: skip
_PROMPT = {"prompt_encoder_config.image_size": 64, "prompt_encoder_config.patch_size": 16}
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_HGNET = {
    "stem_channels": [3, 8, 12], "stage_in_channels": [12, 16, 32, 64], "stage_mid_channels": [8, 8, 16, 24],
    "stage_out_channels": [16, 32, 64, 128], "stage_num_blocks": [1, 1, 2, 1], "stage_numb_of_layers": [2, 2, 2, 2],
    "hidden_sizes": [16, 32, 64, 128],
}  # fmt: skip
_DFINE = {
    **{f"backbone_config.{name}": value for name, value in _HGNET.items()},
    "backbone_config.out_features": _STAGES[1:], "encoder_in_channels": [32, 64, 128],
    "decoder_in_channels": [64, 64, 64],
}  # fmt: skip
_MIMI = {"upsample_groups": 64, "vector_quantization_hidden_dimension": 16, "num_quantizers": 4}
_DAC = {"encoder_hidden_size": 8, "decoder_hidden_size": 64, "hidden_size": 128, "n_codebooks": 4}
_VQ = {"base_channels": 32, "channel_multiplier": [1, 2], "latent_channels": 32, "num_embeddings": 64}

CONFIGS |= {
    "align": {**_inside("vision_config", _EFFICIENTNET), "projection_dim": 40},
    "bit": {"num_groups": 4},
    "clap": {
        "audio_config.spec_size": 128, "audio_config.num_mel_bins": 64, "audio_config.window_size": 4,
        "audio_config.patch_embeds_hidden_size": 16, "audio_config.hidden_size": 128,
        "audio_config.num_attention_heads": [2, 4, 4, 8],
    },
    "csm": _inside("codec_config", _MIMI),
    "cvt": {"depth": [1, 2, 3]},
    "dac": _DAC,
    "depth_pro": {
        **CONFIGS["depth_pro"], "scaled_images_feature_dims": [64, 64, 32], "intermediate_feature_dims": [64, 64],
    },
    "efficientloftr": {
        "hidden_size": 64, "stage_num_blocks": [1, 2, 2, 2], "out_features": [16, 16, 32, 64],
        "num_attention_heads": 8, "num_key_value_heads": 8,
    },
    "efficientnet": _EFFICIENTNET,
    "d_fine": _DFINE,
    "deimv2": _DFINE,
    "ernie4_5_vl_moe": {
        "text_config.rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "mrope_section": [3, 3, 2]},
        "text_config.moe_intermediate_size": [64, 32],
    },
    "fastspeech2_conformer_with_hifigan": {"vocoder_config.model_in_dim": 16},
    "focalnet": {"embed_dim": 16, "hidden_sizes": [32, 64, 128, 128]},
    "groupvit": {
        "vision_config.hidden_size": 64, "vision_config.num_group_tokens": [8, 4, 0],
        "vision_config.num_output_groups": [8, 4, 4],
    },
    "hgnet_v2": _HGNET,
    "janus": _inside("vq_config", _VQ),
    "lilt": {"hidden_size": 96, "intermediate_size": 192},
    "mask2former": {"backbone_config.out_features": _STAGES},
    "maskformer": {"backbone_config.out_features": _STAGES},
    "mimi": _MIMI,
    "mobilevitv2": {"image_size": 128, "width_multiplier": 0.25, "n_attn_blocks": [2, 2, 2]},
    "pe_audio": _inside("audio_config.dac_config", _DAC),
    "pe_audio_encoder": _inside("dac_config", _DAC),
    "sam": _SAM,
    "sam_hq": _SAM,
    "sam2": {**_inside("vision_config", _SAM2_VISION), **_PROMPT},
    "sam2_hiera_det_model": _HIERA,
    "sam2_vision_model": _SAM2_VISION,
    "sam3_tracker": _inside("vision_config", _SAM3_VISION),
}  # fmt: skip
_MROPE = {"rope_parameters": {**_ROPE, "mrope_section": [4, 2, 2]}}
_HUNYUAN = {"head_dim": 16, **_MROPE}
_RT_DETR = {"backbone_config.out_features": _STAGES[1:], "decoder_in_channels": [64, 64, 64]}
_NEUCODEC = {"quantization_dim": 128, "encoder_hidden_size": 4, "downsampling_ratios": [2, 4, 4]}
_GLM_ROPE = {**_ROPE, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}

CONFIGS |= {
    "hunyuan_vl": _inside("text_config", _HUNYUAN),
    "hunyuan_vl_text": _HUNYUAN,
    "instructblip": {"image_token_index": 5},
    "instructblipvideo": {"video_token_index": 5},
    "kosmos-2": {"latent_query_num": 4},
    "lightglue": {
        "keypoint_detector_config.keypoint_decoder_dim": 65,
        "keypoint_detector_config.encoder_hidden_sizes": [16, 16, 32, 32],
    },
    "lw_detr": {
        "backbone_config.image_size": 64, "backbone_config.patch_size": 8, "backbone_config.out_features": _STAGES[:2],
        "backbone_config.window_block_indices": [0], "projector_scale_factors": [1.0],
        "projector_in_channels": [64], "num_feature_levels": 1,
    },
    "lxmert": {"visual_pos_dim": 4, "l_layers": 2, "x_layers": 2, "r_layers": 2},
    "mimi_decoder": _MIMI,
    "mm-grounding-dino": CONFIGS["grounding-dino"],
    "moonshine_streaming": {"num_key_value_heads": 4},
    "encodec": {"codebook_dim": 64},
    "glm4v_moe": {"text_config.rope_parameters": _GLM_ROPE},
    "glm4v_moe_text": {"rope_parameters": _GLM_ROPE},
    "neucodec": _NEUCODEC,
    "xcodec2": _NEUCODEC,
    "omdet-turbo": {
        "backbone_config.out_indices": [0, 1, 2], "encoder_in_channels": [96, 192, 384],
        "vision_features_channels": [64, 64, 64], "class_embed_dim": 96,
        "text_config.hidden_size": 96, "text_projection_in_dim": 96, "text_projection_out_dim": 96,
    },
    "paddleocr_vl": _inside("text_config", _MROPE),
    "pocket_tts_audio_tokenizer": {"upsample_groups": 64},
    "pocket_tts_audio_tokenizer_decoder": {"upsample_groups": 64},
    "pp_doclayout_v4": _DFINE,
    "pp_ocrv5_server_rec": _inside("backbone_config", _HGNET),
    "pvt": {"num_encoder_blocks": 4},
    **dict.fromkeys(("qwen2_5_omni_thinker", "qwen2_5_vl", "qwen2_vl"), _inside("text_config", _MROPE)),
    "rt_detr": _RT_DETR,
    "rt_detr_v2": _RT_DETR,
    "seggpt": {
        "num_hidden_layers": 4, "merge_index": 1, "intermediate_hidden_state_indices": [2, 3], "image_size": [64, 32],
    },
    "step3p7": {"text_config.sliding_window": 8},
    "t5gemma2_encoder": {"text_config.dropout_rate": 0.0},
    "textnet": {"image_size": [64, 64], "stem_out_channels": 8},
    "tvp": {"max_img_size": 64, "visual_prompt_size": 8, "num_frames": 4},
    "vibevoice_acoustic_tokenizer": {"num_filters": 2},
    "vibevoice_acoustic_tokenizer_decoder": {"num_filters": 2},
    "vibevoice_acoustic_tokenizer_encoder": {"num_filters": 2},
    "univnet": {"model_hidden_channels": 8},
    "vibevoice": {"audio_config.num_filters": 2, "semantic_model_config.num_filters": 2},
    "vibevoice_asr": {
        "acoustic_tokenizer_encoder_config.num_filters": 2, "semantic_tokenizer_encoder_config.num_filters": 2,
    },
    "vjepa2": {"frames_per_clip": 8},
    "xcodec": {
        "acoustic_model_config.encoder_hidden_size": 8, "acoustic_model_config.decoder_hidden_size": 64,
        "acoustic_model_config.hidden_size": 128, "codebook_dim": 192,
    },
    "pp_doclayout_v3": {**_DFINE, "backbone_config.out_features": _STAGES, "x4_feat_dim": 16},
    "nemotron3_5_asr": {"default_prompt_id": 101},
    "oneformer": {"backbone_config.out_features": _STAGES},
    "sam3": _inside("vision_config", _SAM3_VISION),
    "sam3_lite_text": _inside("vision_config", _SAM3_VISION),
}  # fmt: skip
# The backbones of timm: its own tiny ResNet where only a name can be given, else fewer and narrower layers.
_TIMM_BACKBONE = {"backbone_config.backbone": "test_resnet", "backbone_config.out_indices": [1, 2, 3, 4]}
_PE_VIT = {
    "img_size": 56, "embed_dim": 64, "depth": 2, "num_heads": 4, "attn_pool_num_heads": 4, "ref_feat_shape": [4, 4],
}  # fmt: skip
_EDGETAM_VISION = {
    "backbone_config.architecture": "repvit_m1",
    "backbone_config.model_args": {
        "in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3], "embed_dim": [8, 16, 32, 64],
        "depth": [2, 2, 2, 2],
    },
    "backbone_channel_list": [64, 32, 16, 8], "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": 64,
}  # fmt: skip
_MOBILENET_V5 = {"channel_multiplier": 0.0625}

CONFIGS |= {
    **dict.fromkeys(("conditional_detr", "detr", "table-transformer"), _TIMM_BACKBONE),
    "dab-detr": {**CONFIGS["dab-detr"], **_TIMM_BACKBONE},
    "deformable_detr": {**_TIMM_BACKBONE, "backbone_config.out_indices": [2, 3, 4]},
    "edgetam": {**_inside("vision_config", _EDGETAM_VISION), **_PROMPT},
    "edgetam_vision_model": _EDGETAM_VISION,
    "fast_vlm": {
        "vision_config.model_args": {
            "inference_mode": True, "layers": [1, 2, 2, 2, 2], "embed_dims": [16, 32, 32, 64, 64],
        },
        "vision_config.hidden_size": 128,
    },
    "gemma3n": {"vision_config.model_args": _MOBILENET_V5},
    "gemma3n_vision": {"model_args": _MOBILENET_V5},
    "pe_audio_video": {
        **_inside("audio_video_config.audio_config.dac_config", _DAC),
        "audio_video_config.video_config.vision_config.model_args": _PE_VIT,
    },
    "pe_audio_video_encoder": {
        **_inside("audio_config.dac_config", _DAC), "video_config.vision_config.model_args": _PE_VIT,
    },
    "pe_video": {"video_config.vision_config.model_args": _PE_VIT},
    "pe_video_encoder": {"vision_config.model_args": _PE_VIT},
    "perception_lm": {
        "vision_config.architecture": "vit_pe_lang_large_patch14_448", "vision_config.model_args": _PE_VIT,
    },
    "timm_backbone": {"backbone": "test_resnet"},
    "timm_wrapper": {"model_args": {"layers": [2, 2, 2, 2], "channels": [16, 16, 32, 32]}},
}  # fmt: skip
REMOVED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("autoformer", "informer", "time_series_transformer"), ("feature_size",)),
    "efficientloftr": (
        "stage_in_channels",
        "stage_block_stride",
        "stage_block_out_channels",
        "stage_block_in_channels",
    ),
    "zamba": ("layer_types", "hybrid_layer_ids"),
    "zamba2": ("layer_types", "hybrid_layer_ids"),
}


def correct(model_type: str, config: dict[str, Any]) -> None:
    """Set what `CONFIGS`, `REMOVED` and `COMPUTED` say, in place."""
    for name in REMOVED.get(model_type, ()):
        config.pop(name, None)
    for path, value in CONFIGS.get(model_type, {}).items():
        *outer, name = path.split(".")
        inner = config
        for part in outer:
            inner = inner[part]
        inner[name] = value
    if model_type in COMPUTED:
        COMPUTED[model_type](config)


def _note_text(config: dict[str, Any]) -> None:
    sliding = [i for i, kind in enumerate(config["layer_types"]) if kind == "sliding_attention"]
    config.update(head_dim=32, per_layer_config=dict.fromkeys(sliding, _NOTE_SLIDING), n_group=1, topk_group=1)
    config.pop("rope_parameters", None)


def _narrow_adaptor(config: dict[str, Any]) -> None:
    config["adaptor_config"]["intermediate_size"] = config["text_config"]["hidden_size"] // 4


COMPUTED: dict[str, Callable[[dict[str, Any]], None]] = {
    "dots3_note": lambda config: _note_text(config["text_config"]),
    "dots3_note_text": _note_text,
    "fun_asr_nano": _narrow_adaptor,
}


# What a default config has to be made with where its own defaults do not fit each other.
MADE_WITH: dict[str, dict[str, Any]] = {
    "gemma4_assistant": {
        "text_config": {
            "model_type": "gemma4_text", "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0,
        }
    },
}  # fmt: skip
