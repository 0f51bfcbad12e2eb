"""Ops of a module without parameters that is called in several places: each belongs to the call, not to the module.

A block of convolutions often keeps one activation for all (`self.relu`). What a change to the running program can tell
apart is the expression `self.relu(x)` that the block runs, not the line inside `nn.ReLU`, which is the same for all. An
op that is all such a call does is recorded as issued by that expression.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import MutableSequence
from dataclasses import dataclass, replace

import torch

from axisplit.capture.graph import Call, Frame, Node


def is_plain(module: torch.nn.Module) -> bool:
    """Whether a module holds nothing: no parameters, buffers or other modules."""
    return not (module._parameters or module._buffers or module._modules)


@dataclass(frozen=True)
class _Issued:
    """An op that is all that a call does, and where that call stands."""

    node: int
    phase: str
    caller: str  # the module whose Python calls
    frames: tuple[Frame, ...]

    @property
    def place(self) -> tuple[object, ...]:
        return (self.caller, *((frame.code, frame.instruction, frame.inner) for frame in self.frames))


class SharedModules:
    """Calls of modules that hold nothing, as they are recorded."""

    def __init__(self) -> None:
        self._calls: dict[str, list[_Issued]] = defaultdict(list)

    def add(self, call: Call, nodes: MutableSequence[Node], caller: str, frames: tuple[Frame, ...]) -> None:
        """Take note of a call if one op makes its one result out of its one tensor."""
        if call.last_node - call.first_node != 1 or len(call.inputs) != 1:
            return
        node, ((leaf, given),) = nodes[call.first_node], call.inputs
        alone = leaf == "0" and tuple(node.inputs()) == (given,) and call.outputs == (("0", *node.outputs),)
        if alone:
            self._calls[call.module].append(_Issued(node.index, call.phase, caller, frames))

    def forget_since(self, node: int) -> None:
        """Take back the calls from an op on."""
        for path, calls in self._calls.items():
            self._calls[path] = [issued for issued in calls if issued.node < node]

    def give_to_callers(self, nodes: MutableSequence[Node]) -> None:
        """Of modules that one phase calls from several places, let the ops be issued there."""
        for calls in self._calls.values():
            places = defaultdict(set)
            for issued in calls:
                places[issued.phase].add(issued.place)
            if any(len(found) > 1 for found in places.values()):
                for issued in calls:
                    nodes[issued.node] = replace(
                        nodes[issued.node], module=issued.caller, frames=issued.frames, given=()
                    )
