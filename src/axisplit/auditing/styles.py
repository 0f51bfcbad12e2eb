"""A plan by hand, and a rank's part of a model, made by the code of the library that the plan is written for.

Two kinds: names of transformers' styles ({"layers.*.mlp.up_proj": "colwise"}), and torch's `ParallelStyle` objects by
module path or pattern, as `parallelize_module` takes them. Nothing of a style is imitated here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from axisplit.errors import InputError
from axisplit.export import starred
from axisplit.models.libraries import quiet

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class HandPlan:
    """`rules`: module or parameter (pattern) -> style; `unused` are those that match nothing in the model."""

    kind: Literal["transformers", "torch"]
    rules: Mapping[str, Any]
    unused: tuple[str, ...]


def read_plan(model: nn.Module, tp_plan: Mapping[str, Any] | None) -> HandPlan:
    """The plan that is given, or else the model's own; names of styles are added to the model's own, as loading does.

    Raises: InputError if there is none, a style has no such name, or a value is neither a name nor a ParallelStyle.
    """
    own = getattr(model, "tp_plan", None) or {}
    rules = own if tp_plan is None else tp_plan
    if not rules:
        raise InputError(
            "there is no plan to audit",
            where=type(model).__name__,
            got="the model brings none (tp_plan)",
            do="pass tp_plan={'layers.*.mlp.up_proj': 'colwise', ...}, or --tp-plan FILE.json",
        )
    if all(isinstance(style, str) for style in rules.values()):
        rules = {**own, **rules}
        _check_names(rules)
        names = {starred(name) for name, _ in [*model.named_modules(), *model.named_parameters()]}
        return HandPlan("transformers", dict(rules), tuple(sorted(rules.keys() - names)))
    _check_objects(rules)
    paths = [path for path, _ in model.named_modules()]
    return HandPlan("torch", dict(rules), tuple(key for key in rules if not any(_matches(p, key) for p in paths)))


def _check_names(rules: Mapping[str, str]) -> None:
    known = set(_transformers().ALL_PARALLEL_STYLES.keys())
    wrong = [f"{where}: {style!r}" for where, style in rules.items() if style not in known]
    if wrong:
        raise InputError("these styles do not exist", got="\n".join(wrong), needed=f"one of {', '.join(sorted(known))}")


def _check_objects(rules: Mapping[str, Any]) -> None:
    from torch.distributed.tensor.parallel import ParallelStyle

    wrong = [f"{where}: {style!r}" for where, style in rules.items() if not isinstance(style, ParallelStyle)]
    if wrong:
        raise InputError(
            "the plan is neither of transformers nor of torch",
            got="\n".join(wrong),
            needed="names of styles for all rules, or ParallelStyle objects for all",
        )


def _matches(path: str, key: str) -> bool:
    """As `parallelize_module`: part by part."""
    parts, patterns = path.split("."), key.split(".")
    return len(parts) == len(patterns) and all(fnmatch(a, b) for a, b in zip(parts, patterns, strict=True))


def _transformers() -> Any:
    try:
        from transformers.distributed import DistributedConfig, tensor_parallel
    except ImportError:
        raise InputError(
            "styles by name need transformers' tensor parallelism",
            needed="a transformers that has transformers.distributed.tensor_parallel",
            do="pip install --upgrade transformers, or pass torch's ParallelStyle objects",
        ) from None
    assert DistributedConfig is not None
    return tensor_parallel


def apply_plan(model: nn.Module, plan: HandPlan, mesh: DeviceMesh) -> nn.Module:
    """Make a whole model this rank's part, in place, by torch's `parallelize_module`."""
    from torch.distributed.tensor.parallel import parallelize_module

    used = {key: copy.copy(style) for key, style in plan.rules.items() if key not in plan.unused}
    return parallelize_module(model, mesh, used)


def load_part(like: Loadable, folder: Path, plan: HandPlan | None, num_ranks: int = 1) -> nn.Module:
    """A saved model of transformers as its own loading makes it, in float64: this rank's part, or (no plan) all of it.

    What a part is depends on loading too: it slices the file's tensors, converts and ties them.
    """
    options: dict[str, Any] = {}
    if plan is not None:
        from transformers.distributed import DistributedConfig

        options["distributed_config"] = DistributedConfig(tp_size=num_ranks, tp_plan=dict(plan.rules))
    with quiet():
        model = like.kind.from_pretrained(
            folder, dtype=torch.float64, attn_implementation=like.attention, local_files_only=True, **options
        )
    if any(p.is_floating_point() and p.dtype != torch.float64 for p in [*model.parameters(), *model.buffers()]):
        model = model.double()  # what a model keeps in float32 whatever is asked for
    made: nn.Module = model.train(like.training)
    return made


@dataclass(frozen=True)
class Loadable:
    """How a model of transformers is loaded again so that it is the same."""

    kind: Any
    attention: str | None
    training: bool


def loadable(model: nn.Module) -> Loadable:
    """Raises: InputError for what transformers cannot load: only it knows what its styles' names mean."""
    kind: Any = type(model)
    if not (hasattr(kind, "from_pretrained") and hasattr(model, "config")):
        raise InputError(
            "styles by name are for models of transformers",
            got=kind.__name__,
            do="pass torch's ParallelStyle objects, as parallelize_module takes them",
        )
    return Loadable(kind, getattr(model.config, "_attn_implementation", None), model.training)


def save(model: Any, folder: Path) -> None:
    """What `load_part` reads."""
    with quiet():
        model.save_pretrained(folder)
