"""Recurrent layers and cells as one op: only the batch passes.

Features are split in no part of them: every step of a layer reads all of the state that the step before made, inside
the op, where nothing can be gathered; and a cell's kernel refuses weights of fewer rows than its state has features.
"""

from __future__ import annotations

from axisplit.axes.expression import Axis
from axisplit.axes.law import Dims, Law, NodeView, rule
from axisplit.capture.graph import Ref

REASON = "each step reads all of the state that the step before made"


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def layer(view: NodeView) -> Law:
    """X [t, b, i] (or [b, t, i]) and states [layers, b, h] -> [t, b, h], states. Packed sequences have no batch dim."""
    if not view.has("batch_first"):
        everything = [axis for dims in view.operand_dims() for axis in dims]
        return Law("recurrent", [view.fresh(s) for s in view.output_shapes()], everything, reason=REASON)
    place = 0 if view.argument("batch_first") else 1
    batches = [(view.dims(0), place), *((state, 1) for state in _states(view, 1))]
    (_, *states), places = view.output_shapes(), [place, *[1] * (len(view.output_shapes()) - 1)]
    assert len(states) + 1 == len(batches), "a layer returns as many states as it is given"
    return _batch_passes(view, batches, places)


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(view: NodeView) -> Law:
    """X [b, i] and states [b, h] -> states."""
    return _batch_passes(view, [(dims, 0) for dims in (view.dims(0), *_states(view, 1))], [0] * len(view.node.outputs))


def _states(view: NodeView, position: int) -> list[Dims]:
    given = view.argument(position)
    return [view.dims(ref) for ref in ([given] if isinstance(given, Ref) else given)]


def _batch_passes(view: NodeView, batches: list[tuple[Dims, int]], places: list[int]) -> Law:
    """The law of an op on operands whose dim of a number is the batch, with outputs whose dim of a number is it."""
    batch = batches[0][0][batches[0][1]]
    whole = [axis for dims in view.operand_dims() for axis in dims if axis is not batch]
    if view.axes.unify_all([(batch, dims[place]) for dims, place in batches[1:]]):
        same = [dims[place] for dims, place in batches]
        whole = [axis for axis in whole if all(axis is not other for other in same)]
    else:
        whole.append(batch)
    outputs: list[Dims] = []
    for shape, place in zip(view.output_shapes(), places, strict=True):
        made: list[Axis] = list(view.fresh(shape))
        made[place] = batch
        outputs.append(tuple(made))
    return Law("recurrent", outputs, whole, reason=REASON)
