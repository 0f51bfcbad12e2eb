"""Ops that rearrange a tensor's elements: they make, split, cut and join axis expressions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from axisplit.axes.expression import Axis
from axisplit.axes.law import Dims, Law, LocalSize, NodeView, rule
from axisplit.axes.rules.pointwise import broadcast
from axisplit.capture.graph import Ref

LINEAR = (frozenset({0}),)


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as")
def reshape(view: NodeView) -> Law:
    """Row-major regrouping: runs of input and output dims with equal products are the same product of factors."""
    source, (shape,) = view.dims(0), view.output_shapes()
    output: list[Axis] = []
    refused: list[Axis] = []
    for inputs, sizes in _runs(source, shape):
        if len(inputs) == 1 and len(sizes) == 1:
            output.append(inputs[0])
            continue
        made = [view.axes.leaf(size) for size in sizes]
        if not view.axes.unify(view.axes.product(inputs), view.axes.product(made)):
            refused += inputs
        output += made
    if len(view.operands) > 1:  # view_as
        refused += [x for pair in zip(output, view.dims(1), strict=True) if not view.axes.unify(*pair) for x in pair]
    law = Law("view", [tuple(output)], refused, linear=LINEAR)
    law.reason = "the new shape cuts across the structure of the dim" if refused else ""
    for name in ("size", "shape", "sizes"):
        if view.has(name):
            given, dims = view.argument(name), tuple(output)
            if view.node.op._opname == "unflatten":
                start = view.dim(view.argument("dim"), len(source))
                dims = dims[start : start + len(given)]
            law.rewrites[view.position(name)] = _local_shape(given, dims)
    return law


@rule("view.dtype")
def reinterpret(view: NodeView) -> Law:
    """The same bytes as another type: the last dim is whole where its size changes."""
    dims, (shape,) = view.dims(0), view.output_shapes()
    if shape == tuple(axis.size for axis in dims):
        return Law("view", [dims])
    last = view.axes.leaf(shape[-1])
    return Law("view", [(*dims[:-1], last)], [dims[-1]], reason="its bytes are read as another type")


def _local_shape(given: Sequence[int], dims: Dims) -> Callable[[LocalSize], list[int]]:
    return lambda local: [-1 if size == -1 else local(dim) for size, dim in zip(given, dims, strict=True)]


def _runs(source: Dims, shape: tuple[int, ...]) -> list[tuple[list[Axis], list[int]]]:
    """Shortest runs of input dims and output sizes with equal products; dims of size 1 stand alone."""
    if any(axis.size == 0 for axis in source):
        return [(list(source), list(shape))]
    runs: list[tuple[list[Axis], list[int]]] = []
    inputs, sizes = list(source), list(shape)
    while inputs or sizes:
        taken = [inputs.pop(0)] if inputs else []
        made = [sizes.pop(0)] if sizes else []
        while (left := _count([a.size for a in taken])) != (right := _count(made)):
            if left < right:
                taken.append(inputs.pop(0))
            else:
                made.append(sizes.pop(0))
        if not taken and made:
            taken = []
        runs.append((taken, made))
    return [run for run in runs if run[0] or run[1]]


def _count(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


@rule("transpose", "swapaxes", "swapdims")
def transpose(view: NodeView) -> Law:
    dims = list(view.dims(0))
    a, b = (view.dim(view.argument(i), len(dims)) for i in (1, 2))
    dims[a], dims[b] = dims[b], dims[a]
    return Law("view", [tuple(dims)], linear=LINEAR)


@rule("t", "numpy_T", "mT", "matrix_H")
def matrix_transpose(view: NodeView) -> Law:
    dims = view.dims(0)
    if view.node.op._opname == "numpy_T" or len(dims) < 2:
        return Law("view", [dims[::-1]], linear=LINEAR)
    return Law("view", [(*dims[:-2], dims[-1], dims[-2])], linear=LINEAR)


@rule("permute")
def permute(view: NodeView) -> Law:
    dims = view.dims(0)
    return Law("view", [tuple(dims[view.dim(d, len(dims))] for d in view.argument(1))], linear=LINEAR)


@rule("movedim", "moveaxis")
def movedim(view: NodeView) -> Law:
    dims = list(view.dims(0))
    sources, targets = ([d] if isinstance(d, int) else list(d) for d in (view.argument(1), view.argument(2)))
    sources, targets = [view.dim(d, len(dims)) for d in sources], [view.dim(d, len(dims)) for d in targets]
    order = [d for d in range(len(dims)) if d not in sources]
    for target, source in sorted(zip(targets, sources, strict=True)):
        order.insert(target, source)
    return Law("view", [tuple(dims[d] for d in order)], linear=LINEAR)


@rule("unsqueeze")
def unsqueeze(view: NodeView) -> Law:
    dims = list(view.dims(0))
    dims.insert(view.dim(view.argument(1), len(dims) + 1), view.axes.leaf(1))
    return Law("view", [tuple(dims)], linear=LINEAR)


@rule("squeeze")
def squeeze(view: NodeView) -> Law:
    dims = view.dims(0)
    chosen = view.argument("dim") if view.has("dim") else list(range(len(dims)))
    chosen = [chosen] if isinstance(chosen, int) else chosen
    gone = {view.dim(d, len(dims)) for d in chosen}
    kept = tuple(axis for d, axis in enumerate(dims) if d not in gone or axis.size != 1)
    longer = [dims[d] for d in gone if dims[d].size != 1]
    law = Law("view", [kept], linear=LINEAR)
    law.fits = [lambda local: all(local(axis) != 1 for axis in longer)]  # a part of one index would go as well
    return law


@rule("expand", "expand_as", "broadcast_to")
def expand(view: NodeView) -> Law:
    """A dim of size 1 becomes a new axis (or that of the tensor it is expanded as), the same value at every index."""
    dims, (shape,) = view.dims(0), view.output_shapes()
    if not view.has("size"):
        output, refused = broadcast(view, [dims, view.dims(1)], shape)
        return Law("view", [output], refused, linear=LINEAR)
    padded = [None] * (len(shape) - len(dims)) + list(dims)
    output = tuple(
        axis if axis is not None and axis.size == size else view.axes.leaf(size)
        for axis, size in zip(padded, shape, strict=True)
    )
    law = Law("view", [output], linear=LINEAR, made=list(output))
    if view.has("size"):
        law.rewrites[view.position("size")] = _local_shape(view.argument("size"), output)
    return law


@rule("repeat", "tile")
def repeat(view: NodeView) -> Law:
    dims, (shape,) = view.dims(0), view.output_shapes()
    padded = [view.axes.leaf(1)] * (len(shape) - len(dims)) + list(dims)
    counts = [view.axes.leaf(size // axis.size) for axis, size in zip(padded, shape, strict=True)]
    output = tuple(view.axes.product([count, axis]) for count, axis in zip(counts, padded, strict=True))
    law = Law("view", [output], linear=LINEAR, made=counts)
    given = counts[len(counts) - len(view.argument(1)) :]  # tile may name the last dims only
    law.rewrites[1] = lambda local: [local(count) for count in given]
    return law


@rule("repeat_interleave.self_int")
def repeat_interleave(view: NodeView) -> Law:
    dims = list(view.dims(0))
    if view.argument("dim") is None:
        return Law("view", [view.fresh(view.output_shapes()[0])], list(dims), reason="flattened before repeating")
    dim, count = view.dim(view.argument("dim"), len(dims)), view.axes.leaf(view.argument(1))
    dims[dim] = view.axes.product([dims[dim], count])
    rewrites = {1: lambda local: local(count)}
    if view.argument("output_size") is not None:
        rewrites[view.position("output_size")] = lambda local: local(dims[dim])
    return Law("view", [tuple(dims)], linear=LINEAR, rewrites=rewrites, made=[count])


# --- sums: cat, split, slice --------------------------------------------------------------------------------------


@rule("cat", "concat", "concatenate")
def cat(view: NodeView) -> Law:
    """The joined dim is the sum of the parts'; legacy empty vectors are skipped."""
    tensors = [ref for ref in view.argument(0) if view.shape(ref) != (0,)]
    (shape,) = view.output_shapes()
    if not tensors:
        return Law("view", [view.fresh(shape)])
    dim = view.dim(view.argument("dim"), len(shape))
    columns = list(zip(*(view.dims(ref) for ref in tensors), strict=True))
    output: list[Axis] = []
    refused: list[Axis] = []
    for position, column in enumerate(columns):
        if position == dim:
            output.append(view.axes.sum(column))
            continue
        same = view.axes.unify_all([(column[0], axis) for axis in column[1:]])
        refused += () if same else column
        output.append(column[0])
    together = frozenset(i for i, value in enumerate(view.operands) if view.shape(Ref(value)) != (0,))
    law = Law("view", [tuple(output)], refused, linear=(together,))
    law.reason = "the joined tensors count different indices" if refused else ""
    return law


