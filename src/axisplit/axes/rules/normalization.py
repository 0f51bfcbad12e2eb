"""Softmax, norms, sorts and running sums: the dim they work along is needed whole, the others pass."""

from __future__ import annotations

from axisplit.axes.law import Law, NodeView, rule
from axisplit.axes.rules.pointwise import broadcast


@rule(
    "softmax",
    "log_softmax",
    "_softmax",
    "_log_softmax",
    "cumsum",
    "cumprod",
    "logcumsumexp",
    "cummax",
    "cummin",
    "sort",
    "argsort",
    "topk",
    "kthvalue",
    "glu",
    "special_softmax",
    "special_log_softmax",
    "msort",
)
def along_dim(view: NodeView) -> Law:
    dims, shapes = view.dims(0), view.output_shapes()
    dim = view.dim(view.argument("dim") if view.has("dim") else 0, len(dims))
    outputs = [(*dims[:dim], *view.fresh(s[dim : dim + len(s) - len(dims) + 1]), *dims[dim + 1 :]) for s in shapes]
    return Law("normalization", outputs, [dims[dim]] if dims else [], reason=f"{view.node.op._opname} needs all of it")


@rule("diff")
def diff(view: NodeView) -> Law:
    """Differences of neighbours along a dim, with what is put in front and behind: that dim is needed whole."""
    dims, (shape,) = view.dims(0), view.output_shapes()
    dim = view.dim(view.argument("dim"), len(dims))
    whole = [dims[dim]]
    for operand in view.operand_dims()[1:]:
        whole += [axis for d, axis in enumerate(operand) if d == dim or not view.axes.unify(dims[d], axis)]
    output = (*dims[:dim], view.axes.leaf(shape[dim]), *dims[dim + 1 :])
    return Law("normalization", [output], whole, reason="neighbours are subtracted")


@rule("renorm")
def renorm(view: NodeView) -> Law:
    """Every slice along a dim is scaled by its own norm: that dim passes, the others are normalised over."""
    dims = view.dims(0)
    dim = view.dim(view.argument("dim"), len(dims))
    whole = [axis for d, axis in enumerate(dims) if d != dim]
    return Law("normalization", [dims], whole, reason="it is normalised over")


@rule("layer_norm", "rms_norm", "native_layer_norm", "_fused_rms_norm")
def layer_norm(view: NodeView) -> Law:
    dims = view.dims(0)
    count = len(view.argument("normalized_shape"))
    whole = list(dims[-count:])
    for operand in view.operand_dims()[1:]:
        for axis, parameter in zip(dims[-count:], operand, strict=True):
            whole += () if view.axes.unify(axis, parameter) else (parameter,)
    shape, *statistics = view.output_shapes()
    outputs = [dims, *((*dims[:-count], *view.fresh(s[len(dims) - count :])) for s in statistics)]
    assert shape == tuple(axis.size for axis in dims)
    return Law("normalization", outputs, whole, reason="it is normalised over")


@rule("_weight_norm", "_weight_norm_interface")
def weight_norm(view: NodeView) -> Law:
    """W = g v / |v|, a norm for each index of one dim: v [..., d, ...], g [1 .., d, .. 1], or g one number for all."""
    dims, gains = view.dims(0), view.dims(1)
    own = view.dim(view.argument("dim"), len(dims)) if gains else None
    whole = [axis for d, axis in enumerate(dims) if d != own]
    if own is not None and not view.axes.unify(dims[own], gains[own]):
        whole += [dims[own], gains[own]]
    outputs = [dims, gains][: len(view.output_shapes())]
    linear = (frozenset({1}),) if len(outputs) == 1 else ()  # the norms themselves do not depend on g
    return Law("normalization", outputs, whole, linear=linear, reason="it is normalised over")


@rule("batch_norm", "instance_norm", "native_batch_norm", "_native_batch_norm_legit_no_training")
def batch_norm(view: NodeView) -> Law:
    """Statistics for each channel on its own: channels pass. Those of the batch itself (in training) need all of it."""
    dims = view.dims(0)
    refused = [
        a for o in view.operand_dims()[1:] if len(o) == 1 and not view.axes.unify(dims[1], o[0]) for a in (dims[1], *o)
    ]
    shapes = view.output_shapes()
    outputs = [dims if len(s) == len(dims) else (dims[1],) if s == (dims[1].size,) else view.fresh(s) for s in shapes]
    own = next((name for name in ("training", "use_input_stats") if view.has(name)), None)
    if own is not None and view.argument(own):
        refused += dims[2:] if own == "use_input_stats" else (dims[0], *dims[2:])
    return Law("normalization", outputs, refused, reason="it is normalised over" if refused else "")


@rule("group_norm", "native_group_norm")
def group_norm(view: NodeView) -> Law:
    """Channels are groups outside, members inside; members and positions are normalised over together."""
    dims, name = view.dims(0), "num_groups" if view.has("num_groups") else "group"
    count = view.argument(name)
    groups, members = view.axes.leaf(count), view.axes.leaf(dims[1].size // count)
    ok = view.axes.unify(dims[1], view.axes.product([groups, members]))
    ok = ok and view.axes.unify_all([(dims[1], o[0]) for o in view.operand_dims()[1:] if o[0].size == dims[1].size])
    whole = [members, *dims[2:]] if ok else [axis for operand in view.operand_dims() for axis in operand]
    outputs = [dims, *((dims[0], groups) for _ in view.output_shapes()[1:])]
    law = Law("normalization", outputs, whole, reason="it is normalised over")
    law.rewrites[view.position(name)] = lambda local: local(groups)
    if name == "group":  # native_group_norm is told the shape as well
        law.rewrites |= {
            view.position("N"): lambda local: local(dims[0]),
            view.position("C"): lambda local: local(dims[1]),
        }
    return law


@rule("cosine_similarity", "cdist", "cross_entropy_loss", "nll_loss", "nll_loss_nd")
def everything(view: NodeView) -> Law:
    whole = [axis for dims in view.operand_dims() for axis in dims]
    reason = f"{view.node.op._opname} relates all of it"
    return Law("normalization", [view.fresh(s) for s in view.output_shapes()], whole, reason=reason)


__all__ = ["along_dim", "batch_norm", "broadcast", "everything", "group_norm", "layer_norm", "weight_norm"]
