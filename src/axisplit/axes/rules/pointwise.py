"""Ops that treat every element alike: all axes pass; which of them are linear in what."""

from __future__ import annotations

from collections.abc import Sequence

from axisplit.axes.expression import Axis
from axisplit.axes.law import Dims, Law, NodeView, rule
from axisplit.capture.graph import Ref

UNARY = [
    "abs",
    "acos",
    "acosh",
    "angle",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "bitwise_not",
    "ceil",
    "celu",
    "cos",
    "cosh",
    "deg2rad",
    "elu",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "gelu",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "isfinite",
    "isinf",
    "isnan",
    "leaky_relu",
    "lgamma",
    "log",
    "log10",
    "log1p",
    "log2",
    "log_sigmoid",
    "logical_not",
    "logit",
    "mish",
    "nan_to_num",
    "polygamma",
    "reciprocal",
    "relu",
    "relu6",
    "round",
    "rsqrt",
    "selu",
    "sgn",
    "sigmoid",
    "sign",
    "sin",
    "sinc",
    "sinh",
    "softplus",
    "softshrink",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "threshold",
    "trunc",
    "silu",
    "frac",
    "native_dropout",
    "alpha_dropout",
    "clamp",
    "clamp_min",
    "clamp_max",
    "clip",
    "digamma",
    "special_expit",
    "special_erf",
    "special_log1p",
    "real",
    "imag",
    "to",
    "type_as",
    "_to_copy",
    "fill",
    "zero",
    "rrelu",
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
]
BINARY = [
    "atan2",
    "polar",
    "lerp",
    "ldexp",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "bitwise_left_shift",
    "bitwise_right_shift",
    "copysign",
    "eq",
    "ne",
    "ge",
    "gt",
    "le",
    "lt",
    "floor_divide",
    "fmax",
    "fmin",
    "fmod",
    "hypot",
    "logaddexp",
    "logaddexp2",
    "logical_and",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
    "nextafter",
    "pow",
    "remainder",
    "where",
    "__and__",
    "__or__",
    "__xor__",
    "__lshift__",
    "__rshift__",
    "xlogy",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "not_equal",
    "masked_fill",
    "addcmul",
    "addcdiv",
    "copy",
    "heaviside",
    "float_power",
]


def broadcast(view: NodeView, operands: list[Dims], shape: tuple[int, ...]) -> tuple[Dims, list[Axis]]:
    """Dims of a broadcast result, aligned from the right; the axes that could not be shown equal come second."""
    result: list[Axis] = []
    refused: list[Axis] = []
    for position in range(len(shape)):
        back = len(shape) - position
        facing = [dims[len(dims) - back] for dims in operands if len(dims) >= back]
        facing = [axis for axis in facing if axis.size == shape[position]]
        if not facing:
            result.append(view.axes.leaf(shape[position]))
        elif shape[position] != 1 and not view.axes.unify_all([(facing[0], axis) for axis in facing[1:]]):
            refused += facing
            result.append(view.axes.leaf(shape[position]))
        else:
            result.append(facing[0])
    return tuple(result), refused


def joined_shape(operands: Sequence[Dims]) -> tuple[int, ...]:
    """The shape that operands broadcast to."""
    count = max((len(dims) for dims in operands), default=0)
    facing = ([dims[len(dims) - back].size for dims in operands if len(dims) >= back] for back in range(count, 0, -1))
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in facing)


def pointwise(view: NodeView, *, linear: tuple[frozenset[int], ...] = ()) -> Law:
    outputs, refused = [], []
    for shape in view.output_shapes():
        dims, failed = broadcast(view, view.operand_dims(), shape)
        outputs.append(dims)
        refused += failed
    reason = "two different indices meet element by element" if refused else ""
    return Law("pointwise", outputs, refused, linear=linear, reason=reason)


rule(*UNARY, *BINARY)(pointwise)


@rule("neg", "negative", "conj", "_conj", "_conj_physical", "detach")
def negation(view: NodeView) -> Law:
    return pointwise(view, linear=(frozenset({0}),))


@rule("dropout", "feature_dropout")
def dropout(view: NodeView) -> Law:
    """Outside training dropout is the identity."""
    idle = not view.argument("train") or view.argument("p") == 0
    return pointwise(view, linear=(frozenset({0}),) if idle else ())


@rule("add", "sub", "subtract", "rsub")
def addition(view: NodeView) -> Law:
    """Linear in both together. A number added is added once, not once for each rank, so then it is not linear."""
    tensors = isinstance(view.argument(0), Ref) and isinstance(view.argument(1), Ref)
    return pointwise(view, linear=(frozenset(range(len(view.operands))),) if tensors else ())


@rule("complex")
def pairing(view: NodeView) -> Law:
    """A real and an imaginary part: linear in both together."""
    return pointwise(view, linear=(frozenset({0, 1}),))


@rule("mul", "multiply")
def multiplication(view: NodeView) -> Law:
    return pointwise(view, linear=tuple(frozenset({i}) for i in range(len(view.operands))))


@rule("div", "divide", "true_divide")
def division(view: NodeView) -> Law:
    """Linear in the dividend, unless the quotient is rounded."""
    exact = not view.has("rounding_mode") or view.argument("rounding_mode") is None
    return pointwise(view, linear=(frozenset({0}),) if exact and isinstance(view.argument(0), Ref) else ())


@rule("prelu")
def prelu(view: NodeView) -> Law:
    """A slope for each channel (dim 1), or one for all."""
    dims, slope = view.dims(0), view.dims(1)
    channels = [(dims[1], axis) for axis in slope if axis.size != 1]
    refused = [axis for pair in channels if not view.axes.unify(*pair) for axis in pair]
    return Law("pointwise", [dims], refused, reason="the slopes count other channels" if refused else "")


@rule("mse_loss", "huber_loss")
def loss(view: NodeView) -> Law:
    """Element by element, then nothing (0), the mean (1) or the sum (2) of all."""
    reduction = view.argument("reduction")
    if reduction == 0:
        return pointwise(view)
    dims, refused = broadcast(view, view.operand_dims(), joined_shape(view.operand_dims()))
    reason = "two different indices meet element by element" if refused else ""
    return Law("reduction", [()], refused, reduce=list(dims), mean=reduction == 1, reason=reason)
