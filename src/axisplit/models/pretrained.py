"""A directory in transformers' format: its config, the model on the meta device or in memory, its tokenizer.

Nothing in the directory is run: `auto_map` code, hub kernels and pickles are refused, adapters and quantised weights
too. The weights' headers are checked before a library opens them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axisplit.checkpoint.header import listing
from axisplit.checkpoint.index import has_weights
from axisplit.checkpoint.names import compare_model, require_match
from axisplit.checkpoint.stream import open_checkpoint
from axisplit.checkpoint.strict_json import read_json_object
from axisplit.errors import InputError
from axisplit.models.libraries import library_errors, quiet, require

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

MAX_CONFIG_BYTES = 8 * 2**20
KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")


def read_config(file: Path) -> PreTrainedConfig:
    """The transformers config in a `config.json`.

    Raises: InputError if it is missing, damaged, of an unknown model type, quantised, or asks for code to be run.
    """
    require("transformers")
    fields = read_json_object(file, "cannot read the model's config", MAX_CONFIG_BYTES, special_floats=True)
    from transformers import CONFIG_MAPPING

    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        near = difflib.get_close_matches(str(model_type), CONFIG_MAPPING, 3)
        own_code = ", and code of its own, which is never run" if "auto_map" in fields else ""
        raise _bad_config(
            file,
            f"model_type {ascii(model_type)[:80]}{own_code}",
            "a model_type that transformers knows" + (f" ({', '.join(near)}?)" if near else ""),
            "write a factory, module:function, that returns the model",
        )
    if fields.get("quantization_config"):
        method = dict(fields["quantization_config"]).get("quant_method", "unnamed method")
        raise _bad_config(
            file, f"quantised weights ({ascii(method)[:40]})", "float weights", "use the model before it was quantised"
        )
    kernels = [value for value in _values_of(fields, KERNEL_KEYS) if "/" in str(value)]
    if kernels:
        raise _bad_config(
            file, f"kernels to be downloaded: {ascii(kernels)[:80]}", "none", "take the entry out of config.json"
        )
    with _config_errors(file):
        return CONFIG_MAPPING[model_type].from_dict(fields)


def build_meta(config: PreTrainedConfig, where: Path, weights: Path | None = None) -> nn.Module:
    """The config's model on the meta device, in eval mode, ties kept, dtypes as `load_directory` gives them."""
    import torch
    from transformers import initialization

    model_class, dtype = _model_class(config, where), _dtype_of(config, weights)
    with _config_errors(where), quiet(), torch.device("meta"), initialization.meta_device_safe_creation_ops():
        model: PreTrainedModel = model_class._from_config(config, dtype=dtype)
        _keep_in_float32(model, dtype)
    built: nn.Module = model.eval()
    return built


def build_empty(directory: Path) -> nn.Module:
    """The model of a directory's config.json, in eval mode, its weights not initialised; buffers are computed."""
    from transformers import initialization

    config = read_config(directory / "config.json")
    model_class, dtype = _model_class(config, directory), _dtype_of(config, directory)
    with _config_errors(directory), quiet(), initialization.no_init_weights():
        model: PreTrainedModel = model_class._from_config(config, dtype=dtype)
        _keep_in_float32(model, dtype)
        model.tie_weights()
    built: nn.Module = model.eval()
    return built


def load_directory(directory: Path) -> nn.Module:
    """The model with its weights, in memory and in eval mode.

    Raises: InputError if the weights are not there, damaged, or do not fit the config.
    """
    config = read_config(directory / "config.json")
    if (directory / "adapter_config.json").exists():
        raise _bad_config(directory, "an adapter (adapter_config.json)", "a whole model", "merge the adapter first")
    checkpoint = open_checkpoint(directory)
    matching = compare_model(build_meta(config, directory, directory), checkpoint)
    if not matching.converted:
        require_match(matching, checkpoint)
    failed = {
        "what": "cannot load the model",
        "where": str(directory),
        "needed": "weights that fit the config",
        "do": "copy or download the model again",
    }
    with library_errors(**failed), quiet():
        model, info = _model_class(config, directory).from_pretrained(
            str(directory),
            config=config,
            dtype=_dtype_of(config, directory),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    lacking = [str(item) for key in ("missing_keys", "mismatched_keys", "error_msgs") for item in info[key]]
    if lacking:
        raise InputError(got=listing(sorted(lacking)), **failed)
    loaded: nn.Module = model.eval()
    return loaded


def load_tokenizer(directory: Path) -> Any:
    """The directory's tokenizer.

    Raises: InputError if there is none.
    """
    require("transformers")
    from transformers import AutoTokenizer

    with (
        library_errors(
            what="cannot load the tokenizer",
            where=str(directory),
            needed="tokenizer.json, or another tokenizer that transformers reads",
            do="save the model's tokenizer there: tokenizer.save_pretrained(directory)",
        ),
        quiet(),
    ):
        return AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)


