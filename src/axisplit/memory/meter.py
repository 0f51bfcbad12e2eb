"""One forward, watched: which bytes it makes and when they go, what autograd keeps, what stays in caches.

    storages   each one an op makes is an event (+bytes) when it is made and one (−bytes) when nothing refers to it
    working    the largest sum of events, caches left out: what a forward without gradients works in
    kept       storages that autograd saved for backward or that the forward returned, parameters left out
    entered    storages of the floats that a module was given, and none before it: what recomputing it begins with

Every event and kept storage belongs to the watched module that was the last to begin ("" before the first).
"""

from __future__ import annotations

import inspect
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from axisplit.capture.modes import run_shaped
from axisplit.capture.trace import recurrent_state
from axisplit.capture.trees import leaves


@dataclass(frozen=True)
class Event:
    """A storage came (`bytes` above 0) or went, while `module` ran."""

    storage: int
    bytes: int
    module: str


@dataclass(frozen=True)
class Usage:
    """Bytes of one forward by module; `order` is the order in which modules first ran."""

    kept: Mapping[str, int]
    entered: Mapping[str, int]
    working: Mapping[str, int]
    caches: Mapping[str, int]
    order: tuple[str, ...]


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every op of a forward on real, fake or meta tensors, and what autograd saves."""

    def __init__(self, model: torch.nn.Module, modules: Iterable[str], *, keeping: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[Event] = []
        self.order: list[str] = []
        self._inside, self._keeping = "", keeping
        self._numbers: dict[int, int] = {}  # storage -> its number in events, while it lives
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._made_in: dict[int, str] = {}
        self.model, self._modules = model, tuple(modules)
        self._own = {_key(tensor) for tensor in [*model.parameters(), *model.buffers()]}
        self.kept: dict[int, tuple[str, int]] = {}
        self.entered: dict[int, tuple[str, torch.UntypedStorage]] = {}  # alive, or another could have its number

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = run_shaped(func, args, kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._meet(leaf)
        return result

    def save(self, tensor: torch.Tensor) -> torch.Tensor:
        """Autograd saves a tensor: it is the running module's, for a stage also keeps what another has sent to it."""
        return self._keep(tensor, self._inside)

    def give_back(self, tensor: torch.Tensor) -> torch.Tensor:
        """The forward returns a tensor: it is the module's that made it."""
        number = self.number(tensor)
        return self._keep(tensor, "" if number is None else self._made_in[number])

    def _keep(self, tensor: torch.Tensor, module: str) -> torch.Tensor:
        if _key(tensor) not in self._own:
            self.kept.setdefault(_key(tensor), (module, tensor.untyped_storage().nbytes()))
        return tensor

    def number(self, tensor: torch.Tensor) -> int | None:
        """The tensor's storage in `events`; None if no op of the forward made it."""
        return self._numbers.get(_key(tensor))

    def made_in(self, number: int) -> str:
        """The module that made a storage."""
        return self._made_in[number]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within, ops belong to the module that was the last to begin."""
        watched = [(name, self.model.get_submodule(name)) for name in self._modules]
        hooks = [module.register_forward_pre_hook(self._entering(name), with_kwargs=True) for name, module in watched]
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _entering(self, name: str) -> Any:
        def enter(_: Any, args: Any, kwargs: Any) -> None:
            self._inside = name
            for leaf in tree_leaves((args, kwargs)) if self._keeping else ():
                if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and _key(leaf) not in self._own:
                    self.entered.setdefault(_key(leaf), (name, leaf.untyped_storage()))
            if name not in self.order:
                self.order.append(name)

        return enter

    def _meet(self, tensor: torch.Tensor) -> None:
        key = _key(tensor)
        if key in self._own or key in self._numbers:
            return
        storage, number = tensor.untyped_storage(), len(self._made_in)
        size, module = storage.nbytes(), self._inside
        self._numbers[key], self._made_in[number] = number, module
        self.events.append(Event(number, size, module))

        def gone(_: Any) -> None:
            del self._numbers[key], self._alive[key]
            self.events.append(Event(number, -size, self._inside))

        self._alive[key] = weakref.ref(storage, gone)


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def working_peaks(events: Sequence[Event], left_out: Iterable[int]) -> dict[str, int]:
    """The most bytes alive while each module ran, some storages left out.

    >>> working_peaks([Event(0, 8, "a"), Event(1, 4, "a"), Event(0, -8, "a"), Event(2, 1, "b")], left_out=[])
    {'a': 12, 'b': 5}
    """
    skipped, alive, peaks = set(left_out), 0, dict[str, int]()
    for event in events:
        alive += 0 if event.storage in skipped else event.bytes
        peaks[event.module] = max(peaks.get(event.module, 0), alive)
    return peaks


def watch(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], modules: Iterable[str], *, training: bool
) -> Usage:
    """One forward of the model, in the mode (train or eval) that it is in.

    Args:
        modules: names of modules that do not contain one another: what happens inside them is theirs.
        training: with gradients, what backward needs; else the working set and caches.
    Raises: whatever the model raises.
    """
    meter = Meter(model, modules, keeping=training)
    with torch.set_grad_enabled(training), meter.watching():
        if training:
            with torch.autograd.graph.saved_tensors_hooks(meter.save, lambda tensor: tensor):
                result = model(*args, **kwargs)
        else:
            result = model(*args, **kwargs)
        list(leaves(result, meter.give_back))
    caches = {} if training else _caches(meter, result)
    return Usage(
        kept=_summed(meter.kept.values()),
        entered=_summed((module, storage.nbytes()) for module, storage in meter.entered.values()),
        working=working_peaks(meter.events, caches),
        caches=_summed((meter.made_in(number), size) for number, size in caches.items()),
        order=tuple(meter.order),
    )


def _summed(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for module, size in sizes:
        found[module] += size
    return dict(found)


def _caches(meter: Meter, result: Any) -> dict[int, int]:
    """Storages of the state that a forward returned and accepts again, with the bytes of the tensors in them."""
    found: dict[int, int] = {}
    for tensor in _state_tensors(meter, result):
        number = meter.number(tensor)
        if number is not None:
            found[number] = max(found.get(number, 0), tensor.numel() * tensor.element_size())
    return found


def _state_tensors(meter: Meter, result: Any) -> list[torch.Tensor]:
    accepted = inspect.signature(meter.model.forward).parameters
    found: list[torch.Tensor] = []
    waiting, seen = list(recurrent_state(result, accepted).values()), set[int]()
    while waiting:
        held = waiting.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        if isinstance(held, torch.Tensor):
            found.append(held)
        elif isinstance(held, Mapping):
            waiting += held.values()
        elif isinstance(held, (tuple, list)):
            waiting += held
        else:
            waiting += getattr(held, "__dict__", {}).values()
    return found
