"""Which tensor of a checkpoint is which tensor of a model.

Rules, in this order, for a checkpoint name: the model's own name; the names transformers itself gives it at load time
(`transformers_renamer`) or, for other models, LayerNorm's old `gamma` and `beta`; each with the model's
`base_model_prefix` added or taken away. A tied tensor that the checkpoint lacks takes the one it is tied to. Every
name, shape and dtype is compared; a difference is an error, except a float of another width (F16, BF16, F32, F64),
which loading casts: an F16 where BF16 is expected is as wide and hence refused (swapped dtypes read as nonsense).

Worked example: parameter `bert.embeddings.LayerNorm.weight`, checkpoint `embeddings.LayerNorm.gamma`, prefix `bert`:
gamma -> weight, then `bert.` added: they match.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from axisplit.checkpoint.header import TensorEntry, listing
from axisplit.checkpoint.stream import Checkpoint
from axisplit.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

CASTABLE = {"float16", "bfloat16", "float32", "float64"}
LEGACY_NAMES = ((re.compile(r"\.gamma$"), ".weight"), (re.compile(r"\.beta$"), ".bias"))


@dataclass(frozen=True)
class TensorSpec:
    """What the model expects of one parameter or persistent buffer."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Renamed:
    """The model's name for a checkpoint's tensor; `converted` if loading also changes its values or shape."""

    name: str
    converted: bool = False


Renamer = Callable[[str], Renamed]


@dataclass(frozen=True)
class Matching:
    """`names`: model name -> checkpoint name. `problems`: what does not fit. `converted`: made from several or
    permuted tensors at load time. `unused`: tensors of the checkpoint that the model has no place for.
    """

    names: Mapping[str, str]
    problems: tuple[str, ...]
    converted: tuple[str, ...]
    unused: tuple[str, ...]


def match_names(
    parameters: Mapping[str, TensorSpec],
    checkpoint: Checkpoint,
    tied: Mapping[str, str],
    *,
    base_model_prefix: str = "",
    rename: Renamer | None = None,
) -> dict[str, str]:
    """Model name -> checkpoint name for every tensor of the model.

    Args:
        parameters: the model's parameters and persistent buffers (`model_tensors`).
        tied: name -> the name of the parameter it shares (`model_tensors`).
        base_model_prefix: what a model with a head puts before its base model's names, `bert` for instance.
        rename: the model's own renaming (`transformers_renamer`).
    Raises: InputError that lists all tensors which are missing, of another shape or dtype, or made at load time.
    """
    matching = compare_names(parameters, checkpoint, tied, base_model_prefix=base_model_prefix, rename=rename)
    return require_match(matching, checkpoint)


def match_model(model: nn.Module, checkpoint: Checkpoint) -> dict[str, str]:
    """`match_names` for a model (on any device): its tensors, ties, prefix and renaming found from it."""
    return require_match(compare_model(model, checkpoint), checkpoint)


def compare_model(model: nn.Module, checkpoint: Checkpoint) -> Matching:
    """`compare_names` for a model (on any device)."""
    specs, tied = model_tensors(model)
    prefix = getattr(model, "base_model_prefix", "")
    return compare_names(
        specs,
        checkpoint,
        tied,
        base_model_prefix=prefix if isinstance(prefix, str) else "",
        rename=transformers_renamer(model),
    )


def require_match(matching: Matching, checkpoint: Checkpoint) -> dict[str, str]:
    """The names of a matching that is complete; else an InputError with everything that is not."""
    if matching.converted:
        raise InputError(
            what="this checkpoint cannot be streamed tensor by tensor",
            where=str(checkpoint.directory),
            got=f"tensors that loading makes out of others:\n{listing(list(matching.converted))}",
            needed="one tensor of the checkpoint for each of the model",
            do="load the whole model once and save it with save_pretrained(directory, save_original_format=False)",
        )
    if matching.problems:
        raise InputError(
            what="the checkpoint does not fit the model",
            where=str(checkpoint.directory),
            got=listing(list(matching.problems)),
            needed="every tensor of the model, in its shape and dtype",
            do="use the checkpoint that was saved with this config.json",
        )
    return dict(matching.names)


