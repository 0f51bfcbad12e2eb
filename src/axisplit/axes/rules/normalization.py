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
    "renorm",
    "glu",
    "softmin",
    "special_softmax",
    "special_log_softmax",
    "msort",
)
def along_dim(view: NodeView) -> Law:
    dims, shapes = view.dims(0), view.output_shapes()
    dim = view.dim(view.argument("dim") if view.has("dim") else -1, len(dims))
    outputs = [
        tuple(a if d != dim or a.size == s[d] else view.axes.leaf(s[d]) for d, a in enumerate(dims)) for s in shapes
    ]
    return Law("normalization", outputs, [dims[dim]] if dims else [], reason=f"{view.node.op._opname} needs all of it")


@rule("layer_norm", "rms_norm", "native_layer_norm", "_fused_rms_norm")
def layer_norm(view: NodeView) -> Law:
    dims = view.dims(0)
    count = len(view.argument("normalized_shape"))
    for operand in view.operand_dims()[1:]:
        for axis, parameter in zip(dims[-count:], operand, strict=True):
            view.axes.unify(axis, parameter)
    outputs = [dims if len(s) == len(dims) and s[-1] == dims[-1].size else view.fresh(s) for s in view.output_shapes()]
    return Law("normalization", outputs, list(dims[-count:]), reason="it is normalised over")


@rule("batch_norm", "instance_norm", "native_batch_norm", "_native_batch_norm_legit_no_training")
def batch_norm(view: NodeView) -> Law:
    """Statistics for each channel on its own: channels pass."""
    dims = view.dims(0)
    refused = [
        a for o in view.operand_dims()[1:] if len(o) == 1 and not view.axes.unify(dims[1], o[0]) for a in (dims[1], *o)
    ]
    shapes = view.output_shapes()
    outputs = [dims if len(s) == len(dims) else (dims[1],) if s == (dims[1].size,) else view.fresh(s) for s in shapes]
    return Law("normalization", outputs, refused)


@rule("group_norm", "native_group_norm")
def group_norm(view: NodeView) -> Law:
    """Channels are groups outside, members inside; members and positions are normalised over together."""
    dims, name = view.dims(0), "num_groups" if view.has("num_groups") else "group"
    count = view.argument(name)
    groups, members = view.axes.leaf(count), view.axes.leaf(dims[1].size // count)
    ok = view.axes.unify(dims[1], view.axes.product([groups, members]))
    ok = ok and view.axes.unify_all([(dims[1], o[0]) for o in view.operand_dims()[1:] if o[0].size == dims[1].size])
    whole = [members, *dims[2:]] if ok else list(dims)
    outputs = [dims if len(s) == len(dims) else view.fresh(s) for s in view.output_shapes()]
    law = Law("normalization", outputs, whole, reason="it is normalised over")
    law.rewrites[view.position(name)] = lambda local: local(groups)
    return law


@rule("local_response_norm", "normalize", "cosine_similarity", "cdist", "cross_entropy_loss", "nll_loss", "nll_loss_nd")
def everything(view: NodeView) -> Law:
    whole = [axis for dims in view.operand_dims() for axis in dims]
    reason = f"{view.node.op._opname} relates all of it"
    return Law("normalization", [view.fresh(s) for s in view.output_shapes()], whole, reason=reason)


__all__ = ["along_dim", "batch_norm", "broadcast", "everything", "group_norm", "layer_norm"]
