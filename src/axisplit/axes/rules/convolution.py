"""Convolutions and pooling: output channels pass, input channels are summed over, positions are whole."""

from __future__ import annotations

from axisplit.axes.law import Law, NodeView, rule
from axisplit.axes.rules.pointwise import broadcast
from axisplit.capture.graph import Ref


@rule("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(view: NodeView) -> Law:
    """X [B, g*c, ...], w [g*o, c, ...] (transposed: [g*c, o, ...]) + b [g*o] -> [B, g*o, ...]."""
    axes, x, w = view.axes, view.dims(0), view.dims(1)
    (shape,), name = view.output_shapes(), view.node.op._opname
    spatial = len(w) - 2
    batch, channels = x[: len(x) - spatial - 1], x[len(x) - spatial - 1]
    transposed = "transpose" in name or (name == "convolution" and bool(view.argument("transposed")))
    count = int(view.argument("groups"))
    groups = axes.leaf(count)
    inner, outer = axes.leaf(channels.size // count), axes.leaf(shape[len(batch)] // count)
    produced = axes.product([groups, outer])
    first, second = (axes.product([groups, inner]), outer) if transposed else (produced, inner)
    pairs = [(channels, axes.product([groups, inner])), (w[0], first), (w[1], second)]
    bias = view.argument(2)
    if isinstance(bias, Ref):
        pairs.append((view.dims(bias)[0], produced))
    ok = axes.unify_all([(a, b) for a, b in pairs if a.size != 1])
    output = (*batch, produced, *view.fresh(shape[len(batch) + 1 :]))
    whole = [*x[len(batch) + 1 :], *w[2:]]
    odd = [] if ok else [channels, w[0], w[1], *(view.dims(bias) if isinstance(bias, Ref) else ())]
    law = Law("convolution", [output], whole + odd, reason="windows of it are taken")
    law.reduce = [inner] if inner.size > 1 else []
    if isinstance(bias, Ref):
        law.additive = frozenset({2})
    else:
        law.linear = (frozenset({0}), frozenset({1}))
    if count > 1:
        law.rewrites[view.position("groups")] = lambda local: local(groups)
    return law


@rule(
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "upsample_linear1d",
    "max_pool2d_with_indices",
    "max_pool1d_with_indices",
    "reflection_pad1d",
    "reflection_pad2d",
    "replication_pad1d",
    "replication_pad2d",
)
def pooling(view: NodeView) -> Law:
    """Batch and channels pass, positions are whole."""
    dims, name = view.dims(0), view.node.op._opname
    spatial = 1 if "1d" in name else 3 if "3d" in name else 2
    kept = dims[: len(dims) - spatial]
    outputs = [(*kept, *view.fresh(s[len(kept) :])) for s in view.output_shapes()]
    return Law("convolution", outputs, list(dims[len(kept) :]), reason="windows of it are taken")


__all__ = ["broadcast", "convolution", "pooling"]
