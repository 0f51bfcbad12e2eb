"""Inputs on which a model's forward runs, found by trying what arguments of these names usually are.

Letters: B batch, S sequence, C channels, P patch, T frames, M mel bins.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.fields import BATCH, LENGTH, VOCAB
from benchmarks.zoo.own_inputs import INPUTS
from benchmarks.zoo.shrink import is_int

Inputs = dict[str, Any]
VARIANTS = range(8)
FIRST_TOKEN, LAST_TOKEN = 16, 100  # clear of special tokens at both ends of the small vocabulary
_VARIED = {"pixel_values", "input_features", "audio_mel", "input_values", "hidden_states", "past_values"}
_ALONGSIDE = (  # beside input_ids
    (), ("pixel_values",), ("decoder_input_ids",), ("bbox",), ("input_features",), ("pixel_values", "bbox"),
    ("input_values",), ("visual_feats", "visual_pos"),
)  # fmt: skip
_ALONE = (
    ("pixel_values",), ("pixel_values_videos",), ("input_values",), ("input_features",),
    ("input_features", "decoder_input_ids"), ("input_values", "decoder_input_ids"),
    ("pixel_values", "decoder_input_ids"), ("inputs_embeds",), ("hidden_states",), ("hidden_states", "grid_thw"),
    ("past_values",), ("input_features", "input_features_mask"), ("audio_mel", "audio_mel_mask"),
    ("pixel_values", "pixel_position_ids"),
    ("past_values", "past_time_features", "past_observed_mask", "future_values", "future_time_features"),
)  # fmt: skip


class NoInputs(Exception):
    """No combination that was tried runs."""


def find_inputs(model: nn.Module, model_type: str, seed: int = 1) -> Inputs:
    """The first inputs on which the model runs. Raises: NoInputs, or the model's own error on corrected inputs."""
    if model_type in INPUTS:
        given = INPUTS[model_type](model)
        run(model, given)
        return given
    failures = []
    for names in candidates(model):
        for variant in VARIANTS:
            made = _Maker(model, variant, seed).inputs(names)
            if not made or (variant and not _VARIED & made.keys()):
                break
            try:
                run(model, made)
            except Exception as error:
                failures.append(f"{sorted(made)} as {variant}: {type(error).__name__}: {str(error)[:160]}")
            else:
                return made
    raise NoInputs(f"{type(model).__name__} ran on no input: {'; '.join(failures[:6])}")


def run(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        return model(**inputs)


def candidates(model: nn.Module) -> list[list[str]]:
    """Sets of arguments that the forward has, the likelier first."""
    parameters = inspect.signature(model.forward).parameters
    main = getattr(model, "main_input_name", "input_ids")
    if main not in parameters:
        main = next((name for name in parameters if name not in ("self", "kwargs", "args")), main)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    required = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty and p.kind in by_name]
    tried = [(main, *required)]
    if "decoder_input_ids" in parameters:
        tried.append((main, *required, "decoder_input_ids"))
    if "input_ids" in parameters:
        tried += [("input_ids", *more) for more in _ALONGSIDE]
    found = [tuple(name for name in dict.fromkeys(names) if name in parameters) for names in (*tried, *_ALONE)]
    return [list(names) for names in dict.fromkeys(found) if names]


def find_size(config: Any, *names: str, default: int) -> int:
    """The first integer that the config or one inside it has under any of the names (of a list, its first)."""
    found = _find(config, names)
    return default if found is None else found


def _find(config: Any, names: tuple[str, ...]) -> int | None:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, (list, tuple)) and value and is_int(value[0]):
            value = value[0]
        if isinstance(value, int) and is_int(value):
            return value
    inner = [value for value in vars(config).values() if hasattr(value, "model_type") and hasattr(value, "to_dict")]
    found = (_find(value, names) for value in inner)
    return next((size for size in found if size is not None), None)