@rule("stack")
def stack(view: NodeView) -> Law:
    tensors, (shape,) = view.argument(0), view.output_shapes()
    dim = view.dim(view.argument("dim"), len(shape))
    columns = list(zip(*(view.dims(ref) for ref in tensors), strict=True))
    refused = [a for column in columns if not view.axes.unify_all([(column[0], x) for x in column[1:]]) for a in column]
    output = [column[0] for column in columns]
    output.insert(dim, view.axes.leaf(shape[dim]))
    return Law("view", [tuple(output)], refused, linear=(frozenset(range(len(view.operands))),))


def cut_dim(view: NodeView, dim: int, sizes: list[int]) -> tuple[list[Axis] | None, list[Axis]]:
    """A dim of the first operand cut into segments: (segments, axes needed whole)."""
    axis = view.dims(0)[dim]
    pieces = view.axes.cut(axis, sizes)
    return (pieces, []) if pieces is not None else (None, [axis])


def _split(view: NodeView, sizes: list[int], rewrites: dict[int, Any], local_sizes: Any = None) -> Law:
    """Pieces of a dim. `local_sizes`: how the op cuts a rank's part of given length, where no argument says so."""
    dims = view.dims(0)
    dim = view.dim(view.argument("dim"), len(dims))
    pieces, whole = cut_dim(view, dim, sizes)
    found = pieces or [view.axes.leaf(size) for size in sizes]
    outputs = [(*dims[:dim], piece, *dims[dim + 1 :]) for piece in found]
    law = Law(
        "view", outputs, whole, linear=LINEAR, reason="the pieces cut across the dim's structure" if whole else ""
    )
    if pieces is not None:
        law.rewrites = {position: make(pieces) for position, make in rewrites.items()}
        if local_sizes is not None:
            law.fits = [lambda local: (own := [local(piece) for piece in pieces]) == local_sizes(own)]
    return law


