"""How a model is called, as text: the stated domain of a proof, and what a running model compares its calls with.

    call text   "attention_mask=int[2], cache=DynamicCache, input_ids=int[2]; eval"

It names every argument that was given and differs from what the model takes without it, and its kind: a tensor's
family of dtypes and number of dims, a bool or a string itself, `int` and `float` for numbers, a class's name for
objects (caches, states), containers item by item; then whether the model trains, and autocast's dtype if it is on.
Sizes are not part of it: a proof holds for all.

An argument counts as not given if it equals the default of the forward's signature, or, where that is None, the flag of
the same name in the model's config (`use_cache`, `return_dict`): that is what such models then read.
Positional and keyword calls have one text.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any

import torch

from axisplit.capture.trees import is_record, items_of

_PLAIN = (bool, int, float, str)
_ABSENT = object()


class CallText:
    """Writes the text of calls of one model; made before its forward is replaced."""

    def __init__(self, model: torch.nn.Module) -> None:
        parameters = inspect.signature(model.forward).parameters.values()
        self._names = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty and p.default is not None}
        config = vars(getattr(model, "config", None) or object.__new__(_NoConfig))
        self._usual = {**{n: v for n, v in config.items() if isinstance(v, bool)}, **defaults}
        self._not_none = frozenset(defaults)
        self._states: set[type] = set()  # classes of which a text says no more than the name

    def named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments by name; those beyond the signature's names are called `*0`, `*1`, ..."""
        extra = {f"*{i}": value for i, value in enumerate(args[len(self._names) :])}
        return {**dict(zip(self._names, args, strict=False)), **extra, **kwargs}

    def flags_left_to_config(self, given: Mapping[str, Any]) -> dict[str, bool]:
        """Flags that the forward takes and that are not given: what they are then."""
        absent = (n for n in self._names if given.get(n) is None and n not in self._not_none)
        return {name: self._usual[name] for name in absent if name in self._usual}

    def key(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], training: bool) -> Hashable:
        """What calls of one text may share, in a fraction of the time; None where only the text will do: for
        containers, and for objects of classes that no text was written of yet.
        """
        if args:
            return None
        found: list[Any] = [training, autocast_text()]
        for name, value in kwargs.items():
            of = type(value)
            if of is torch.Tensor:
                found += (name, value.dtype, value.dim())
            elif value is None or of is bool or of is str:
                found += (name, value)
            elif of is int or of is float:
                found += (name, of, self._usual.get(name, _ABSENT) == value)
            elif of in self._states:
                found += (name, of)
            else:
                return None
        return tuple(found)

    def of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], training: bool) -> str:
        """The text of one call, under the current autocast."""
        given = self.named(args, kwargs) if args else kwargs
        usual = self._usual
        parts = []
        for name, value in given.items():
            if value is None:
                if name in self._not_none:
                    parts.append(f"{name}=None")
            elif type(value) not in _PLAIN or usual.get(name, _ABSENT) != value:
                parts.append(f"{name}={kind(value)}")
                if is_state(value):
                    self._states.add(type(value))
        parts.sort()
        return f"{', '.join(parts) or 'nothing'}; {'train' if training else 'eval'}{autocast_text()}"


class _NoConfig:
    """What a model without a config says of its arguments: nothing."""


def kind(value: Any) -> str:
    """What matters of an argument for the path that Python takes."""
    if isinstance(value, torch.Tensor):
        return _tensor_kind(value.dtype, value.dim())
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, (int, float)):
        return "int" if isinstance(value, int) else "float"
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {kind(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(map(kind, value)) + ")"
    if is_record(value):
        fields = ", ".join(f"{name}: {kind(item)}" for name, item in items_of(value))
        return f"{type(value).__name__}({fields})"
    return type(value).__name__


def is_state(value: Any) -> bool:
    """Whether an argument is an object (a cache, a state) rather than tensors and plain data."""
    data = (torch.Tensor, Mapping, tuple, list, *_PLAIN, torch.dtype, torch.device)
    return value is not None and not isinstance(value, data) and not is_record(value)


def autocast_text() -> str:
    """`, autocast=<dtype>` on the CPU or the accelerator, "" where it is off."""
    device = autocast_device()
    return f", autocast={torch.get_autocast_dtype(device)}".replace("torch.", "") if device else ""


def autocast_device() -> str:
    """The device for which autocast is on; "" for none."""
    if torch.is_autocast_enabled("cpu"):
        return "cpu"
    return "cuda" if torch.is_autocast_enabled("cuda") else ""


@lru_cache(maxsize=256)
def _tensor_kind(dtype: torch.dtype, ndim: int) -> str:
    family = "bool" if dtype == torch.bool else "float" if dtype.is_floating_point else "int"
    return f"{'complex' if dtype.is_complex else family}[{ndim}]"
