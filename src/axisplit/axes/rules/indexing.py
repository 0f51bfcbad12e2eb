"""Look-ups: indexed dims are needed whole (an embedding's table can be looked up in parts), the others pass."""

from __future__ import annotations

from itertools import pairwise

from axisplit.axes.expression import Axis
from axisplit.axes.law import Dims, Law, LocalSize, NodeView, rule
from axisplit.axes.rules.pointwise import broadcast
from axisplit.capture.graph import Ref

REASON = "it is looked up by computed indices"


@rule("embedding")
def embedding(view: NodeView) -> Law:
    """Weight [v, h], ids [...] -> [..., h]; ids outside a rank's part of v give zeros there: partial sums."""
    table, ids = view.dims(0), view.dims(1)
    law = Law("indexing", [(*ids, table[1])], lookup=table[0], reduce=[table[0]])
    law.fits = [lambda local: local.start(table[0]) is not None]
    padding = int(view.argument("padding_idx"))
    if padding >= 0:
        law.rewrites[view.position("padding_idx")] = lambda local: _local_row(padding, table[0], local)
    return law


@rule("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(view: NodeView) -> Law:
    """Weight [v, h], ids and offsets -> [bags, h], and what was in each bag: the features pass."""
    table = view.dims(0)
    whole = [axis for dims in view.operand_dims()[1:] for axis in dims]
    outputs = []
    for shape in view.output_shapes():
        passing = len(shape) == 2 and shape[1] == table[1].size
        outputs.append((view.axes.leaf(shape[0]), table[1]) if passing else view.fresh(shape))
    return Law("indexing", outputs, [table[0], *whole], reason=REASON)


def _local_row(row: int, axis: Axis, local: LocalSize) -> int:
    """A row number in the rank's part of the table, -1 (none) if it is not there."""
    start = local.start(axis)
    return row - start if start is not None and 0 <= row - start < local(axis) else -1


@rule("index_select")
def index_select(view: NodeView) -> Law:
    dims, index = view.dims(0), view.dims(2)
    dim = view.dim(view.argument(1), len(dims))
    output = (*dims[:dim], index[0] if index else view.axes.leaf(1), *dims[dim + 1 :])
    return Law("indexing", [output], [dims[dim]], linear=(frozenset({0}),), reason=REASON)


def indexed_layout(view: NodeView, indices: list[Ref | None], ndim: int) -> tuple[list[int], int]:
    """Numpy's advanced indexing: (indexed dims, where their broadcast dims go in the result)."""
    chosen = [d for d, index in enumerate(indices) if index is not None]
    together = chosen == list(range(chosen[0], chosen[-1] + 1)) if chosen else True
    return chosen, (chosen[0] if together and chosen else 0)


@rule("index")
def index(view: NodeView) -> Law:
    dims, indices = view.dims(0), list(view.argument(1))
    tensors = [view.dims(i) for i in indices if i is not None]
    (shape,) = view.output_shapes()
    if sum(1 for _ in tensors) and any(_is_mask(view, i) for i in indices):
        return _masked(view)
    chosen, place = indexed_layout(view, indices, len(dims))
    run = _constant_run(view, indices, dims)
    if run is not None:
        return run
    count = max((len(t) for t in tensors), default=0)
    looked, refused = broadcast(view, tensors, shape[place : place + count])
    rest = [axis for d, axis in enumerate(dims) if d not in chosen]
    output = (*rest[:place], *looked, *rest[place:])
    whole = [dims[d] for d in chosen] + refused
    return Law("indexing", [output], whole, linear=(frozenset({0}),), reason=REASON)


def _constant_run(view: NodeView, indices: list[Ref | None], dims: Dims) -> Law | None:
    """`x[..., [-2, -1], :]`: consecutive indices that are written out are a slice. Counted from one end, they need what
    lies between them and that end whole.
    """
    chosen = [(d, index) for d, index in enumerate(indices) if index is not None]
    numbers = view.constant(chosen[0][1]) if len(chosen) == 1 and len(view.dims(chosen[0][1])) == 1 else None
    if not numbers or any(b - a != 1 for a, b in pairwise(numbers)) or numbers[0] < 0 <= numbers[-1]:
        return None
    dim, size = chosen[0][0], dims[chosen[0][0]].size
    start = numbers[0] % size
    pieces = view.axes.cut(dims[dim], [start, len(numbers), size - start - len(numbers)])
    if pieces is None:
        return None
    before, inside, after = pieces
    whole = [inside, after if numbers[0] < 0 else before, *view.dims(chosen[0][1])]
    return Law("indexing", [(*dims[:dim], inside, *dims[dim + 1 :])], whole, linear=(frozenset({0}),), reason=REASON)


def _is_mask(view: NodeView, index: Ref | None) -> bool:
    return index is not None and str(view._graph.values[index.value].dtype) in ("torch.bool", "torch.uint8")


def _masked(view: NodeView) -> Law:
    """Boolean masks: how many elements come out depends on the data; masked dims are whole, trailing ones pass."""
    dims, (shape,) = view.dims(0), view.output_shapes()
    masks = view.argument(1)
    used = sum(len(view.dims(m)) if m is not None and _is_mask(view, m) else 1 for m in masks)
    rest = dims[used:]
    output = (*view.fresh(shape[: len(shape) - len(rest)]), *rest)
    whole = list(dims[:used]) + [a for m in masks if m is not None for a in view.dims(m)]
    return Law("indexing", [output], whole, reason="a mask picks from it")


@rule("gather", "take_along_dim")
def gather(view: NodeView) -> Law:
    name = "index" if view.has("index") else "indices"
    dims, picked, (shape,) = view.dims(0), view.dims(name), view.output_shapes()
    if view.argument("dim") is None:  # of the flattened tensor
        return Law("indexing", [picked], list(dims), linear=(frozenset({0}),), reason=REASON)
    dim = view.dim(view.argument("dim"), len(dims))
    whole: list[Axis] = [dims[dim]]
    for d, (axis, other) in enumerate(zip(dims, picked, strict=True)):
        if d != dim and (axis.size != other.size or not view.axes.unify(axis, other)):
            whole += [axis, other]
    output = tuple(a if a.size == size else view.axes.leaf(size) for a, size in zip(picked, shape, strict=True))
    return Law("indexing", [output], whole, linear=(frozenset({0}),), reason=REASON)


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(view: NodeView) -> Law:
    dims, picked = view.dims(0), view.dims("index")
    dim = view.dim(view.argument("dim"), len(dims))
    whole: list[Axis] = [dims[dim]]
    others = [picked] + [view.dims(r) for r in (view.argument(3),) if isinstance(r, Ref)]
    for other in others:
        whole.append(other[dim])
        for d, (axis, index_axis) in enumerate(zip(dims, other, strict=True)):
            if d != dim and (axis.size != index_axis.size or not view.axes.unify(axis, index_axis)):
                whole += [axis, index_axis]
    return Law("indexing", [dims], whole, reason=REASON)


@rule("index_add", "index_copy", "index_fill")
def index_add(view: NodeView) -> Law:
    """Self [.., n, ..] with rows of source [.., m, ..] added or put at an index [m]."""
    dims = view.dims(0)
    dim = view.dim(view.argument(1), len(dims))
    whole: list[Axis] = [dims[dim], *view.dims(2)]
    linear: tuple[frozenset[int], ...] = ()
    source = view.argument(3)
    if isinstance(source, Ref):
        linear = (frozenset({0, 2}),)
        for d, (axis, other) in enumerate(zip(dims, view.dims(source), strict=False)):
            if d == dim:
                whole.append(other)
            elif not view.axes.unify(axis, other):
                whole += [axis, other]
    return Law("indexing", [dims], whole, linear=linear, reason=REASON)


@rule("index_put", "masked_scatter")
def index_put(view: NodeView) -> Law:
    dims = view.dims(0)
    if view.node.op._opname == "masked_scatter" or any(_is_mask(view, i) for i in view.argument(1)):
        whole = [axis for operand in view.operand_dims() for axis in operand]
        return Law("indexing", [dims], whole, reason="a mask picks from it")
    indices = list(view.argument(1))
    chosen, place = indexed_layout(view, indices, len(dims))
    count = max((len(view.dims(i)) for i in indices if i is not None), default=0)
    rest = [axis for d, axis in enumerate(dims) if d not in chosen]
    target = (*rest[:place], *view.fresh([0] * count), *rest[place:])
    whole = [dims[d] for d in chosen] + [a for i in indices if i is not None for a in view.dims(i)]
    values = view.dims(view.argument(2))
    for axis, other in zip(reversed(target), reversed(values), strict=False):
        if axis.size == 0:
            whole.append(other)
        elif other.size not in (1, axis.size) or (other.size != 1 and not view.axes.unify(axis, other)):
            whole += [axis, other]
    return Law("indexing", [dims], whole, linear=(frozenset({0, len(view.operands) - 1}),), reason=REASON)
