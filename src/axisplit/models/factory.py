"""`package.module:factory`: the user's own Python makes the model, and perhaps its inputs."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from axisplit.errors import InputError
from axisplit.models.libraries import library_errors

if TYPE_CHECKING:
    from torch import nn


def call_factory(text: str) -> tuple[nn.Module, Any]:
    """(model in eval mode, the inputs the factory returned or None).

    The module is looked for in the working directory too. `factory` is called without arguments; it may also be a
    model itself. A model too large for memory can be made within `with torch.device("meta")`, for planning.
    Raises: InputError if there is no such module or name, the factory fails, or it returns something else.
    """
    from torch import nn

    made = _make(text)
    model, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module) or not isinstance(inputs, (tuple, dict, type(None))):
        got = f"{type(model).__name__}" + (f" and {type(inputs).__name__}" if inputs is not None else "")
        raise InputError(
            what="the factory did not return a model",
            where=text,
            got=got,
            needed="a torch.nn.Module, or (module, inputs) with inputs a tuple (positional) or dict (keyword)",
            do="change what the factory returns",
        )
    return model.eval(), inputs


def _make(text: str) -> Any:
    from torch import nn

    module_name, _, path = text.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    with library_errors(
        what="cannot import the factory's module",
        where=module_name,
        needed="a module that can be imported from here",
        do="check the name, the working directory and PYTHONPATH",
    ):
        value: Any = importlib.import_module(module_name)
    for name in path.split("."):
        if not hasattr(value, name):
            near = ", ".join(sorted(n for n in vars(value) if not n.startswith("_"))[:10])
            raise InputError(
                what=f"there is no {path!r}", where=module_name, got=near, needed=path, do="check the factory's name"
            )
        value = getattr(value, name)
    if isinstance(value, nn.Module):
        return value
    with library_errors(
        what="the factory failed", where=text, needed="a factory that runs without arguments", do="see the cause above"
    ):
        return value()
