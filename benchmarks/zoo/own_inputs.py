"""What generic inputs get wrong for single model types: forwards that take something of their own.

Test data, never read by the package.

Letters: B batch, S sequence, C channels, P patch, N patches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo.fields import BATCH, LENGTH

Inputs = dict[str, Any]


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _floats(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_generator())


def _ids() -> Tensor:
    return torch.randint(16, 100, (BATCH, LENGTH), generator=_generator())


def _xmod(model: Any) -> Inputs:
    model.set_default_language("en_XX")
    return {"input_ids": _ids(), "lang_ids": torch.zeros(BATCH, dtype=torch.long)}


def _kosmos2(model: Any) -> Inputs:
    size, queries = model.config.vision_config.image_size, model.config.latent_query_num
    if queries > LENGTH:
        return {"input_ids": _ids()}
    image = torch.arange(LENGTH).expand(BATCH, LENGTH) < queries
    return {
        "input_ids": _ids(),
        "pixel_values": _floats(BATCH, 3, size, size),
        "image_embeds_position_mask": image,
    }


def _blip(model: Any) -> Inputs:
    ids, size = _ids(), model.config.vision_config.image_size
    ids[:, : model.config.num_query_tokens] = model.config.image_token_index
    return {"input_ids": ids, "pixel_values": _floats(BATCH, 3, size, size)}


def _decision(model: Any) -> Inputs:
    steps = 6
    return {
        "states": _floats(BATCH, steps, model.config.state_dim),
        "actions": _floats(BATCH, steps, model.config.act_dim),
        "rewards": _floats(BATCH, steps, 1),
        "returns_to_go": _floats(BATCH, steps, 1),
        "timesteps": torch.arange(steps).repeat(BATCH, 1),
        "attention_mask": torch.ones(BATCH, steps),
    }


def _lxmert(model: Any) -> Inputs:
    boxes = torch.rand(BATCH, 4, 4, generator=_generator())
    return {"input_ids": _ids(), "visual_feats": _floats(BATCH, 4, model.config.visual_feat_dim), "visual_pos": boxes}


def _query_former(model: Any) -> Inputs:
    config = model.config
    return {
        "query_embeds": _floats(BATCH, 4, config.hidden_size),
        "encoder_hidden_states": _floats(BATCH, 6, config.encoder_hidden_size),
    }


def _frames(length: int, mels: int) -> Inputs:
    """Sound as [B, length, mels], nothing of it padding."""
    return {
        "input_features": _floats(BATCH, length, mels),
        "input_features_mask": torch.ones(BATCH, length, dtype=torch.long),
    }


def _clap(model: Any) -> Inputs:
    return {"input_ids": _ids(), "input_features": _floats(BATCH, 1, 64, model.config.audio_config.num_mel_bins)}


def _stacked_frames(model: Any) -> Inputs:
    return _frames(32, model.config.num_mel_bins * model.config.num_stacked_frames)


def _channels_first(model: Any) -> Inputs:
    length = 2 * model.config.n_window
    return {
        "input_features": _floats(BATCH, model.config.num_mel_bins, length),
        "input_features_mask": torch.ones(BATCH, length, dtype=torch.long),
    }


def _patches(model: Any) -> Inputs:
    """Patches of one image of four by four, [N, C, P, P]."""
    patch = model.config.patch_size
    return {"pixel_values": _floats(16, 3, patch, patch), "grid_thw": torch.tensor([[1, 4, 4]])}


def _merged_patches(model: Any) -> Inputs:
    """Squares of merged patches, [N, side, side, C]; the grid counts squares."""
    side = model.config.patch_size * model.config.spatial_merge_size
    return {"pixel_values": _floats(16, side, side, 3), "image_grid_thw": torch.tensor([[1, 4, 4]])}


def _packed_patches(model: Any) -> Inputs:
    """Two images of four by four patches in one row, [1, C, P, N P]."""
    patch = model.config.patch_size
    return {"pixel_values": _floats(1, 3, patch, 32 * patch), "target_sizes": torch.tensor([[4, 4], [4, 4]])}


def _idefics(model: Any) -> Inputs:
    size = model.config.vision_config.image_size
    return {
        "input_ids": _ids(),
        "pixel_values": _floats(BATCH, 1, 3, size, size),
        "image_attention_mask": torch.ones(BATCH, LENGTH, 1, dtype=torch.long),
    }


def _instruct_blip(model: Any) -> Inputs:
    return {**_blip(model), "qformer_input_ids": _ids()}


def _instruct_blip_video(model: Any) -> Inputs:
    """Two frames, the tokens of which come before the text."""
    config, frames = model.config, 2
    ids, size = _ids(), config.vision_config.image_size
    ids[:, : config.num_query_tokens * frames] = config.video_token_index
    return {"input_ids": ids, "pixel_values": _floats(BATCH, frames, 3, size, size), "qformer_input_ids": _ids()}


def _glimmer(model: Any) -> Inputs:
    width = model.config.hidden_size
    return {
        "noise_embeds": _floats(BATCH, 8, width),
        "context_hidden_states": _floats(BATCH, LENGTH, width * len(model.config.target_layer_ids)),
        "attention_mask": torch.ones(BATCH, LENGTH + 8, dtype=torch.long),
    }


def _patch_rows(patch: int) -> Inputs:
    """Flattened patches of images of four by four, none of them padding."""
    return {
        "pixel_values": _floats(BATCH, 16, 3 * patch**2),
        "pixel_attention_mask": torch.ones(BATCH, 16, dtype=torch.long),
        "spatial_shapes": torch.tensor([[4, 4]] * BATCH),
    }


def _udop(model: Any) -> Inputs:
    boxes = torch.rand(BATCH, LENGTH, 2, generator=_generator())
    size = model.config.image_size
    return {
        "input_ids": _ids(),
        "bbox": torch.cat([boxes / 2, boxes / 2 + 0.25], -1),
        "pixel_values": _floats(BATCH, 3, size, size),
        "decoder_input_ids": _ids()[:, :8],
    }


def _seggpt(model: Any) -> Inputs:
    height, width = model.config.image_size
    images = ("pixel_values", "prompt_pixel_values", "prompt_masks")
    return {name: _floats(BATCH, 3, height // 2, width) for name in images}


def _speech(model: Any) -> Inputs:
    width = model.config.hidden_size
    return {"input_values": _floats(BATCH, LENGTH, width), "decoder_input_values": _floats(BATCH, 8, width)}


def _timesfm(model: Any) -> Inputs:
    length = model.config.context_length
    return {
        "past_values": _floats(BATCH, length),
        "past_values_padding": torch.zeros(BATCH, length),
        "freq": torch.zeros(BATCH, 1, dtype=torch.long),
    }


def _neucodec(model: Any) -> Inputs:
    mels = model.config.semantic_model_config.feature_projection_input_dim
    return {"input_values": _floats(BATCH, 1, 320), "input_features": _floats(BATCH, 10, mels)}


def _omdet(model: Any) -> Inputs:
    """Two classes to look for in each image."""
    classes = 2 * BATCH
    ids = _ids()
    return {
        "pixel_values": _floats(BATCH, 3, 64, 64),
        "classes_input_ids": ids.repeat(2, 1),
        "classes_attention_mask": torch.ones(classes, LENGTH, dtype=torch.long),
        "tasks_input_ids": ids,
        "tasks_attention_mask": torch.ones(BATCH, LENGTH, dtype=torch.long),
        "classes_structure": torch.tensor([2] * BATCH),
    }


def _oneformer(model: Any) -> Inputs:
    length = model.config.task_seq_len
    return {"pixel_values": _floats(BATCH, 3, 64, 64), "task_inputs": _ids().repeat(1, 7)[:, :length].float()}


def _video(model: Any) -> Inputs:
    return {"pixel_values_videos": _floats(BATCH, 4, 3, 56, 56)}


def _sound_and_video(model: Any) -> Inputs:
    return {**_video(model), "input_values": _floats(BATCH, 1, 8000)}


def _action(model: Any) -> Inputs:
    vision, dit = model.config.vlm_config.vision_config, model.config.dit_config
    ids = _ids()
    ids[:, :4] = model.config.vlm_config.image_token_index
    return {
        "action_embeds": _floats(BATCH, 6, dit.hidden_size),
        "input_ids": ids,
        "pixel_values": _floats(BATCH, 1, 3, vision.image_size, vision.image_size),
        "pixel_attention_mask": torch.ones(BATCH, 1, dtype=torch.bool),
        "attention_mask": torch.ones(BATCH, LENGTH, dtype=torch.long),
    }


def _spoken(model: Any) -> Inputs:
    """Text with four frames of sound in it, of `num_codebooks` codes each."""
    ids, config = _ids(), model.config
    ids[:, 4:8] = config.audio_token_id
    codes = torch.randint(0, config.codebook_size, (BATCH, 4, config.num_codebooks), generator=_generator())
    return {"input_ids": ids, "audio_input_ids": codes, "audio_input_ids_mask": torch.ones(BATCH, 4, dtype=torch.bool)}


def _masked_patches(model: Any) -> Inputs:
    """An image, and for each patch the number by which it is kept or masked."""
    size, patch = model.config.image_size, model.config.patch_size
    return {"pixel_values": _floats(BATCH, 3, size, size), "noise": _floats(BATCH, (size // patch) ** 2)}


def _canvas(model: Any) -> Inputs:
    logits = _floats(BATCH, 8, model.config.text_config.vocab_size)
    return {"input_ids": _ids(), "decoder_input_ids": _ids()[:, :8] + 1, "self_conditioning_logits": logits}


def _channels_of_codes(model: Any) -> Inputs:
    decoder = model.config.decoder_config
    codes = torch.randint(0, 200, (BATCH, 6, decoder.num_channels), generator=_generator())
    return {"input_ids": _ids(), "decoder_input_ids": codes}


INPUTS: dict[str, Callable[[Any], Inputs]] = {
    "dia": _channels_of_codes,
    "diffusion_gemma": _canvas,
    "higgs_audio_v2": _spoken,
    "blip_2_qformer": _query_former,
    "blt": lambda _: {"input_ids": _ids(), "use_cache": False},
    "clap": _clap,
    "clap_audio_model": lambda _: {"input_features": _floats(BATCH, 1, 64, 64)},
    "decision_transformer": _decision,
    "depth_pro": lambda _: {"pixel_values": _floats(BATCH, 3, 64, 64)},
    "efficientloftr": lambda _: {"pixel_values": _floats(1, 2, 3, 64, 64)},
    "blip-2": _blip,
    "fun_asr_nano_encoder": _stacked_frames,
    "gemma4_audio": lambda _: {"input_features": _floats(BATCH, 64, 128)},
    "kosmos-2": _kosmos2,
    "lxmert": _lxmert,
    "perceiver": lambda _: {"inputs": _floats(BATCH, LENGTH, 64)},
    "idefics": _idefics,
    "inkling2_vision": _merged_patches,
    "instructblip": _instruct_blip,
    "instructblipvideo": _instruct_blip_video,
    "kimi_k25_vision": _patches,
    "lightglue": lambda _: {"pixel_values": _floats(1, 2, 3, 64, 64)},
    "pocket_tts_audio_tokenizer_decoder": lambda model: {"latents": _floats(BATCH, model.config.hidden_size, 8)},
    "mimi_decoder": lambda model: {"latents": _floats(BATCH, model.config.hidden_size, 8)},
    "minicpm_ocr_vision": _packed_patches,
    "minicpmv4_7_vision": _packed_patches,
    "muse_glimmer_assistant": _glimmer,
    "muse_spark_audio": lambda _: {"input_values": _floats(BATCH, 3840)},
    "neucodec": _neucodec,
    "omdet-turbo": _omdet,
    "oneformer": _oneformer,
    "pe_audio_video_encoder": _sound_and_video,
    "pe_video": lambda model: {"input_ids": _ids(), **_video(model)},
    "pe_video_encoder": _video,
    "pi0": _action,
    "pp_ocrv5_mobile_rec": lambda _: {"pixel_values": _floats(BATCH, 3, 80, 160)},
    "qwen3_asr_encoder": _channels_first,
    "siglip2": lambda model: {"input_ids": _ids(), **_patch_rows(model.config.vision_config.patch_size)},
    "siglip2_vision_model": lambda model: _patch_rows(model.config.patch_size),
    "speecht5": _speech,
    "timesfm": _timesfm,
    "seggpt": _seggpt,
    "tvp": lambda _: {"input_ids": _ids()[:1], "pixel_values": _floats(1, 4, 3, 64, 64)},
    "udop": _udop,
    "univnet": lambda _: {"input_features": _floats(BATCH, 16, 16), "noise_sequence": _floats(BATCH, 16, 64)},
    "vibevoice_acoustic_tokenizer_decoder": lambda model: {
        "hidden_states": _floats(BATCH, model.config.hidden_size, 6)
    },
    "vibevoice_acoustic_tokenizer_encoder": lambda _: {"hidden_states": _floats(BATCH, 1, 3200)},
    "video_llama_3_vision": lambda model: {
        "pixel_values": _floats(16, 3 * model.config.patch_size**2),
        "grid_thw": torch.tensor([[1, 4, 4]]),
        "merge_sizes": torch.tensor([2]),
    },
    "voxtral_realtime": lambda _: {"input_ids": _ids(), "input_features": _floats(BATCH, 16, 96)},
    "xcodec": lambda _: {"input_values": _floats(BATCH, 1, 4000)},
    "xcodec2": _neucodec,
    "vit_mae": _masked_patches,
    "xmod": _xmod,
}
