"""Memory by the field's formulae. Bytes throughout; nothing here imports torch.

Letters, those of Korthikanti et al.: s tokens in a row, b rows, h width (hidden size), a heads, L layers, t ranks of
tensor parallelism, p pipeline stages; w bytes of an activation (2 in 16 bit, 4 in 32 bit).

    states       bytes a parameter in training with Adam: parameter + gradient + optimizer; mixed precision 2 + 2 + 12
    activations  what backward needs of a forward, a layer: s b h (34 + 5 a s / h) in 16 bit
    KV cache     2 L kv_heads head_dim s b w

Worked example, 7.5e9 parameters, mixed-precision Adam: 16 bytes each are 120 GB on one device; sharded over 64 ranks
(ZeRO-3, FSDP) 1.9 GB on each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Recompute = Literal["none", "attention", "full"]
"""What backward computes again instead of keeping: nothing, attention's scores ("selective"), or whole layers."""


@dataclass(frozen=True)
class Recipe:
    """How one dtype is used: bytes for each parameter, and of an activation. `why_not`: it is not offered, and why."""

    dtype: str
    name: str
    parameter_bytes: int
    gradient_bytes: int = 0
    optimizer_bytes: int = 0
    activation_bytes: int = 2
    why_not: str = ""

    @property
    def state_bytes(self) -> int:
        """Bytes that each parameter costs: itself, its gradient and the optimizer's states."""
        return self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes


INFERENCE = (
    Recipe("fp32", "inference", 4, activation_bytes=4),
    Recipe("bf16", "inference", 2),
    Recipe("fp16", "inference", 2),
    Recipe("int8", "weights only", 1),
)
"""Nothing but the parameters. int8: weights only; activations and caches are in 16 bit, scales are not counted."""

_INT8 = "int8 is for weights at inference: a step of Adam is far smaller than a step between two 8-bit integers"
_FP16 = "in fp16 Adam's squares of small gradients become zero: use bf16, or keep float32 states (mixed precision)"

TRAINING = (
    Recipe("fp32", "single precision", 4, 4, 8, activation_bytes=4),
    Recipe("bf16", "mixed precision", 2, 2, 12),
    Recipe("fp16", "mixed precision", 2, 2, 12),
    Recipe("bf16", "pure 16 bit", 2, 2, 4),
    Recipe("fp16", "pure 16 bit", 2, 2, 4, why_not=_FP16),
    Recipe("int8", "weights only", 1, why_not=_INT8),
)
"""Adam with momentum and variance. Mixed precision keeps float32 master weights, momentum and variance beside 16-bit
parameters and gradients: 2 + 2 + (4 + 4 + 4). Pure: what a model in bf16 under a plain optimizer has, 2 + 2 + (2 + 2).

Source: Rajbhandari et al., ZeRO, SC 2020, section 3.1 (K = 12).
"""


def recipes(training: bool) -> tuple[Recipe, ...]:
    """The ways in which dtypes are used."""
    return TRAINING if training else INFERENCE


def state_bytes_per_rank(parameters: float, recipe: Recipe, ranks: int, stage: int = 3) -> float:
    """Parameters, gradients and optimizer states on each rank of ZeRO; stage 0 is plain data parallelism.

    Args:
        stage: 1 shards the optimizer's states over ranks, 2 the gradients too, 3 the parameters too (FSDP).
    Source: Rajbhandari et al. 2020, Figure 1: 7.5e9 parameters on 64 ranks.

    >>> mixed = TRAINING[1]
    >>> [round(state_bytes_per_rank(7.5e9, mixed, 64, stage) / 1e9, 1) for stage in range(4)]
    [120.0, 31.4, 16.6, 1.9]
    """
    sizes = (recipe.optimizer_bytes, recipe.gradient_bytes, recipe.parameter_bytes)
    return sum(parameters * size / (ranks if level <= stage else 1) for level, size in enumerate(sizes, 1))


def layer_activation_bytes(
    s: float, b: float, h: float, a: float, t: float = 1, w: int = 2, recompute: Recompute = "none"
) -> float:
    """What a decoder layer keeps for backward, on each of t tensor-parallel ranks.

    In 16 bit s b h (10 + 24 / t + 5 a s / (h t)): whole on every rank are the inputs of both norms, of attention and
    of the MLP, and two dropout masks of one byte; split are what lies between, and the a s s b scores (after softmax,
    after dropout, and a mask). Recomputing attention drops the scores, as a fused kernel does; recomputing layers keeps
    the input of each, 2 s b h, whole on every rank.
    Source: Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models, 2022, equations 1 and 2,
    sections 4 and 5.

    >>> s, b, h, a = 2048, 1, 12288, 96
    >>> layer_activation_bytes(s, b, h, a) == s * b * h * (34 + 5 * a * s / h)
    True
    >>> layer_activation_bytes(s, b, h, a, t=8) == s * b * h * (10 + 24 / 8 + 5 * a * s / (h * 8))
    True
    """
    if recompute == "full":
        return s * b * h * w
    whole, split = 4 * w + 2, 12 * w
    scores = 0.0 if recompute == "attention" else score_bytes(s, b, a, t, w)
    return s * b * h * (whole + split / t) + scores


def score_bytes(s: float, b: float, a: float, t: float = 1, w: int = 2) -> float:
    """The part of `layer_activation_bytes` that grows with s squared: 5 a s s b in 16 bit.

    >>> s, h, a = 2048, 12288, 96  # GPT-3 175B: 70 % of a layer's activations, which selective recomputation saves
    >>> round(score_bytes(s, 1, a) / layer_activation_bytes(s, 1, h, a), 2)
    0.7
    """
    return a * s * s * b * (2 * w + 1) / t


def working_bytes(s: float, b: float, h: float, t: float = 1, w: int = 2) -> float:
    """An estimate of a forward's largest working set without backward: inside an MLP of width 4 h the residual and the
    input, and before and after its nonlinearity what is split over t ranks. Logits and a fused attention's are not in.

    >>> working_bytes(2048, 1, 4096)
    167772160.0
    """
    return s * b * h * (2 + 8 / t) * w


def cache_bytes(layers: float, kv_heads: float, head_dim: float, s: float, b: float, w: int = 2) -> float:
    """Keys and values of s tokens in b rows: 2 L kv_heads head_dim s b w.

    >>> cache_bytes(32, 32, 128, 4096, 1) == 2 * 2**30  # Llama 2 7B at 4,096 tokens: 2 GiB
    True
    """
    return 2 * layers * kv_heads * head_dim * s * b * w