def compare_names(
    parameters: Mapping[str, TensorSpec],
    checkpoint: Checkpoint,
    tied: Mapping[str, str],
    *,
    base_model_prefix: str = "",
    rename: Renamer | None = None,
) -> Matching:
    """`match_names` without the raising."""
    names: dict[str, str] = {}
    converted: dict[str, None] = {}
    unused, problems = [], []
    for source in checkpoint.tensors:
        target = _target(source, parameters, base_model_prefix, rename)
        if target is None:
            unused.append(source)
        elif target.converted:
            converted[target.name] = None
        elif target.name in names:
            problems.append(f"{target.name} is there twice, as {names[target.name]} and {source}")
        else:
            names[target.name] = source
    for alias, owner in tied.items():
        found = names.get(owner, names.get(alias))
        if found is not None:
            names[alias] = names[owner] = found
    for name, spec in parameters.items():
        if name in names:
            problems += _differences(name, spec, names[name], checkpoint.tensors[names[name]])
        elif not converted:
            problems.append(f"{name} {list(spec.shape)} is missing")
    in_order = {name: names[name] for name in parameters if name in names}
    return Matching(in_order, tuple(problems), tuple(converted), tuple(unused))


def model_tensors(model: nn.Module) -> tuple[dict[str, TensorSpec], dict[str, str]]:
    """(parameters and persistent buffers by name, name -> first name of the same tensor for tied ones)."""
    specs: dict[str, TensorSpec] = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        specs[name] = TensorSpec(tuple(tensor.shape), tensor.dtype)
        owner = first.setdefault(id(tensor), name)
        if owner != name:
            tied[name] = owner
    return specs, tied


def transformers_renamer(model: nn.Module) -> Renamer | None:
    """How transformers renames and converts this model's checkpoint names at load; None for other models.

    Source: `convert_and_load_state_dict_in_model` in transformers' core_model_loading.
    """
    if not hasattr(model, "base_model_prefix") or not type(model).__module__.startswith("transformers."):
        return None
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [item for item in transforms if isinstance(item, WeightRenaming)]
    converters = [item for item in transforms if isinstance(item, WeightConverter)]
    own = model.state_dict()

    def rename(source: str) -> Renamed:
        prefix = model.base_model_prefix
        name, pattern = rename_source_key(source, renamings, converters, prefix, own)
        if name not in own and source in own:
            return Renamed(source)
        return Renamed(name, pattern is not None)

    return rename


def _target(source: str, parameters: Mapping[str, TensorSpec], prefix: str, rename: Renamer | None) -> Renamed | None:
    """The model's tensor that `source` is, or None."""
    candidates = [rename(source)] if rename else [Renamed(source), Renamed(_modern(source))]
    if prefix:
        for renamed in tuple(candidates):
            candidates.append(Renamed(f"{prefix}.{renamed.name}", renamed.converted))
            candidates.append(Renamed(renamed.name.removeprefix(f"{prefix}."), renamed.converted))
    return next((renamed for renamed in candidates if renamed.name in parameters), None)


def _modern(source: str) -> str:
    for pattern, replacement in LEGACY_NAMES:
        source = pattern.sub(replacement, source)
    return source


def _differences(name: str, spec: TensorSpec, source: str, entry: TensorEntry) -> list[str]:
    label = name if name == source else f"{name} (as {source})"
    problems = []
    if entry.shape != spec.shape:
        problems.append(f"{label} is {list(entry.shape)}, the model's is {list(spec.shape)}")
    if entry.dtype != spec.dtype:
        have, want = str(entry.dtype).removeprefix("torch."), str(spec.dtype).removeprefix("torch.")
        if not {have, want} <= CASTABLE or entry.itemsize == spec.dtype.itemsize:
            problems.append(f"{label} is {have}, the model's is {want}")
    return problems
