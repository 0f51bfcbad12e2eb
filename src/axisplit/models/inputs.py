"""Example inputs for a transformers model: made from its forward's signature and its config.

Letters: B batch, S sequence, C channels, H and W of an image, M mel bins, T audio frames or samples.
Numbers come from a fixed seed, so that every rank makes the same; token ids avoid the ids that the config gives a
meaning (padding, image placeholders …).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from axisplit.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

SEED = 20170612
DEFAULT_IMAGE_SIZE = 224
SPECIAL_ID = re.compile(r"(_token_ids?|_token_index|_index|_bos|_eos|_pad)$")


def example_inputs(model: nn.Module, batch: int, seq: int) -> dict[str, torch.Tensor]:
    """Keyword inputs on which the model's forward should run, on the CPU.

    Args:
        batch: B of every input.
        seq: S of text; audio of raw samples gets as many as make S frames. Images have the config's size.
    Raises: InputError if the model says too little about its inputs, or seq is longer than its position table.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        raise _cannot(model, "a module without a transformers config")
    maker = _Maker(model, config, batch, seq)
    made, unknown = {}, []
    for name in _input_names(model, config):
        tensor = maker.make(name)
        if tensor is None:
            unknown.append(name)
        else:
            made[name] = tensor
    if unknown or not made:
        raise _cannot(model, f"inputs {', '.join(unknown) or 'unknown'}")
    return made


