"""State that modules keep in attributes of their own between calls (a recurrent layer's last hidden state).

What one call leaves behind is the whole model's. On a rank it has other sizes, so a part begins without it: as `None`,
which is how such modules begin.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from axisplit.capture.record import Recorder

Held = dict[str, torch.Tensor | None]


def attributes_of(model: torch.nn.Module) -> Held:
    """Plain attributes of modules that hold a tensor or nothing, by `module.attribute`."""
    return {
        f"{path}.{name}" if path else name: value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if value is None or isinstance(value, torch.Tensor)
    }


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
