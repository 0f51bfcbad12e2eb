"""What kind of model it is, by its config and inputs: strata for samples, so that no kind is left out of one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from torch import nn

Family = Literal["text", "experts", "recurrent", "encoder-decoder", "multimodal", "vision", "audio", "other"]
FAMILIES: tuple[Family, ...] = get_args(Family)
_INPUTS: dict[Family, str] = {
    "vision": r"pixel|visual|image|bbox|grid_thw",
    "audio": r"input_features|input_values|audio",
    "text": r"input_ids|inputs$|token_type_ids|query_embeds",
}
_EXPERTS = re.compile(r"(num|n)_.*experts$|^num_experts|moe_num_experts")
_RECURRENT = re.compile(r"mamba|ssm|state_size|conv_kernel|rwkv|lru_width|linear_(num|key|value|conv)|slstm|mlstm|lstm")
_RECURRENT_LAYERS = re.compile(r"linear_attention|mamba|recurrent|conv|ssm")


def family(model: nn.Module, inputs: Mapping[str, Any]) -> Family:
    """The first that fits: several kinds of inputs or of inner configs, an encoder with a decoder, the kind of input,
    then for text what its layers are made of.
    """
    config = getattr(model, "config", None)
    kinds = [kind for kind, names in _INPUTS.items() if any(re.search(names, name) for name in inputs)]
    inner = {name for name in vars(config) if name.endswith("_config")} if config is not None else set()
    seen = any(re.search("vision|image|audio", name) for name in inner) and "text_config" in inner
    if seen or ("text" in kinds and len(kinds) > 1 and "decoder_input_ids" not in inputs):
        return "multimodal"
    if kinds and kinds[0] != "text":
        return kinds[0]
    if getattr(config, "is_encoder_decoder", False):
        return "encoder-decoder"
    if not kinds:
        return "other"
    fields = dict(_fields(config))
    layers = [kind for name in ("layer_types", "layers_block_type", "block_types") for kind in fields.get(name) or ()]
    if any(_RECURRENT.search(name) for name in fields) or any(_RECURRENT_LAYERS.search(str(kind)) for kind in layers):
        return "recurrent"
    many = (value for name, value in fields.items() if _EXPERTS.search(name))
    return "experts" if any(isinstance(value, int) and value > 1 for value in many) else "text"


def _fields(config: Any) -> Iterator[tuple[str, Any]]:
    """Fields of a config and of those inside it."""
    for name, value in vars(config).items() if config is not None else ():
        if hasattr(value, "to_dict"):
            yield from _fields(value)
        else:
            yield name, value
