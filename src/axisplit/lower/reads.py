"""Where ops that run on parts read what every rank holds whole: there its gradient is each rank's own use only.

Our own backward puts a sum wherever that is cheapest (cotangents.py). Other libraries' styles stand at modules: they
sum the gradient of a column-wise module's input, and of a module's parameters if they are told to. What a plan needs of
them follows from the forward alone: in their programs every activation that is whole has a whole cotangent.

Example: hidden = slope * up(x) with `up` by columns and one slope for all of them. `up` reads x on parts, the model's
own code reads `slope`. In softplus(slope) * up(x) the op that reads the slope is whole, but runs on parameters alone:
what it makes is read on parts, hence the slope is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from axisplit.capture.fold import Fold, expand_name
from axisplit.capture.graph import Node
from axisplit.lower.cotangents import carrying
from axisplit.lower.decision import Decision
from axisplit.solve.plan import ReadsPlan
from axisplit.solve.states import WHOLE


def reads_on_parts(decision: Decision, folds: tuple[Fold, ...]) -> ReadsPlan:
    """Modules that read whole activations on parts; whole parameters that are read so, only or among others."""
    graph, live = decision.graph, carrying(decision, ("parameter",))
    derived = _of_parameters_alone(decision)
    modules = {
        node.module for value in live - derived for node, on_parts in _readers(decision, value, live) if on_parts
    }
    ways = {name: _ways(decision, value, live, derived) for name, value in graph.parameters.items()}

    def named(wanted: set[bool]) -> tuple[str, ...]:
        return _unfolded((name for name, found in ways.items() if found == wanted), folds)

    return ReadsPlan(_unfolded(modules, folds), named({True}), named({True, False}))


def _of_parameters_alone(decision: Decision) -> set[int]:
    """Parameters, and what ops that run whole make of them and of constants."""
    graph = decision.graph
    found = {value for value in graph.parameters.values() if decision.made_in(value) == WHOLE}
    for node in graph.nodes:
        inputs = set(node.inputs())
        fixed = {v for v in inputs if graph.values[v].origin in ("buffer", "constant")}
        if inputs & found and inputs <= found | fixed and decision.strategy(node).name == "whole":
            found.update(node.outputs)
    return found


def _readers(decision: Decision, value: int, live: set[int]) -> Iterator[tuple[Node, bool]]:
    """(op that reads all of a value and passes a cotangent on, whether it runs on parts)."""
    for node, _, state in decision.uses(value):
        if state == WHOLE and any(output in live for output in node.outputs):
            yield node, decision.strategy(node).name != "whole"


def _ways(decision: Decision, value: int, live: set[int], derived: set[int]) -> set[bool]:
    """Whether a parameter is read on parts, and otherwise; empty if it is held in parts itself."""
    if value not in derived:
        return set()
    found = set[bool]()
    for node, on_parts in _readers(decision, value, live):
        alone = [output for output in node.outputs if output in derived]
        found |= set().union(*(_ways(decision, v, live, derived) for v in alone)) if alone else {on_parts}
    return found


def _unfolded(names: Iterable[str], folds: tuple[Fold, ...]) -> tuple[str, ...]:
    return tuple(sorted({real for name in names for real in expand_name(folds, name)}))