def _input_names(model: nn.Module, config: Any) -> list[str]:
    """The main input, whatever forward requires, the decoder's ids, and both inputs of a two-tower model."""
    parameters = inspect.signature(model.forward).parameters
    named = {name: p for name, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    main = getattr(model, "main_input_name", "input_ids")
    names: list[str] = [main] if main in named else []
    names += [name for name, p in named.items() if p.default is p.empty]
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in named:
        names.append("decoder_input_ids")
    placeholders = any(hasattr(config, key) for key in ("image_token_id", "image_token_index", "audio_token_id"))
    if hasattr(config, "text_config") and not placeholders:
        towers = {"vision_config": "pixel_values", "audio_config": "input_features"}
        others = [name for key, name in towers.items() if hasattr(config, key) and name in named]
        names += ["input_ids", *others] if others and "input_ids" in named else []
    if not names:
        usual = ("input_ids", "pixel_values", "input_values", "input_features")
        names = next(([name] for name in usual if name in named), [])
    return list(dict.fromkeys(names))


def position_limit(config: Any, keys: tuple[str, ...] = ()) -> int | None:
    """How many positions a model's table has; None where it has none. `keys` come before the usual entries."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if getattr(text, "rope_parameters", None):
        return None
    limits = [getattr(text, key, None) for key in (*keys, "max_position_embeddings", "n_positions")]
    return next((value for value in limits if isinstance(value, int) and value > 0), None)


class _Maker:
    """Makes one input at a time from one generator."""

    def __init__(self, model: nn.Module, config: Any, batch: int, seq: int) -> None:
        import torch

        self.model, self.config, self.batch, self.seq = model, config, batch, seq
        self.generator = torch.Generator().manual_seed(SEED)
        floats = (p.dtype for p in model.parameters() if p.is_floating_point())
        self.dtype = next(floats, torch.float32)

    def make(self, name: str) -> torch.Tensor | None:
        """The tensor for one argument of forward, or None if nothing is known about it."""
        import torch

        b, s = self.batch, self.seq
        if name in ("input_ids", "decoder_input_ids"):
            return self._token_ids(decoder=name.startswith("decoder"))
        if name in ("attention_mask", "decoder_attention_mask"):
            return torch.ones(b, s, dtype=torch.long)
        if name == "token_type_ids":
            return torch.zeros(b, s, dtype=torch.long)
        if name == "bbox":
            return torch.tensor([10, 10, 20, 20]).expand(b, s, 4).contiguous()
        if name in ("pixel_values", "pixel_values_videos"):
            return self._pixels(video=name.endswith("videos"))
        if name == "input_features":
            return self._audio_features()
        if name == "input_values":
            return self._audio_values()
        if name in ("inputs_embeds", "hidden_states"):
            return self._normal(b, s, self._size("hidden_size", "d_model", default=1))
        dummy = getattr(self.model, "dummy_inputs", {}).get(name)
        return dummy[:1].expand(b, *dummy.shape[1:]).contiguous() if isinstance(dummy, torch.Tensor) else None

    def _token_ids(self, *, decoder: bool) -> torch.Tensor:
        import torch

        keys = ("decoder_vocab_size", "vocab_size") if decoder else ("vocab_size",)
        vocab = self._size(*keys, default=0)
        if vocab <= 0:
            raise _cannot(self.model, "token ids, but no vocab_size in its config")
        self._check_positions(("max_target_positions",) if decoder else ())
        special = {value for value in _special_ids(self.config.to_dict()) if 0 <= value < vocab}
        plain = torch.ones(vocab, dtype=torch.bool)
        if len(special) < vocab:
            plain[list(special)] = False
        choice = torch.randint(int(plain.sum()), (self.batch, self.seq), generator=self.generator)
        return plain.nonzero().flatten()[choice]

    def _check_positions(self, keys: tuple[str, ...]) -> None:
        limit = position_limit(self.config, keys)
        if limit is not None and self.seq > limit:
            raise InputError(
                what="the sequence is longer than the model's position table",
                where=type(self.model).__name__,
                got=f"{self.seq} positions",
                needed=f"at most {limit}",
                do=f"use --seq {limit} or less",
            )

    def _pixels(self, *, video: bool) -> torch.Tensor:
        """[B, C, H, W], or [B, frames, C, H, W] for video."""
        height, width = _height_width(self._find("image_size", "img_size", "input_image_size"))
        channels = self._size("num_channels", default=3)
        frames = self._find("num_frames", "frames_per_clip")
        if video or isinstance(frames, int):
            count = frames if isinstance(frames, int) else 4
            return self._normal(self.batch, count, channels, height, width)
        return self._normal(self.batch, channels, height, width)

    def _audio_features(self) -> torch.Tensor:
        """[B, M, T] with T what the position table holds behind two strides (Whisper), else [B, S, M]."""
        positions = self._find("max_source_positions")
        mel = self._size("num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim", default=80)
        if self._find("num_mel_bins") is not None and isinstance(positions, int):
            return self._normal(self.batch, mel, 2 * positions)
        return self._normal(self.batch, self.seq, mel)

    def _audio_values(self) -> torch.Tensor:
        """[B, T, M] for spectrograms, else [B, T] raw samples that make about S frames."""
        mel, frames = self._find("num_mel_bins"), self._find("max_length")
        if isinstance(mel, int) and isinstance(frames, int):
            return self._normal(self.batch, frames, mel)
        ratio = getattr(self.config, "inputs_to_logits_ratio", 320)
        return self._normal(self.batch, (self.seq + 1) * int(ratio))

    def _normal(self, *sizes: int) -> torch.Tensor:
        import torch

        return torch.randn(sizes, generator=self.generator).to(self.dtype)

    def _size(self, *keys: str, default: int) -> int:
        value = self._find(*keys)
        return value if isinstance(value, int) else default

    def _find(self, *keys: str) -> Any:
        """The first of the keys that the config, or a config inside it, sets."""
        for config in _configs(self.config):
            for key in keys:
                value = getattr(config, key, None)
                if value is not None:
                    return value
        return None


def _configs(config: Any) -> Iterator[Any]:
    """The config and those inside it, outer ones first."""
    yield config
    for value in list(vars(config).values()):
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield from _configs(value)


def _special_ids(fields: dict[str, Any]) -> Iterator[int]:
    """Every token id that a config's fields give a meaning, at any depth."""
    for key, value in fields.items():
        if isinstance(value, dict):
            yield from _special_ids(value)
        elif SPECIAL_ID.search(str(key)):
            yield from (item for item in (value if isinstance(value, list) else [value]) if type(item) is int)


def _height_width(size: Any) -> tuple[int, int]:
    """(H, W) of an `image_size` in any of the forms that configs use.

    >>> _height_width({"height": 32, "width": 48}), _height_width(64)
    ((32, 48), (64, 64))
    """
    if isinstance(size, dict):
        return int(size["height"]), int(size["width"])
    if isinstance(size, (list, tuple)) and size:
        return int(size[0]), int(size[-1])
    return (size, size) if isinstance(size, int) else (DEFAULT_IMAGE_SIZE, DEFAULT_IMAGE_SIZE)


def _cannot(model: nn.Module, got: str) -> InputError:
    return InputError(
        what="cannot make example inputs for this model",
        where=type(model).__name__,
        got=got,
        needed="a transformers model with text, image or audio inputs",
        do="write a factory, module:function, that returns (model, inputs)",
    )
