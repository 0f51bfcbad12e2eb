"""The op rules, by family. Importing this package fills `law.RULES`."""

from axisplit.axes.rules import (
    attention,
    contraction,
    convolution,
    creation,
    indexing,
    normalization,
    pointwise,
    reading,
    recurrent,
    reduction,
    transform,
    view,
)

__all__ = [
    "attention",
    "contraction",
    "convolution",
    "creation",
    "indexing",
    "normalization",
    "pointwise",
    "reading",
    "recurrent",
    "reduction",
    "transform",
    "view",
]
