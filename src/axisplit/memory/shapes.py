"""The shape of a decoder of which only the number of parameters is known: that of the nearest published model.

A layer of attention (4 h h) and an MLP (8 h h) has 12 h h parameters, so L layers have 12 L h h. Where the number
differs from the published model's by more than a quarter, its layers are kept and h is scaled to the number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from axisplit.errors import InputError


class Published(NamedTuple):
    """A model's sizes as its authors give them."""

    name: str
    parameters: float
    layers: int
    hidden: int
    heads: int
    kv_heads: int


# Sources: OPT, Zhang et al. 2022, table 1; Llama 2, Touvron et al. 2023; Code Llama, Roziere et al. 2023; Llama 3,
# Grattafiori et al. 2024, table 3.
PUBLISHED = (
    Published("OPT 125M", 125e6, 12, 768, 12, 12),
    Published("OPT 350M", 350e6, 24, 1024, 16, 16),
    Published("OPT 1.3B", 1.3e9, 24, 2048, 32, 32),
    Published("OPT 2.7B", 2.7e9, 32, 2560, 32, 32),
    Published("Llama 2 7B", 6.74e9, 32, 4096, 32, 32),
    Published("Llama 3 8B", 8.03e9, 32, 4096, 32, 8),
    Published("Llama 2 13B", 13.0e9, 40, 5120, 40, 40),
    Published("Code Llama 34B", 33.7e9, 48, 8192, 64, 8),
    Published("Llama 2 70B", 69.0e9, 80, 8192, 64, 8),
    Published("OPT 175B", 175e9, 96, 12288, 96, 96),
    Published("Llama 3 405B", 405e9, 126, 16384, 128, 8),
)
ALIKE = 1.25
"""A number of parameters within this factor of a published model's has its shape unchanged."""


@dataclass(frozen=True)
class DecoderShape:
    """A decoder's sizes. `basis` says where they come from; `assumed` whether any of them was not given."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    basis: str
    assumed: bool

    @property
    def head_dim(self) -> float:
        return self.hidden / self.heads


def decoder_shape(
    parameters: float,
    layers: int | None = None,
    hidden: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
) -> DecoderShape:
    """The sizes that are given, the others as in the nearest published model.

    Raises: InputError if heads do not divide the width, or kv heads the heads.
    >>> decoder_shape(7e9).basis, decoder_shape(20e9).hidden  # 20e9 = 12 * 40 * 6455 ** 2, to heads of 128
    ('as in Llama 2 7B', 6400)
    >>> decoder_shape(7e9, layers=32, hidden=4096, heads=32, kv_heads=8)
    DecoderShape(layers=32, hidden=4096, heads=32, kv_heads=8, basis='as given', assumed=False)
    """
    near = min(PUBLISHED, key=lambda model: abs(math.log(model.parameters / parameters)))
    given = [size is not None for size in (layers, hidden, heads, kv_heads)]
    alike = layers is None and 1 / ALIKE <= parameters / near.parameters <= ALIKE
    layers = layers or near.layers
    head_dim = near.hidden // near.heads
    if hidden is None:
        unit = heads or head_dim
        scaled = unit * max(round(math.sqrt(parameters / (12 * layers)) / unit), 1)
        hidden = near.hidden if alike and near.hidden % unit == 0 else scaled
    heads = heads or hidden // math.gcd(hidden, head_dim)
    grouped = near.kv_heads < near.heads and heads % near.kv_heads == 0
    kv_heads = kv_heads or (near.kv_heads if grouped else heads)
    _check(hidden, heads, kv_heads)
    like = f"as in {near.name}" if alike else f"12·L·h² parameters in proportions as of {near.name}"
    basis = "as given" if all(given) else f"partly given, else {like}" if any(given) else like
    return DecoderShape(layers, hidden, heads, kv_heads, basis, not all(given))


def _check(hidden: int, heads: int, kv_heads: int) -> None:
    if hidden % heads or heads % kv_heads:
        raise InputError(
            "the shape is not a decoder's",
            where="--hidden, --heads, --kv-heads",
            got=f"width {hidden}, {heads} heads, {kv_heads} kv heads",
            needed="heads that divide the width, and kv heads that divide the heads",
            do="give what the model's config.json has: hidden_size, num_attention_heads, num_key_value_heads",
        )
