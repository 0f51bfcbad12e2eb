"""State that modules keep in attributes of their own between calls (a recurrent layer's last hidden state).

What one call leaves behind is the whole model's. On a rank it has other sizes, so a part begins without it: as `None`,
which is how such modules begin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from axisplit.capture.record import Recorder

Held = dict[str, torch.Tensor | None]


def attributes_of(model: torch.nn.Module) -> Held:
    """Plain attributes of modules that hold a tensor or nothing, by `module.attribute`."""
    return {
        f"{path}.{name}" if path else name: value
        for path, module in model.named_modules()
        for name, value in _plain(module).items()
    }


@contextmanager
def state_put_back(model: torch.nn.Module) -> Iterator[None]:
    """Calls inside leave no trace in what modules keep between calls: buffers, and tensors in plain attributes and in
    their dicts and lists, are copies inside, and the modules' own again afterwards (running statistics, a cache that
    knows what it was made of).
    """
    before = [(module, dict(module._buffers), _plain(module)) for module in model.modules()]
    containers = [(module, _containers(module)) for module in model.modules()]
    copies = {id(t): _copy(t) for _, *held in before for names in held for t in names.values() if t is not None}
    for module, buffers, plain in before:
        module._buffers.update({name: None if t is None else copies[id(t)] for name, t in buffers.items()})
        vars(module).update({name: None if t is None else copies[id(t)] for name, t in plain.items()})
    inside = {id(held): _copy_of_container(held) for _, found in containers for held in found.values()}
    for module, found in containers:
        vars(module).update({name: inside[id(held)] for name, held in found.items()})
    try:
        yield
    finally:
        for module, found in containers:
            vars(module).update(found)
        for module, buffers, plain in before:
            for name in _plain(module).keys() - plain.keys():
                del vars(module)[name]
            module._buffers.update(buffers)
            vars(module).update(plain)


def _plain(module: torch.nn.Module) -> Held:
    return {name: value for name, value in vars(module).items() if value is None or isinstance(value, torch.Tensor)}


def _containers(module: torch.nn.Module) -> dict[str, Any]:
    """Plain attributes that are dicts or lists of tensors, or empty; torch's own are not."""
    plain = {name: held for name, held in vars(module).items() if type(held) in (dict, list) and name not in _OF_TORCH}
    return {
        name: held
        for name, held in plain.items()
        if all(isinstance(t, torch.Tensor) for t in (held.values() if isinstance(held, dict) else held))
    }


_OF_TORCH = frozenset(vars(torch.nn.Module()))


def _copy_of_container(held: Any) -> Any:
    """The same container with copies of its tensors."""
    if isinstance(held, dict):
        return {key: _copy(tensor) for key, tensor in held.items()}
    return [_copy(tensor) for tensor in held]


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """One that may be written to; what gradients are asked for is kept as it is."""
    return tensor if tensor.requires_grad and tensor.is_leaf else tensor.detach().clone()


def states_kept(before: Held, model: torch.nn.Module, recorder: Recorder) -> tuple[str, ...]:
    """Attributes that the traced calls set without having read what was there before."""
    after = attributes_of(model)
    changed = {name for name in before.keys() & after.keys() if before[name] is not after[name]}
    return tuple(sorted(n for n in changed if before[n] is None or not recorder.follows(before[n])))  # type: ignore[arg-type]


def forget(model: torch.nn.Module, states: Iterable[str]) -> tuple[str, ...]:
    """Set states to None; which of them held something."""
    found = []
    for state in states:
        path, _, name = state.rpartition(".")
        held = vars(model.get_submodule(path))
        if isinstance(held.get(name), torch.Tensor):
            held[name] = None
            found.append(state)
    return tuple(found)