class _Maker:
    """Makes arguments by name; a variant is another usual meaning of the same name."""

    def __init__(self, model: nn.Module, variant: int, seed: int) -> None:
        self.config, self.variant = model.config, variant
        self._generator = torch.Generator().manual_seed(seed)

    def inputs(self, names: list[str]) -> Inputs:
        """Arguments that this file knows how to make; others are left out."""
        return {name: _MAKERS[name](self) for name in names if name in _MAKERS}

    def size(self, *names: str, default: int) -> int:
        return find_size(self.config, *names, default=default)

    def floats(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self._generator)

    def tokens(self, length: int) -> Tensor:
        last = max(FIRST_TOKEN + 1, min(self.size("vocab_size", default=VOCAB), LAST_TOKEN))
        return torch.randint(FIRST_TOKEN, last, (BATCH, length), generator=self._generator)

    @property
    def image(self) -> int:
        return self.size("image_size", "img_size", "input_image_size", default=64)

    @property
    def channels(self) -> int:
        found = self.size("num_channels", default=3)
        return found if found in (1, 2, 3, 4, 9) else 3

    @property
    def frames(self) -> int:
        return self.size("num_frames", default=4)

    @property
    def patch_values(self) -> int:
        """Values of one flattened patch, [C P P]."""
        return self.channels * self.size("patch_size", default=8) ** 2

    @property
    def mels(self) -> int:
        names = ("num_mel_bins", "n_mels", "input_feat_per_channel", "input_feat_size", "feature_size", "input_dim")
        return self.size(*names, default=16)

    @property
    def width(self) -> int:
        return self.size("hidden_size", "d_model", default=64)

    def pixels(self) -> Tensor:
        side, temporal = self.image, self.size("temporal_patch_size", default=2)
        if self.variant == 3:
            return self.floats(16, temporal * self.patch_values)
        if self.variant == 7:
            return self.floats(16, self.patch_values)
        if self.variant == 6:
            return self.floats(BATCH, 16, self.patch_values)
        middle = {4: (1,), 5: (self.frames,)}.get(self.variant, ())
        return self.floats(BATCH, *middle, self.channels, side, side)

    def video(self) -> Tensor:
        frames = self.size("num_frames", "frames_per_clip", default=4)
        return self.floats(BATCH, frames, self.channels, self.image, self.image)

    def features(self) -> Tensor:
        length = 2 * self.size("max_source_positions", default=32)
        shapes = {1: (length, self.mels), 2: (self.mels, 100), 3: (1, 64, 64)}
        return self.floats(BATCH, *shapes.get(self.variant, (self.mels, length)))

    def frames_mask(self) -> Tensor:
        """Of `features`: no frame is padding."""
        length = {2: 100, 3: 64}.get(self.variant, 2 * self.size("max_source_positions", default=32))
        return torch.ones(BATCH, length, dtype=torch.long)

    def values(self) -> Tensor:
        length = self.size("max_length", default=64)
        shapes = {1: (1, 4000), 2: (length, self.mels), 3: (1, 64, self.mels)}
        return self.floats(BATCH, *shapes.get(self.variant, (4000,)))

    def series(self) -> Tensor:
        length = self.size("context_length", default=64)
        inputs = max(1, self.size("num_input_channels", "input_size", default=1))
        shapes = {0: (length, inputs), 2: (self.past,)}
        return self.floats(BATCH, *shapes.get(self.variant, (length,)))

    @property
    def past(self) -> int:
        """Steps of a series that a model looks back at: what it encodes, and what that lags behind."""
        lags: list[int] = getattr(self.config, "lags_sequence", None) or [0]
        return self.size("context_length", default=64) + max(lags)

    def time_features(self, steps: int) -> Tensor:
        return self.floats(BATCH, steps, getattr(self.config, "num_time_features", 0))

    def hidden(self) -> Tensor:
        if self.variant == 3:
            return self.floats(16, self.size("temporal_patch_size", default=2) * self.patch_values)
        return self.floats(BATCH, LENGTH, self.width)

    def boxes(self) -> Tensor:
        """Corners [x0, y0, x1, y1] of boxes of 10 by 10."""
        corners = torch.randint(0, 50, (BATCH, LENGTH, 4), generator=self._generator)
        corners[..., 2:] = corners[..., :2] + 10
        return corners


def _grid(maker: _Maker) -> Tensor:
    return torch.tensor([[1, 4, 4]])


def _sequence(maker: _Maker) -> Tensor:
    return maker.floats(BATCH, LENGTH, maker.width)


_MAKERS: dict[str, Callable[[_Maker], Tensor]] = {
    "input_ids": lambda maker: maker.tokens(LENGTH),
    "decoder_input_ids": lambda maker: maker.tokens(8),
    "inputs": lambda maker: maker.tokens(LENGTH),
    "token_type_ids": lambda maker: torch.zeros(BATCH, LENGTH, dtype=torch.long),
    "inputs_embeds": _sequence,
    "encoder_hidden_states": _sequence,
    "hidden_states": _Maker.hidden,
    "bbox": _Maker.boxes,
    "pixel_values": _Maker.pixels,
    "pixel_values_videos": _Maker.video,
    "pixel_mask": lambda maker: torch.ones(BATCH, maker.image, maker.image, dtype=torch.long),
    "image_grid_thw": _grid,
    "grid_thw": _grid,
    "input_points": lambda maker: maker.uniform(BATCH, 1, 1, 2) * maker.image,
    "visual_feats": lambda maker: maker.floats(BATCH, 4, maker.size("visual_feat_dim", default=64)),
    "visual_pos": lambda maker: maker.uniform(BATCH, 4, 4),
    "input_features": _Maker.features,
    "audio_features": _Maker.features,
    "input_values_features": _Maker.features,
    "input_values": _Maker.values,
    "audio": lambda maker: maker.floats(BATCH, 1, 4000),
    "audio_values": lambda maker: maker.floats(BATCH, 1, 4000),
    "waveform": lambda maker: maker.floats(BATCH, 1, 4000),
    "spectrogram": lambda maker: maker.floats(BATCH, LENGTH, maker.mels),
    "past_values": _Maker.series,
    "past_time_features": lambda maker: maker.time_features(maker.past),
    "past_observed_mask": lambda maker: torch.ones(BATCH, maker.past),
    "future_values": lambda maker: maker.floats(BATCH, maker.size("prediction_length", default=4)),
    "future_time_features": lambda maker: maker.time_features(maker.size("prediction_length", default=4)),
    "input_features_mask": _Maker.frames_mask,
    "audio_mel": lambda maker: maker.floats(BATCH, 64, maker.mels),
    "audio_mel_mask": lambda maker: torch.zeros(BATCH, 64, dtype=torch.bool),
    "pixel_position_ids": lambda maker: torch.cartesian_prod(*[torch.arange(4)] * 2).expand(BATCH, 16, 2),
    "time_series": _Maker.series,
}
