"""Fused attention: heads and batch pass, a value's own features pass, keys and the features they meet in are whole."""

from __future__ import annotations

from axisplit.axes.expression import Axis
from axisplit.axes.law import Law, NodeView, rule
from axisplit.axes.rules.pointwise import broadcast
from axisplit.capture.graph import Ref


@rule("scaled_dot_product_attention")
def scaled_dot_product_attention(view: NodeView) -> Law:
    """Q [..., h, L, E], k [..., h, S, E], v [..., h, S, D], mask [..., L, S] -> [..., h, L, D].

    With `enable_gqa` q's heads are key heads outside, group inside (aten repeats each key head for its group).
    """
    query, key, value = (view.dims(i) for i in range(3))
    axes, refused = view.axes, []
    batch_q, batch_k = list(query[:-2]), list(key[:-2])
    batch_v = list(value[:-2])
    if view.argument("enable_gqa") and batch_q and batch_q[-1].size != batch_k[-1].size:
        grouped = axes.product([batch_k[-1], axes.leaf(batch_q[-1].size // batch_k[-1].size)])
        if not axes.unify_all([(batch_q[-1], grouped), (batch_k[-1], batch_v[-1])]):
            refused += [batch_q[-1], batch_k[-1], batch_v[-1]]
        batch_k, batch_v = [*batch_k[:-1], batch_q[-1]], [*batch_v[:-1], batch_q[-1]]
    (shape,) = view.output_shapes()
    batch, failed = broadcast(view, [tuple(batch_q), tuple(batch_k), tuple(batch_v)], shape[:-2])
    refused += failed
    pairs = [(query[-1], key[-1]), (key[-2], value[-2])]
    refused += [axis for pair in pairs if not axes.unify(*pair) for axis in pair]
    mask = view.argument("attn_mask")
    whole: list[Axis] = [query[-1], key[-1], key[-2], value[-2]]
    if isinstance(mask, Ref):
        scores = (*batch, query[-2], key[-2])
        _, failed = broadcast(view, [scores, view.dims(mask)], (*shape[:-1], key[-2].size))
        refused += failed
    if view.argument("is_causal"):
        whole.append(query[-2])
    law = Law("attention", [(*batch, query[-2], value[-1])], refused + whole, linear=(frozenset({2}),))
    law.reason = "attention sums or normalises over it"
    query_heads, key_heads = query[-3] if len(query) > 3 else None, key[-3] if len(key) > 3 else None
    if query_heads is not None and key_heads is not None:
        law.no_effect["enable_gqa"] = lambda local: local(query_heads) == local(key_heads)
    return law
