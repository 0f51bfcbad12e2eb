"""Model type and head -> model and inputs."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks.zoo import corrections
from benchmarks.zoo.fields import EXPERTS, LEVELS, Level
from benchmarks.zoo.inputs import Inputs, find_inputs
from benchmarks.zoo.shrink import fill_none, shrink

transformers.logging.set_verbosity_error()

Head = Literal["causal", "base"]
_CLASSES = {"causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "base": modeling_auto.MODEL_MAPPING_NAMES}
MOST_PARAMETERS = 120_000_000  # of a model that is hardly shrunk
_DERIVED = ("model_type", "transformers_version", "architectures", "_name_or_path", "dtype")
_DERIVED_INSIDE = ("dtype", "transformers_version", "_name_or_path", "_attn_implementation", "_experts_implementation")
_SMALL_NOISE = re.compile(
    r"a_log|\.d$|dt|decay|time_|scale|norm|codebook|basis|freq|slope|mix|gate_bias|lambda|sink|bbox_embed",
    re.IGNORECASE,
)
_EMBEDDINGS = re.compile(r"embed|wte|wpe|shared\.weight", re.IGNORECASE)


def model_types(head: Head) -> list[str]:
    """Every transformers model type that has this head."""
    return sorted(_CLASSES[head])


def build(model_type: str, head: Head = "causal", seed: int = 0) -> tuple[nn.Module, Inputs]:
    """A float32 model in eval mode and keyword inputs on which it runs.

    Raises: what was in the way at the first level that got furthest (inputs before building); ImportError if an extra
        is missing.
    """
    no_model: Exception | None = None
    no_inputs: Exception | None = None
    for level in LEVELS:
        try:
            model = build_model(model_type, head, level, seed)
        except ImportError:
            raise
        except Exception as error:
            no_model = no_model or error
            continue
        try:
            return model, find_inputs(model, model_type)
        except Exception as error:
            no_inputs = no_inputs or error
    raise no_inputs or no_model or AssertionError("there are no levels")


def build_model(model_type: str, head: Head, level: Level, seed: int = 0) -> nn.Module:
    """The model of one level. Raises: whatever its config or class raises; ValueError if it is too large."""
    config, made_by = tiny_config(model_type, level), model_class(model_type, head)
    wanted = made_by.config_class
    if wanted is not None and not isinstance(config, wanted):  # a composite config whose head belongs to a part
        config = next((inner for inner in vars(config).values() if isinstance(inner, wanted)), config)
    if head == "causal":
        _be_decoder(config)
    if level != LEVELS[0]:
        with torch.device("meta"):
            count = sum(p.numel() for p in made_by(config).parameters())
        if count > MOST_PARAMETERS:
            raise ValueError(f"{model_type} has {count:,} parameters at {level}")
    torch.manual_seed(seed)
    from_config = getattr(made_by, "_from_config", None)
    model: nn.Module = from_config(config, dtype=torch.float32) if from_config else made_by(config)
    return perturb(model.float().eval(), seed)


def tiny_config(model_type: str, level: Level) -> Any:
    """The type's default config at a level."""
    config_class = CONFIG_MAPPING[model_type]
    default = config_class(**corrections.MADE_WITH.get(model_type, {})).to_dict()
    made = default if level.default else shrink(default, level)
    for name in _DERIVED:
        made.pop(name, None)
    _drop_derived(made)
    if level.fill:
        fill_none(made)
    if level.corrected:
        corrections.correct(model_type, made)
    return config_class.from_dict(made)


def model_class(model_type: str, head: Head) -> Any:
    names = _CLASSES[head][model_type]
    return getattr(transformers, names if isinstance(names, str) else names[0])


def perturb(model: nn.Module, seed: int) -> nn.Module:
    """Make every parameter count: matrices of unit gain, biases and norms off their initial values, small noise on what
    is an exponent, a rate or a table of constants.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator)
                _perturb(name, parameter, noise)
        for name, buffer in model.named_buffers():
            if name.endswith("weight") and not buffer.any():  # of a frozen norm that begins as zero
                buffer.copy_(1 + 0.05 * torch.randn(buffer.shape, generator=generator))
    return model


def _perturb(name: str, parameter: Tensor, noise: Tensor) -> None:
    if parameter.ndim < 2 or _SMALL_NOISE.search(name):
        parameter.add_(0.05 * noise)
    elif _EMBEDDINGS.search(name) and not (parameter.ndim > 2 and name.endswith(".weight")):  # a convolution's kernel
        parameter.copy_(0.5 * noise)
    elif parameter.ndim == 3 and ("expert" in name.lower() or parameter.shape[0] == EXPERTS):
        parameter.copy_(noise / math.sqrt(parameter.shape[1]))  # [experts, in or out, out or in]
    else:
        parameter.copy_(noise / math.sqrt(max(1, parameter[0].numel())))


def _be_decoder(config: Any) -> None:
    """Causal masks for types that are encoders by default."""
    parts = [config, *(inner for inner in vars(config).values() if hasattr(inner, "model_type"))]
    for part in parts:
        if hasattr(part, "is_decoder") and not getattr(part, "is_encoder_decoder", False):
            part.is_decoder = True


def _drop_derived(config: dict[str, Any]) -> None:
    for name in _DERIVED_INSIDE:
        config.pop(name, None)
    for inner in config.values():
        if isinstance(inner, dict):
            _drop_derived(inner)
