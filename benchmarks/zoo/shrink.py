"""A model type's default config, made tiny by what the names of its fields mean (`fields`).

Layers: two, or as many (up to four) as it takes to have one of each kind where the config lists a kind for each layer.
Token ids of 16 and more are given new ones from the top of the small vocabulary, equal ids staying equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.zoo import fields as names
from benchmarks.zoo.fields import Level

MOST_LAYERS = 4
Fields = dict[str, Any]


def shrink(config: Mapping[str, Any], level: Level) -> Fields:
    """The fields of a config (`to_dict`), tiny."""
    return _Shrinker(level).config(config)


def fill_none(config: Fields) -> None:
    """Give fields that are None a value, here and in configs inside, in place."""
    for name, value in config.items():
        if isinstance(value, dict):
            fill_none(value)
        elif value is None and name in names.WHERE_NONE:
            config[name] = names.WHERE_NONE[name]


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


@dataclass(frozen=True)
class _Layers:
    """Which layers of a config are kept, and the fields that have an item for each."""

    depth: int | None
    count: int
    kept: tuple[int, ...] = ()
    listed: tuple[str, ...] = ()


def _layers_of(config: Fields) -> _Layers:
    """The first layer of each combination of listed kinds; the first two layers if nothing is listed."""
    depth = next((config[name] for name in names.DEPTHS if is_int(config.get(name))), None)
    listed = [name for name, value in config.items() if depth and depth > 2 and _is_flat_list(value, depth)]
    if not listed or depth is None:
        return _Layers(depth, names.LAYERS)
    kinds = [name for name in listed if all(isinstance(item, str) for item in config[name])] or listed
    first: dict[tuple[str, ...], int] = {}
    for index in range(depth):
        first.setdefault(tuple(str(config[name][index]) for name in kinds), index)
    kept = sorted(first.values())[:MOST_LAYERS]
    kept += [depth - 1] * (2 - len(kept))
    return _Layers(depth, len(kept), tuple(kept), tuple(listed))


def _is_flat_list(value: Any, length: int) -> bool:
    return is_list(value) and len(value) == length and not any(isinstance(x, (list, tuple, dict)) for x in value)


class _Shrinker:
    def __init__(self, level: Level) -> None:
        self.level = level
        self._tokens: dict[int, int] = {}

    def config(self, given: Mapping[str, Any]) -> Fields:
        config = {name: value for name, value in given.items() if name not in names.BACKBONE}
        staged = is_list(config.get("depths"))  # widths of stages; a hidden_size beside them is derived
        if staged:
            config.pop("hidden_size", None)
        layers = _layers_of(config)
        made = {name: self._field(name, value, config, layers) for name, value in config.items()}
        if staged and is_list(made.get("num_heads")) and is_int(made.get("embed_dim")):
            made["num_heads"] = [2 ** (stage + 1) for stage in range(len(made["depths"]))]
        if not self.level.mild:
            _shrink_images(made, config)
        return made

    def _field(self, name: str, value: Any, config: Fields, layers: _Layers) -> Any:
        if isinstance(value, dict):
            return self._mapping(name, value, config, layers)
        if is_list(value):
            return self._list(name, value, config, layers)
        return self._number(name, value, config, layers) if is_int(value) else value

    def _mapping(self, name: str, value: Fields, config: Fields, layers: _Layers) -> Any:
        if name == "per_layer_config":
            return self._per_layer(value, config, layers)
        if "model_type" in value or name.endswith("_config"):
            return self.config(value)
        return self._rope(value) if "rope" in name else value

    def _per_layer(self, value: dict[Any, Fields], config: Fields, layers: _Layers) -> dict[int, Fields]:
        """Overrides of single layers, keyed by index."""
        kept = layers.kept or range(layers.count)
        found = [value.get(index, value.get(str(index), {})) for index in kept]
        made = {i: {n: self._override(n, v, config) for n, v in one.items()} for i, one in enumerate(found)}
        return {index: one for index, one in made.items() if one}

    def _override(self, name: str, value: Any, config: Fields) -> Any:
        if not is_int(value):
            return value
        if names.HEAD_DIMS.match(name):
            larger = is_int(config.get(name)) and value > config[name]
            return 2 * self.level.head_dim if larger else self.level.head_dim
        return self.number(name, value, config)

    def _rope(self, value: Fields) -> Fields:
        if self.level.head_dim > 16:
            return value
        fixed = {
            "mrope_section": names.MROPE_SECTION,
            "short_factor": [1.0 + 0.1 * i for i in range(8)],
            "long_factor": [1.0 + 0.1 * i for i in range(8)],
            "original_max_position_embeddings": 64,
        }
        return {n: self._rope(v) if isinstance(v, dict) else fixed.get(n, v) for n, v in value.items()}

    def _number(self, name: str, value: int, config: Fields, layers: _Layers) -> int:
        counts_layers = bool(names.LAYER_COUNTS.match(name))
        if counts_layers and layers.count > 2 and value == layers.depth:
            return layers.count
        if name == "embed_dim" and is_list(config.get("depths")) and is_list(config.get("num_heads")):
            return 32
        needed = counts_layers or names.VOCABS.match(name) or names.TOKENS.search(name)
        return value if self.level.mild and not needed else self.number(name, value, config)

    def number(self, name: str, value: int, config: Fields) -> int:
        """A tiny value for an integer field; `config` are the original fields beside it."""
        has_state = "state_size" in config or "expand" in config
        if name == "chunk_size" and has_state:
            return 8
        if name in names.FIXED:
            fixed = names.FIXED[name]
            return fixed if fixed < 0 or value > 0 or name in names.ZERO_STAYS else value
        if names.VOCABS.match(name):
            return names.VOCAB if value > 0 else value
        if names.TOKENS.search(name):
            return self._token(value)
        if value <= 1:
            return value
        return 8 if name == "num_heads" and has_state else self._size(name, value, config)

    def _size(self, name: str, value: int, config: Fields) -> int:
        if names.KV_HEAD_COUNTS.match(name):
            queries = [config[n] for n in names.QUERY_HEADS if is_int(config.get(n))][:1]
            return names.HEADS if [value] == queries else names.KV_HEADS
        tiny = (
            (names.EXPERT_COUNTS, names.EXPERTS),
            (names.CHOSEN_COUNTS, min(value, names.CHOSEN_EXPERTS)),
            (names.HEAD_COUNTS, names.HEADS),
            (names.HEAD_DIMS, self.level.head_dim),
            (names.LAYER_COUNTS, min(value, names.LAYERS)),
            (names.FFNS, self.level.ffn),
            (names.WIDTHS, self.level.width),
        )
        return next((size for pattern, size in tiny if pattern.match(name)), value)

    def _token(self, value: int) -> int:
        if value < 16:
            return value
        return self._tokens.setdefault(value, names.VOCAB - 1 - len(self._tokens))

    def _list(self, name: str, value: Any, config: Fields, layers: _Layers) -> Any:
        if name in layers.listed:
            return self._listed(name, [value[index] for index in layers.kept], config)
        if name == "mrope_section":
            return names.MROPE_SECTION
        indices, tokens = names.LAYER_INDICES.search(name), names.TOKENS.search(name)
        if not value or (self.level.mild and not indices and not tokens):
            return value
        if name in names.KERNEL_WIDTHS:
            return [32] * len(value)
        whole = all(is_int(item) for item in value)
        if name in names.STAGE_WIDTHS and whole:
            factor = 8 if max(value) >= 512 else 4 if max(value) >= 256 else 1
            return [max(8, item // factor) for item in value]
        if name == "depths" and whole:
            return [min(item, 2) for item in value]
        if tokens and not indices:
            return [self._token(item) if is_int(item) else item for item in value]
        if indices and whole and "stage" not in name:
            return [item for item in value if -layers.count <= item < layers.count] or [layers.count - 1]
        return list(value)[: layers.count] if name in ("layer_types", "mlp_layer_types") else list(value)

    def _listed(self, name: str, items: list[Any], config: Fields) -> list[Any]:
        """One item for each kept layer; small numbers are kinds, not sizes."""
        one = name.replace("_per_layer", "")
        one = one if one in ("num_attention_heads", "num_key_value_heads") else one.rstrip("s")
        return [self.number(one, item, config) if is_int(item) and item > 4 else item for item in items]


def _shrink_images(made: Fields, config: Fields) -> None:
    """Images of a few patches, in place."""
    patch: Any = made.get("patch_size")
    image: Any = made.get("image_size")
    if is_int(patch) and "hidden_sizes" not in config and "depths" not in config:
        patch = made["patch_size"] = min(patch, 8)
        if is_int(image):
            made["image_size"] = 4 * patch if patch > 4 else 32
        elif is_list(image) and len(image) == 2:
            made["image_size"] = [4 * patch] * 2
    elif is_int(image):
        made["image_size"] = min(image, 64)
    for name in names.IMAGE_SIZES:
        if is_int(made.get(name)):
            made[name] = min(made[name], 64)