def _model_class(config: PreTrainedConfig, where: Path) -> type[PreTrainedModel]:
    """The class that `architectures` names, else a causal LM if it says so, else the base model."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    architectures = [name for name in config.architectures or [] if isinstance(name, str)]
    causal, base = (_mapped_classes(mapping, config) for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING))
    for name in architectures:
        found = _class_named(name)
        if found is not None and not isinstance(config, found.config_class or ()) and found not in (*causal, *base):
            got = f"architecture {name} with model_type {config.model_type}"
            raise _bad_config(where, got, "an architecture of that model_type", "correct config.json")
        if found is not None:
            return found
    if architectures and getattr(config, "auto_map", None):
        got = f"architecture {ascii(architectures)[:80]} with code of its own, which is never run"
        raise _bad_config(where, got, "one that transformers has", "write a factory, module:function, for it")
    says_causal = any(name.endswith(("CausalLM", "LMHeadModel")) for name in architectures)
    chosen = causal if says_causal else base
    if not chosen:
        got = f"model_type {config.model_type}, architectures {ascii(architectures)[:80]}"
        raise _bad_config(where, got, "a model class for it in transformers", "name one in architectures")
    return chosen[0]


def _class_named(name: str) -> type[PreTrainedModel] | None:
    import transformers

    found = getattr(transformers, name, None) if name.isidentifier() else None
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        model_class: type[PreTrainedModel] = found
        return model_class
    return None


def _mapped_classes(mapping: Any, config: PreTrainedConfig) -> tuple[type[PreTrainedModel], ...]:
    """What transformers has for the config; some types borrow another's class, some have several."""
    entry = mapping.get(type(config), ())
    return entry if isinstance(entry, tuple) else (entry,)


def _dtype_of(config: PreTrainedConfig, weights: Path | None) -> torch.dtype:
    """The dtype that the config declares, else that of the first float tensor on disk, else float32."""
    import torch

    declared = getattr(torch, config.dtype, None) if isinstance(config.dtype, str) else config.dtype
    if isinstance(declared, torch.dtype):
        return declared
    if weights is not None and has_weights(weights):
        dtypes = (entry.dtype for entry in open_checkpoint(weights).tensors.values())
        return next((dtype for dtype in dtypes if dtype.is_floating_point), torch.float32)
    return torch.float32


def _keep_in_float32(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Widen the parameters that loading keeps in float32 (T5's `wo`, a router's bias), as `from_pretrained` does."""
    import torch
    from transformers.core_model_loading import build_glob_alternation

    plan = model._get_dtype_plan(dtype)
    if plan:
        kept, _, _ = build_glob_alternation(list(plan))
        for name, parameter in model.named_parameters():
            if kept.search(name):
                parameter.data = parameter.data.to(torch.float32)


def _values_of(value: Any, keys: tuple[str, ...]) -> Iterator[Any]:
    """Every value under one of the keys, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in keys:
                yield inner
            yield from _values_of(inner, keys)
    elif isinstance(value, list):
        for inner in value:
            yield from _values_of(inner, keys)


def _config_errors(where: Path) -> AbstractContextManager[None]:
    return library_errors(
        what="cannot build the model from its config",
        where=str(where),
        needed="a config.json that transformers accepts",
        do="compare it with the config.json that the model was published with",
    )


def _bad_config(where: Path, got: str, needed: str, do: str) -> InputError:
    return InputError(what="cannot use the model's config", where=str(where), got=got, needed=needed, do=do)
