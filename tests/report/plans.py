"""Plans made by hand, for what draws them."""

from dataclasses import replace

from axisplit.solve.plan import AxisPlan, CapturedPlan, CollectivePlan, EditPlan, ParameterPlan, Plan


def split(name, shape, axis, *ranges):
    """A parameter split by one dim: (dim, start, end) for each rank."""
    held = tuple(tuple(((a, b),) if d == dim else ((0, size),) for d, size in enumerate(shape)) for dim, a, b in ranges)
    return ParameterPlan(name, shape, "float32", "split", held, axis)


def attention(layer):
    """Two kv heads of two queries each, of 8 channels, over 3 ranks: two-level, the first kv head held twice."""
    parts, kv = ((0, 0, 8), (0, 8, 16), (0, 16, 32)), ((0, 0, 8), (0, 0, 8), (0, 8, 16))
    name, axis = f"h.{layer}.attn", "h.*.attn.k.weight[0]"
    return [
        split(f"{name}.q.weight", (32, 64), axis, *parts),
        split(f"{name}.k.weight", (16, 64), axis, *kv),
        split(f"{name}.o.weight", (64, 32), axis, *((1, a, b) for _, a, b in parts)),
        ParameterPlan(f"{name}.o.bias", (64,), "float32", "first", reason="added once, on the first rank"),
    ]


def hand_made() -> Plan:
    """Uneven, two-level, tied, with a bias on one rank and something that could not be lowered."""
    ffn = ((0, 0, 43), (0, 43, 86), (0, 86, 128))
    parameters = [split("embed.weight", (250, 64), "embed.weight[0]", (0, 0, 84), (0, 84, 167), (0, 167, 250))]
    for layer in range(2):
        parameters += attention(layer)
        parameters += [
            split(f"h.{layer}.mlp.fc1.weight", (128, 64), "h.*.mlp.fc1.bias[0]", *ffn),
            split(f"h.{layer}.mlp.fc1.bias", (128,), "h.*.mlp.fc1.bias[0]", *ffn),
            split(f"h.{layer}.mlp.fc2.weight", (64, 128), "h.*.mlp.fc1.bias[0]", *((1, a, b) for _, a, b in ffn)),
            ParameterPlan(f"h.{layer}.norm.weight", (64,), "float32", "whole", reason="one dim: used whole"),
        ]
    router = "its axes end in the middle of the block: splitting it would need a collective of its own"
    parameters.append(ParameterPlan("router.weight", (8, 64), "float32", "whole", reason=router))
    return Plan(
        model="hand-made",
        ranks=3,
        fingerprint="0123456789abcdef",
        versions={"torch": "2.13.0"},
        sizes={"prefill:input_ids": [1, 16], "decode:input_ids": [1, 1]},
        parameters=tuple(parameters),
        tied={"lm_head.weight": "embed.weight"},
        places=(),
        edits=tuple(EditPlan(f"h.{i}.attn", "num_heads", 4, (1, 1, 2)) for i in range(2)),
        captured=(CapturedPlan("h.0.mlp", False, {}, None, ((), (), ())),),
        tiers={"embed": "native", "h.0.attn": "attributes", "h.1.attn": "attributes", "h.0.mlp": "captured"},
        collectives=(
            CollectivePlan("all_reduce", "h.*.attn.o", "prefill", 2, 10_922.67),
            CollectivePlan("all_gather", "lm_head", "prefill", 1, 5333.0),
            CollectivePlan("all_reduce", "h.*.attn.o", "decode", 2, 682.67),
            CollectivePlan("all_reduce", "h.*.attn.o", "prefill masked", 2, 10_922.67),
            CollectivePlan("all_gather", "lm_head", "prefill masked", 1, 5333.0),
            CollectivePlan("all_reduce", "h.*.attn.o", "decode masked", 3, 700.0),
        ),
        axes=(
            AxisPlan("embed.weight[0]", 250, ("0:84", "84:167", "167:250"), ("embed.weight",)),
            AxisPlan("h.*.attn.k.weight[0]", 4, ("0:1 x 0:1", "0:1 x 1:2", "1:2 x 0:2"), ("h.*.attn.k.weight",)),
            AxisPlan("h.*.mlp.fc1.bias[0]", 128, ("0:43", "43:86", "86:128"), ("h.*.mlp.fc1.bias",)),
        ),
        comm_bytes_per_rank=16_255.67,
        lower_bound_bytes=16_000.0,
        optimal=False,
        constraints=("4 parameter classes must be split",),
        excluded=("h.1.attn.head_dim would need more than one value",),
        assumed=("mylib::scan: its rule was found by trying it, not stated",),
        domain=("phases: prefill, decode",),
        warnings=("the plan is for tests",),
    )


def deep(layers: int, ranks: int) -> Plan:
    """A decoder of many layers over many ranks; no layer differs from another."""

    def cut(size):
        return [(size * rank // ranks, size * (rank + 1) // ranks) for rank in range(ranks)]

    heads, ffn = "h.*.attn.k.weight[0]", "h.*.mlp.up.weight[0]"
    parameters = []
    for layer in range(layers):
        for name in ("attn.q", "attn.k", "attn.v", "attn.o"):
            dim = int(name == "attn.o")
            parameters.append(split(f"h.{layer}.{name}.weight", (512, 512), heads, *((dim, *c) for c in cut(512))))
        for name in ("mlp.gate", "mlp.up", "mlp.down"):
            dim = int(name == "mlp.down")
            shape = (512, 2048) if dim else (2048, 512)
            parameters.append(split(f"h.{layer}.{name}.weight", shape, ffn, *((dim, *c) for c in cut(2048))))
        parameters.append(ParameterPlan(f"h.{layer}.norm.weight", (512,), "float32", "whole", reason="one dim"))
    parts = {size: tuple(f"{a}:{b}" for a, b in cut(size)) for size in (512, 2048)}
    return replace(
        hand_made(), model="deep", ranks=ranks, parameters=tuple(parameters), tied={}, edits=(), captured=(),
        tiers={f"h.{i}.attn.o": "native" for i in range(layers)},
        axes=(AxisPlan(heads, 512, parts[512], ("h.*.attn.k.weight",)),
              AxisPlan(ffn, 2048, parts[2048], ("h.*.mlp.up.weight",))),
    )  # fmt: skip