@rule("split", "split_with_sizes", "tensor_split", "chunk", "unsafe_split", "unsafe_chunk", "split_copy")
def split(view: NodeView) -> Law:
    dim = view.dim(view.argument("dim"), len(view.dims(0)))
    sizes = [shape[dim] for shape in view.output_shapes()]
    given = view.argument(1)
    name = view.node.op._opname
    if isinstance(given, Ref):
        return _split(view, sizes, {}, lambda own: sizes)
    if "chunk" in name:
        return _split(view, sizes, {}, lambda own: _steps(sum(own), -(-sum(own) // given)))
    if name == "tensor_split" and isinstance(given, int):
        return _split(view, sizes, {}, lambda own: [(sum(own) + given - 1 - i) // given for i in range(given)])
    if name == "tensor_split":
        return _split(view, sizes, {1: lambda pieces: lambda local: _ends([local(p) for p in pieces])})
    if isinstance(given, int):
        return _split(
            view, sizes, {1: lambda pieces: lambda local: local(pieces[0])}, lambda own: _steps(sum(own), own[0])
        )
    return _split(view, sizes, {1: lambda pieces: lambda local: [local(piece) for piece in pieces]})


def _steps(size: int, step: int) -> list[int]:
    """A length in steps, the last one shorter."""
    return [min(step, size - start) for start in range(0, size, step)] if step else []


def _ends(sizes: Sequence[int]) -> list[int]:
    """Where pieces end, the last one's end left out."""
    return list(accumulate(sizes))[:-1]


@rule("slice")
def slice_(view: NodeView) -> Law:
    dims, (shape,) = view.dims(0), view.output_shapes()
    dim = view.dim(view.argument("dim"), len(dims))
    size, step = dims[dim].size, view.argument("step") or 1
    start, end = _bounds(view.argument("start"), view.argument("end"), size)
    if (start, end, step) == (0, size, 1):
        return Law("view", [dims], linear=LINEAR)
    if step > 1 and start < step and end == size and size % step == 0:
        strided = _every(view, dim, step)
        if strided is not None:
            return strided
    pieces, whole = cut_dim(view, dim, [start, end - start, size - end]) if step == 1 else (None, [dims[dim]])
    middle = pieces[1] if pieces else view.axes.leaf(shape[dim])
    output = (*dims[:dim], middle, *dims[dim + 1 :])
    law = Law("view", [output], whole, linear=LINEAR, reason="a slice cuts across the dim's structure" if whole else "")
    if pieces:
        before, inside, after = pieces
        given_start, given_end = view.argument("start"), view.argument("end")
        law.rewrites = {
            view.position("start"): lambda local: _moved(given_start, size, local(before), local(after), local(inside)),
            view.position("end"): lambda local: _moved(given_end, size, local(before) + local(inside), local(after), 0),
        }
    return law


def _every(view: NodeView, dim: int, step: int) -> Law | None:
    """Every `step`-th index: the dim is blocks times positions inside a block, and one position is taken. None if the
    dim's structure is another.
    """
    dims, size = view.dims(0), view.dims(0)[dim].size
    blocks, positions = view.axes.leaf(size // step), view.axes.leaf(step)
    if not view.axes.unify(dims[dim], view.axes.product([blocks, positions])):
        return None
    law = Law("view", [(*dims[:dim], blocks, *dims[dim + 1 :])], [positions], linear=LINEAR)
    if view.argument("end") == size:
        law.rewrites[view.position("end")] = lambda local: local(dims[dim])
    law.reason = "one position of each block is taken"
    return law


def _bounds(start: Any, end: Any, size: int) -> tuple[int, int]:
    start = 0 if start is None else int(start) + size * (start < 0)
    end = size if end is None else int(end) + size * (end < 0)
    start, end = max(0, min(start, size)), max(0, min(end, size))
    return start, max(start, end)


def _moved(given: Any, size: int, forward: int, after: int, inside: int) -> Any:
    """A slice bound in a local dim: counted from the end where it was, open where it was."""
    if given is None or given >= size or given == 0:
        return given
    return -(after + inside) if given < 0 else forward


@rule("narrow")
def narrow(view: NodeView) -> Law:
    dims = view.dims(0)
    dim, start, length = view.dim(view.argument(1), len(dims)), view.argument(2), view.argument(3)
    if not isinstance(start, int):
        output = (*dims[:dim], view.axes.leaf(length), *dims[dim + 1 :])
        return Law("view", [output], [dims[dim]], linear=LINEAR, reason="a slice at a computed place")
    backwards, start = start < 0, start % dims[dim].size if start else 0
    pieces, whole = cut_dim(view, dim, [start, length, dims[dim].size - start - length])
    middle = pieces[1] if pieces else view.axes.leaf(length)
    law = Law("view", [(*dims[:dim], middle, *dims[dim + 1 :])], whole, linear=LINEAR)
    if pieces:
        before, inside, after = pieces
        law.rewrites = {
            2: lambda local: -local(inside) - local(after) if backwards else local(before),
            3: lambda local: local(inside),
        }
    return law


@rule("select", "unbind", "select_copy")
def select(view: NodeView) -> Law:
    """One index of a dim (or each in turn): the dim is gone."""
    dims = view.dims(0)
    dim = view.dim(view.argument("dim"), len(dims))
    rest = (*dims[:dim], *dims[dim + 1 :])
    reason = "single indices of it are picked"
    return Law("view", [rest] * len(view.output_shapes()), [dims[dim]], linear=LINEAR, reason=reason)


@rule("view_as_complex", "view_as_complex_copy")
def as_complex(view: NodeView) -> Law:
    """Pairs of a last dim become complex numbers."""
    dims = view.dims(0)
    return Law("view", [dims[:-1]], [dims[-1]], linear=LINEAR, reason="its pairs are complex numbers")


@rule("view_as_real", "view_as_real_copy")
def as_real(view: NodeView) -> Law:
    """Complex numbers become pairs along a new last dim."""
    return Law("view", [(*view.dims(0), view.axes.leaf(2))], linear=LINEAR)


@rule("slice_scatter", "select_scatter")
def scatter_back(view: NodeView) -> Law:
    """A tensor with one slice replaced. The sliced dim is needed whole; the others pass."""
    dims, part = view.dims(0), view.dims(1)
    dim = view.dim(view.argument("dim"), len(dims))
    others = [axis for d, axis in enumerate(dims) if d != dim]
    facing = [axis for d, axis in enumerate(part) if d != dim or view.node.op._opname == "select_scatter"]
    refused = [x for pair in zip(others, facing, strict=True) if not view.axes.unify(*pair) for x in pair]
    whole = [dims[dim], *refused]
    if view.node.op._opname == "slice_scatter":
        whole.append(part[dim])
    return Law("view", [dims], whole, linear=(frozenset({0, 1}),), reason="a part of it is overwritten")


@rule("flip", "roll", "rot90")
def reorder(view: NodeView) -> Law:
    dims = view.dims(0)
    chosen = view.argument("dims")
    chosen = [chosen] if isinstance(chosen, int) else chosen
    turned = {view.dim(d, len(dims)) for d in chosen} or set(range(len(dims)))
    whole = [dims[d] for d in sorted(turned)]
    if view.node.op._opname == "rot90":  # its two dims may change places
        dims = tuple(view.axes.leaf(s) if d in turned else dims[d] for d, s in enumerate(view.output_shapes()[0]))
    return Law("view", [dims], whole, linear=LINEAR, reason="its order is changed")


@rule("constant_pad_nd", "pad")
def pad(view: NodeView) -> Law:
    """Padded dims grow by new elements: needed whole; the others pass."""
    dims, (shape,) = view.dims(0), view.output_shapes()
    grown = [axis for axis, size in zip(dims, shape, strict=True) if axis.size != size]
    pads = view.argument(1)
    touched = [dims[-1 - i // 2] for i in range(0, len(pads), 2) if pads[i] or pads[i + 1]]
    output = tuple(
        axis if all(axis is not t for t in touched) else view.axes.leaf(size)
        for axis, size in zip(dims, shape, strict=True)
    )
    return Law("view", [output], grown + touched, reason="it is padded")


@rule("unfold", "diagonal", "tril", "triu", "as_strided", "im2col")
def windows(view: NodeView) -> Law:
    """Ops that relate indices of one dim to each other: those dims are needed whole, leading ones pass."""
    dims, (shape,), name = view.dims(0), view.output_shapes(), view.node.op._opname
    if name == "unfold":
        dim = view.dim(view.argument(1), len(dims))
        output = (*dims[:dim], *view.fresh(shape[dim : dim + 1]), *dims[dim + 1 :], view.axes.leaf(shape[-1]))
        return Law("view", [output], [dims[dim]], linear=LINEAR, reason="windows of it are taken")
    if name in ("tril", "triu"):
        return Law("view", [dims], list(dims[-2:]), linear=LINEAR, reason="its order matters")
    return Law("view", [view.fresh(shape)], list(dims), reason=f"{name} rearranges it")


@rule("pixel_shuffle")
def pixel_shuffle(view: NodeView) -> Law:
    """X [..., c * r * r, h, w] -> [..., c, h * r, w * r]."""
    *outer, channels, height, width = view.dims(0)
    factor = view.argument(1)
    kept, down, right = view.axes.leaf(channels.size // factor**2), view.axes.leaf(factor), view.axes.leaf(factor)
    if not view.axes.unify(channels, view.axes.product([kept, down, right])):
        return windows(view)
    space = [view.axes.product([height, down]), view.axes.product([width, right])]
    return Law("view", [(*outer, kept, *space)], [down, right], linear=LINEAR, reason="it becomes part of a place")


@rule("pixel_unshuffle")
def pixel_unshuffle(view: NodeView) -> Law:
    """X [..., c, h * r, w * r] -> [..., c * r * r, h, w]."""
    *outer, channels, height, width = view.dims(0)
    factor, axes = view.argument(1), view.axes
    down, right, rows, columns = (axes.leaf(n) for n in (factor, factor, height.size // factor, width.size // factor))
    if not axes.unify(height, axes.product([rows, down])) or not axes.unify(width, axes.product([columns, right])):
        return windows(view)
    output = (*outer, axes.product([channels, down, right]), rows, columns)
    return Law("view", [output], [down, right], linear=LINEAR, reason="it becomes part of a channel")


@rule("channel_shuffle")
def channel_shuffle(view: NodeView) -> Law:
    """X [b, groups * n, ...] -> [b, n * groups, ...]."""
    batch, channels, *space = view.dims(0)
    groups = view.axes.leaf(view.argument(1))
    members = view.axes.leaf(channels.size // groups.size)
    if not view.axes.unify(channels, view.axes.product([groups, members])):
        return windows(view)
    law = Law("view", [(batch, view.axes.product([members, groups]), *space)], linear=LINEAR)
    law.rewrites[1] = lambda local: local(groups)
    return law
