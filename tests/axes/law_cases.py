"""Every op that has a rule, in the shapes and with the arguments that change its law, as data.

`roles` is what the law must claim (see `law_check.roles`): the claims themselves are executed on parts, this column
keeps a rule from growing careful by accident.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

aten = torch.ops.aten
Make = Callable[[torch.Generator], Tensor]


def f(*shape: int) -> Make:
    """Small integers in float64: sums of products of them are exact."""
    return lambda rng: torch.randint(-4, 5, shape, generator=rng).double()


def u(*shape: int) -> Make:
    """Numbers between 0.1 and 0.9, where every function is defined and not linear."""
    return lambda rng: torch.rand(shape, generator=rng, dtype=torch.float64) * 0.8 + 0.1


def z(*shape: int) -> Make:
    return lambda rng: torch.complex(f(*shape)(rng), f(*shape)(rng))


def i(*shape: int) -> Make:
    return lambda rng: torch.randint(-4, 5, shape, generator=rng)


def n(bound: int, *shape: int) -> Make:
    """Indices below a bound."""
    return lambda rng: torch.randint(0, bound, shape, generator=rng)


def b(*shape: int) -> Make:
    return lambda rng: torch.randint(0, 2, shape, generator=rng).bool()


def s(*shape: int) -> Make:
    """Small integers in float32, for kernels that take no float64."""
    return lambda rng: torch.randint(-4, 5, shape, generator=rng).float()


def rising(size: int, *outer: int) -> Make:
    return lambda rng: torch.arange(size).double().expand(*outer, size).contiguous() - size // 2


def ends(size: int, count: int) -> Make:
    """Where `count` runs in a vector start."""
    return lambda rng: torch.arange(count) * (size // count)


def permuted(size: int) -> Make:
    return lambda rng: torch.randperm(size, generator=rng)


def rows_of(count: int, size: int, bound: int) -> Make:
    """The same few different indices in every row."""
    return lambda rng: torch.randperm(bound, generator=rng)[:size].expand(count, size).contiguous()


def chosen(*flags: int) -> Make:
    return lambda rng: torch.tensor(flags).bool()


def offsets(*ends: int) -> Make:
    return lambda rng: torch.tensor(ends, dtype=torch.int32)


@dataclass(frozen=True)
class Case:
    name: str
    run: Callable[..., Any]
    operands: tuple[Make, ...]
    roles: str = "?"

    def tensors(self, seed: int = 0) -> list[Tensor]:
        rng = torch.Generator().manual_seed(seed)
        return [make(rng) for make in self.operands]


def along(op: Any, **kwargs: Any) -> Callable[[Tensor], Any]:
    return lambda x: op(x, **kwargs)


def by_two(op: Any) -> Callable[[Tensor], Any]:
    return lambda x: op(x, 2)


# --- pointwise ----------------------------------------------------------------------------------------------------

EXTRA: dict[str, tuple[Any, ...]] = {
    "threshold": (0.5, 0.25), "clamp": (0.2, 0.6), "clamp_min": (0.4,), "clamp_max": (0.4,), "clip": (0.2, 0.6),
    "fill": (2.0,), "to": (torch.float32,), "native_dropout": (0.5, False),
    "hardshrink": (0.5,),
}  # fmt: skip
REAL = """
abs acos acosh asin asinh atan atanh ceil celu cos cosh deg2rad elu erf erfc erfinv exp exp2 expm1 floor frac
gelu hardshrink hardsigmoid hardswish hardtanh isfinite isinf isnan leaky_relu lgamma log log10 log1p log2
log_sigmoid logit mish nan_to_num reciprocal relu relu6 round rsqrt selu sgn sigmoid sign sin sinc sinh softplus
softshrink sqrt square tan tanh threshold trunc silu native_dropout clamp clamp_min clamp_max clip digamma
special_expit special_erf special_log1p to _to_copy fill zero rrelu zeros_like ones_like empty_like
"""
PAIRED = """
atan2 polar ldexp copysign eq ne ge gt le lt floor_divide fmax fmin fmod hypot logaddexp logaddexp2 logical_and
logical_or logical_xor maximum minimum nextafter pow remainder xlogy greater greater_equal less less_equal not_equal
heaviside float_power copy
"""
BITS = """
bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift __and__ __or__ __xor__ __lshift__
__rshift__
"""


def apply(name: str) -> Callable[..., Any]:
    op, extra = getattr(aten, name), EXTRA.get(name, ())
    kwargs = {"dtype": torch.float32} if name == "_to_copy" else {}
    return lambda *operands: op(*operands, *extra, **kwargs)


POINTWISE = [
    *(Case(name, apply(name), (u(4, 3),), "pp") for name in REAL.split()),
    *(Case(name, apply(name), (u(4, 3), u(4, 3)), "pp pp") for name in PAIRED.split()),
    *(Case(f"{name} broadcast", apply(name), (u(4, 3), u(3)), "pp p") for name in PAIRED.split()),
    *(Case(name, apply(name), (n(3, 4, 3), n(3, 4, 1)), "pp p1") for name in BITS.split()),
    *(Case(name, apply(name), (b(4, 3),), "pp") for name in ("bitwise_not", "logical_not")),
    *(Case(name, apply(name), (z(4, 3),), "pp") for name in ("real", "imag", "angle")),
    *(Case(name, apply(name), (z(4, 3),), "pp | P") for name in ("conj", "_conj", "_conj_physical")),
    Case("polygamma", lambda x: aten.polygamma(1, x), (u(4, 3),), "pp"),
    Case("full_like", lambda x: aten.full_like(x, 2.0), (u(4, 3),), "pp"),
    Case("gelu of a scalar", aten.gelu, (u(),), "()"),
    Case("where", torch.where, (b(4, 1), u(4, 3), u(3)), "p1 pp p"),
    Case("where of a number", lambda c, x: aten.where.ScalarOther(c, x, 0.5), (b(4, 3), u(4, 3)), "pp pp"),
    Case("where without values", aten.where.default, (b(4, 3),), ".."),
    Case("masked_fill", lambda x, m: x.masked_fill(m, -1.0), (u(2, 4, 3), b(4, 1)), "ppp p1"),
    Case("masked_fill of a tensor", lambda x, m, v: x.masked_fill(m, v), (u(4, 3), b(4, 3), u()), "pp pp ()"),
    Case("lerp", torch.lerp, (f(4, 3), f(4, 3), f(3)), "pp pp p"),
    Case("addcmul", aten.addcmul, (f(4, 3), f(4, 3), f(3)), "pp pp p"),
    Case("addcdiv", aten.addcdiv, (f(4, 3), f(4, 3), u(3)), "pp pp p"),
    Case("prelu", aten.prelu, (f(4, 3, 5), u(3)), "ppp p"),
    Case("prelu of equal sizes", aten.prelu, (f(3, 3, 3), u(3)), "ppp p"),
    Case("prelu of one weight", aten.prelu, (f(4, 3), u(1)), "pp 1"),
    Case("mse_loss", lambda x, y: functional.mse_loss(x, y), (f(4, 3), f(4, 3)), "mm mm"),
    Case("mse_loss summed", lambda x, y: functional.mse_loss(x, y, reduction="sum"), (f(4, 3), f(4, 3)), "rr rr"),
    Case("mse_loss of each", lambda x, y: functional.mse_loss(x, y, reduction="none"), (f(4, 3), f(4, 3)), "pp pp"),
    Case("huber_loss", lambda x, y: functional.huber_loss(x, y), (f(4, 3), f(4, 3)), "mm mm"),
    Case("clamp by tensors", lambda x, low: aten.clamp.Tensor(x, low), (f(4, 3), f(3)), "pp p"),
    Case("neg", torch.neg, (f(4, 3),), "pp | P"),
    Case("detach", torch.detach, (f(4, 3),), "pp | P"),
    Case("negative", torch.negative, (f(4, 3),), "pp | P"),
    Case("type_as", lambda x, y: x.type_as(y), (f(4, 3), s(2)), "pp c"),
    Case("positive", torch.positive, (u(4, 3),), ""),  # returns its argument
    Case("dropout in training", lambda x: aten.dropout(x, 0.5, True), (f(4, 3),), "pp"),  # only the shapes are compared
    Case("alpha_dropout in training", lambda x: aten.alpha_dropout(x, 0.5, True), (f(4, 3),), "pp"),
    Case("feature_dropout in training", lambda x: aten.feature_dropout(x, 0.5, True), (f(4, 3),), "pp"),
    Case("dropout idle", lambda x: aten.dropout(x, 0.5, False), (f(4, 3),), "pp | P"),
    Case("add", torch.add, (f(4, 3), f(4, 3)), "pp pp | PP"),
    Case("add broadcast", torch.add, (f(2, 4, 1), f(4, 3)), "pp1 pp | PP"),
    Case("add to itself transposed", lambda x: x + x.t(), (f(3, 3),), "pp | P; .. .. | PP"),
    Case("add scaled", lambda x, y: torch.add(x, y, alpha=3), (f(4, 3), f(3)), "pp p | PP"),
    Case("add a number", lambda x: x + 1.0, (f(4, 3),), "pp"),
    Case("sub", torch.sub, (f(4, 3), f(1, 3)), "pp 1p | PP"),
    Case("subtract", torch.subtract, (f(4, 3), f(4, 3)), "pp pp | PP"),
    Case("rsub", torch.rsub, (f(4, 3), f(4, 3)), "pp pp | PP"),
    Case("rsub a number", lambda x: torch.rsub(x, 2.0), (f(4, 3),), "pp"),
    Case("mul", torch.mul, (f(4, 3), f(3)), "pp p | P. .P"),
    Case("multiply", torch.multiply, (f(4, 3), f(4, 3)), "pp pp | P. .P"),
    Case("mul with itself", lambda x: x * x, (f(4, 3),), "pp pp | P. .P"),
    Case("mul a number", lambda x: x * 3.0, (f(4, 3),), "pp | P"),
    Case(
        "mul two different dims",
        lambda x, y: x.unsqueeze(1) * y.unsqueeze(0),
        (f(4), f(3)),
        "p | P; p | P; p1 1p | P. .P",
    ),
    Case("div", torch.div, (f(4, 3), u(3)), "pp p | P."),
    Case("divide", torch.divide, (f(4, 3), u(4, 3)), "pp pp | P."),
    Case("true_divide", torch.true_divide, (f(4, 3), u(4, 3)), "pp pp | P."),
    Case("div by a number", lambda x: x / 2.0, (f(4, 3),), "pp | P"),
    Case("div rounded", lambda x, y: torch.div(x, y, rounding_mode="floor"), (f(4, 3), u(4, 3)), "pp pp"),
]

# --- contraction --------------------------------------------------------------------------------------------------

linear = functional.linear
CONTRACTION = [
    Case("linear", linear, (f(2, 5, 4), f(6, 4)), "ppr pr | P. .P"),
    Case("linear with bias", linear, (f(5, 4), f(6, 4), f(6)), "pr pr p"),
    Case("linear of a vector", linear, (f(4), f(6, 4)), "r pr | P. .P"),
    Case("linear with a vector", linear, (f(5, 4), f(4)), "pr r | P. .P"),
    Case("linear square", linear, (f(4, 4), f(4, 4), f(4)), "pr pr p"),
    Case("linear to one", linear, (f(5, 4), f(1, 4), f(1)), "pr 1r 1"),
    Case("residual", lambda x, w: x + linear(x, w), (f(5, 4), f(4, 4)), "pr pr | P. .P; p. p. | PP"),
    Case("mm with itself", lambda x: (x @ x.t()).sum(), (f(4, 3),), "pp | P; .r r. | P. .P; .. | P"),
    Case("mm", torch.mm, (f(3, 4), f(4, 5)), "pr rp | P. .P"),
    Case("bmm", torch.bmm, (f(2, 3, 4), f(2, 4, 5)), "ppr prp | P. .P"),
    Case("mv", torch.mv, (f(3, 4), f(4)), "pr r | P. .P"),
    Case("dot", torch.dot, (f(4), f(4)), "r r | P. .P"),
    Case("vdot", torch.vdot, (f(4), f(4)), "r r | P. .P"),
    Case("outer", torch.outer, (f(4), f(3)), "p p | P. .P"),
    Case("bilinear", functional.bilinear, (f(5, 4), f(5, 3), f(2, 4, 3)), "pr pr prr | P.. .P. ..P"),
    Case("bilinear with bias", functional.bilinear, (f(5, 4), f(5, 3), f(2, 4, 3), f(2)), "pr pr prr p"),
    Case("addmm", torch.addmm, (f(5), f(3, 4), f(4, 5)), "p pr rp"),
    Case("addmm scaled", lambda c, x, y: torch.addmm(c, x, y, beta=2, alpha=3), (f(3, 5), f(3, 4), f(4, 5)),
         "pp pr rp"),
    Case("baddbmm", torch.baddbmm, (f(2, 3, 5), f(2, 3, 4), f(2, 4, 5)), "ppp ppr prp"),
    Case("baddbmm broadcast", torch.baddbmm, (f(1, 1, 5), f(2, 3, 4), f(2, 4, 5)), "11p ppr prp"),
    Case("addmv", torch.addmv, (f(3), f(3, 4), f(4)), "p pr r"),
    Case("addbmm", torch.addbmm, (f(3, 5), f(2, 3, 4), f(2, 4, 5)), "pp rpr rrp"),
    Case("matmul 1 1", torch.matmul, (f(4), f(4)), "r r | P. .P"),
    Case("matmul 1 2", torch.matmul, (f(4), f(4, 5)), "r rp | P. .P"),
    Case("matmul 2 1", torch.matmul, (f(3, 4), f(4)), "pr r | P. .P"),
    Case("matmul 2 2", torch.matmul, (f(3, 4), f(4, 5)), "pr rp | P. .P"),
    Case("matmul 1 3", torch.matmul, (f(4), f(2, 4, 5)), "r prp | P. .P"),
    Case("matmul 3 1", torch.matmul, (f(2, 3, 4), f(4)), "ppr r | P. .P"),
    Case("matmul 3 2", torch.matmul, (f(2, 3, 4), f(4, 5)), "ppr rp | P. .P"),
    Case("matmul 2 3", torch.matmul, (f(3, 4), f(2, 4, 5)), "pr prp | P. .P"),
    Case("matmul 4 4", torch.matmul, (f(2, 6, 3, 4), f(2, 6, 4, 5)), "pppr pprp | P. .P"),
    Case("matmul broadcast", torch.matmul, (f(2, 1, 3, 4), f(6, 4, 5)), "p1pr prp | P. .P"),
    Case("matmul by itself", lambda x: x @ x, (f(4, 4),), ".. .. | P. .P"),
    Case("einsum", lambda x, w: torch.einsum("bsd,hdk->bhsk", x, w), (f(2, 3, 4), f(5, 4, 3)), "ppr prp | P. .P"),
    Case("einsum implicit", lambda x, y: torch.einsum("ij,jk", x, y), (f(3, 4), f(4, 5)), "pr rp | P. .P"),
    Case("einsum of capitals", lambda x, y: torch.einsum("aA,ab->Ab", x, y), (f(3, 4), f(3, 5)), "rp rp | P. .P"),
    Case("einsum transposing", lambda x: torch.einsum("ij->ji", x), (f(3, 4),), "pp | P"),
    Case("einsum diagonal", lambda x: torch.einsum("ii->i", x), (f(4, 4),), ".. | P"),
    Case("einsum ellipsis", lambda x, y: torch.einsum("...ij,jk->...ik", x, y), (f(2, 3, 4), f(4, 5)),
         "ppr rp | P. .P"),
    Case("einsum ellipsis moved", lambda x: torch.einsum("b...d->d...b", x), (f(2, 3, 4),), "ppp | P"),
    Case("einsum ellipsis moved, equal sizes", lambda x: torch.einsum("b...d->d...b", x), (f(3, 3, 3),), "ppp | P"),
    Case("einsum ellipsis summed", lambda x: torch.einsum("...d->d", x), (f(2, 3, 4),), "rrp | P"),
    Case("einsum of three", lambda x, y, w: torch.einsum("ij,jk,k->i", x, y, w), (f(3, 4), f(4, 5), f(5)),
         "pr rr r | P.. .P. ..P"),
    Case("_grouped_mm", lambda x, w, o: aten._grouped_mm(x, w, o), (s(6, 8), s(2, 8, 16), offsets(2, 6)),
         ".r .rp . | P.. .P."),
    Case("_grouped_mm over rows", lambda x, w, o: aten._grouped_mm(x, w, o), (s(8, 8), s(8, 16), offsets(4, 8)),
         ".. .. ."),
]  # fmt: skip

# --- view ---------------------------------------------------------------------------------------------------------

VIEW = [
    Case("view to heads", lambda x: x.view(2, 3, 5), (f(2, 15),), "p(pp) | P"),
    Case("view of heads", lambda x: x.view(2, 15), (f(2, 3, 5),), "ppp | P"),
    Case("view across", lambda x: x.view(4, 6), (f(6, 4),), ".. | P"),
    Case("view with -1", lambda x: x.view(4, -1, 3), (f(4, 6),), "p(pp) | P"),
    Case("view with ones", lambda x: x.view(1, 4, 1, 6), (f(4, 6, 1),), "pp1 | P"),
    Case("view of a scalar", lambda x: x.view(1), (f(),), "() | P"),
    Case("view of nothing", lambda x: x.view(3, 0), (f(0, 4),), "0. | P"),
    Case("view twice", lambda x: x.view(3, 4, 2).view(3, 2, 2, 2), (f(3, 8),), "p(ppp) | P; p(pp)p | P"),
    Case("view of a rejoined dim", lambda x: x.view(2, 6).transpose(0, 1).reshape(4, 3), (f(12),),
         "(pp) | P; pp | P; .. | P"),
    Case("view as bits", lambda x: x.view(torch.int64), (f(4, 3),), "pp"),
    Case("view as half as many", lambda x: x.view(torch.int32), (f(4, 3),), "p."),
    Case("reshape", lambda x: x.reshape(8, 3), (f(4, 6),), "p(pp) | P"),
    Case("_unsafe_view", lambda x: aten._unsafe_view(x, [8, 3]), (f(4, 2, 3),), "ppp | P"),
    Case("flatten", lambda x: x.flatten(1), (f(2, 3, 4),), "ppp | P"),
    Case("unflatten", lambda x: x.unflatten(-1, (3, -1)), (f(2, 6),), "p(pp) | P"),
    Case("unflatten the first", lambda x: x.unflatten(0, (2, 3)), (f(6, 4),), "(pp)p | P"),
    Case("view_as", lambda x, y: x.view_as(y), (f(4, 6), f(4, 2, 3)), "p(pp) ppp | P."),
    Case("reshape_as", lambda x, y: x.reshape_as(y), (f(4, 6), f(8, 3)), "p(pp) (pp)p | P."),
    Case("transpose", lambda x: x.transpose(-1, 1), (f(2, 3, 4),), "ppp | P"),
    Case("swapaxes", lambda x: torch.swapaxes(x, 0, 2), (f(2, 3, 4),), "ppp | P"),
    Case("swapdims", lambda x: torch.swapdims(x, 0, 1), (f(2, 3, 4),), "ppp | P"),
    Case("t", lambda x: x.t(), (f(2, 3),), "pp | P"),
    Case("t of a vector", lambda x: x.t(), (f(3),), "p | P"),
    Case("numpy_T", aten.numpy_T, (f(2, 3, 4),), "ppp | P"),
    Case("mT", lambda x: x.mT, (f(2, 3, 4),), "ppp | P"),
    Case("matrix_H", aten.matrix_H, (f(3, 4),), "pp | P"),
    Case("permute", lambda x: x.permute(2, 0, -2), (f(2, 3, 4),), "ppp | P"),
    Case("movedim", lambda x: torch.movedim(x, 0, -1), (f(2, 3, 4),), "ppp | P"),
    Case("movedim of two", lambda x: torch.movedim(x, (0, 3), (2, 0)), (f(2, 3, 4, 5),), "pppp | P"),
    Case("moveaxis", lambda x: torch.moveaxis(x, -1, 0), (f(2, 3, 4),), "ppp | P"),
    Case("unsqueeze", lambda x: x.unsqueeze(-2), (f(2, 3),), "pp | P"),
    Case("squeeze", lambda x: x.squeeze(), (f(6, 1, 4),), "p1p | P"),
    Case("squeeze of short dims", lambda x: x.squeeze(), (f(2, 1, 4),), ".1p | P"),
    Case("squeeze one", lambda x: x.squeeze(1), (f(2, 1, 4),), "p1p | P"),
    Case("squeeze one that is longer", lambda x: x.squeeze(0), (f(2, 1, 4),), ".1p | P"),
    Case("squeeze some", lambda x: x.squeeze((0, 1)), (f(2, 1, 4),), ".1p | P"),
    Case("expand", lambda x: x.expand(4, 5, 3), (f(5, 1),), "p1 | P + pp"),
    Case("expand with -1", lambda x: x.expand(-1, 3), (f(5, 1),), "p1 | P + p"),
    Case("expand_as", lambda x, y: x.expand_as(y), (f(5, 1), f(4, 5, 3)), "p1 ppp | P."),
    Case("broadcast_to", lambda x: torch.broadcast_to(x, (4, 5)), (f(5),), "p | P + p"),
    Case("repeat", lambda x: x.repeat(2, 1, 3), (f(4, 3),), "pp | P + pp"),
    Case("tile", lambda x: torch.tile(x, (2, 3)), (f(4, 3),), "pp | P + pp"),
    Case("tile the last", lambda x: torch.tile(x, (3,)), (f(4, 3),), "pp | P + p"),
    Case("repeat_interleave", lambda x: x.repeat_interleave(3, dim=1), (f(2, 4),), "pp | P + p"),
    Case("repeat_interleave flat", lambda x: x.repeat_interleave(3), (f(2, 4),), ".."),
    Case("cat", lambda x, y: torch.cat([x, y], -1), (f(5, 4), f(5, 3)), "pp pp | PP"),
    Case("cat of three and nothing", lambda x, e, y: torch.cat([x, e, y, x]), (f(4, 3), f(0), f(2, 3)),
         "pp 0 pp pp | P.PP"),
    Case("concat", lambda x, y: torch.concat([x, y]), (f(4, 3), f(2, 3)), "pp pp | PP"),
    Case("concatenate", lambda x, y: torch.concatenate([x, y]), (f(4, 3), f(2, 3)), "pp pp | PP"),
    Case("cat of what does not fit", lambda x, y: torch.cat([x.view(6, 5, 2), y.view(6, 5, 4)], -1),
         (f(2, 3, 5, 2), f(3, 2, 5, 4)), "pppp | P; pppp | P; (..)pp (..)pp | PP"),
    Case("stack", lambda x, y: torch.stack([x, y], 1), (f(4, 3), f(4, 3)), "pp pp | PP"),
    Case("stack last", lambda x, y: torch.stack([x, y, x], -1), (f(4, 3), f(4, 3)), "pp pp pp | PPP"),
    Case("stack then sum with itself", lambda x, y: torch.stack([x, y, x]) + torch.stack([x, y, x]).t(), (f(3), f(3)),
         ". . . | PPP; . . . | PPP; .. | P; .. .. | PP"),
    Case("split", lambda x: x.split(4, 1), (f(3, 12),), "p(..p) | P"),
    Case("split with a rest", lambda x: x.split(4), (f(10),), "(..p) | P"),
    Case("split, parts multiplied", lambda x: torch.mul(*x.split(4)), (f(8),), "(pp) | P; p p | P. .P"),
    Case("split_with_sizes", lambda x: x.split([2, 3, 4], -1), (f(3, 9),), "p(ppp) | P"),
    Case("unsafe_split", lambda x: torch.unsafe_split(x, 2), (f(4),), "(.p) | P"),
    Case("split_copy", lambda x: aten.split_copy.Tensor(x, 2), (f(4),), "(.p) | P"),
    Case("tensor_split", lambda x: x.tensor_split(3), (f(8),), "(...) | P"),
    Case("tensor_split at", lambda x: x.tensor_split([2, 5]), (f(8),), "(ppp) | P"),
    Case("chunk", lambda x: x.chunk(3, -1), (f(2, 12),), "p(..p) | P"),
    Case("chunk with a rest", lambda x: x.chunk(3), (f(10),), "(...) | P"),
    Case("chunk, parts multiplied", lambda x: torch.mul(*x.chunk(2)), (f(10),), "(pp) | P; p p | P. .P"),
    Case("unsafe_chunk", lambda x: torch.unsafe_chunk(x, 2), (f(4),), "(.p) | P"),
    Case("split across heads", lambda x: x.view(3, 4).view(12).split([6, 6]), (f(12),), "(pp) | P; pp | P; (..) | P"),
    Case("split between heads", lambda x: x.view(4, 3).view(12).split([6, 6]), (f(12),),
         "(ppp) | P; (pp)p | P; (ppp) | P"),
    Case("packed heads", lambda x: [p.view(2, -1, 3) for p in x.split([12, 6, 6])], (f(24),),
         "(ppppppp) | P; (ppp) | P; (pp) | P; (pp) | P"),
    Case("slice from", lambda x: x[:, 5:], (f(2, 9),), "p(cp) | P"),
    Case("slice to", lambda x: x[:, :5], (f(2, 9),), "p(pc) | P"),
    Case("slice inside", lambda x: x[:, 2:6], (f(2, 9),), "p(cpc) | P"),
    Case("slice from the end", lambda x: x[:, -5:], (f(2, 9),), "p(cp) | P"),
    Case("slice to before the end", lambda x: x[:, :-5], (f(2, 9),), "p(pc) | P"),
    Case("slice from the end to before it", lambda x: x[:, -7:-2], (f(2, 9),), "p(cpc) | P"),
    Case("slice to before the end from", lambda x: x[:, 2:-3], (f(2, 9),), "p(cpc) | P"),
    Case("slice from the end to", lambda x: x[:, -7:6], (f(2, 9),), "p(cpc) | P"),
    Case("slice beyond", lambda x: x[:, -20:20], (f(2, 9),), "pp | P"),
    Case("slice everything by number", lambda x: x[:, 0:9], (f(2, 9),), ""),
    Case("slice to its size from", lambda x: x[:, 4:9], (f(2, 9),), "p(cp) | P"),
    Case("slice of nothing", lambda x: x[:, 4:4], (f(2, 9),), "p(cc) | P"),
    Case("slice with steps", lambda x: x[:, ::2], (f(2, 9),), "p. | P"),
    Case("slice open", lambda x: aten.slice.Tensor(x, 1, None, None), (f(2, 9),), "pp | P"),
    Case("slice twice", lambda x: x[2:8][:3], (f(9),), "(cpp1) | P; (pc) | P"),
    Case("shifted slices", lambda x: x[1:] - x[:-1], (f(9),), "(1p1) | P; (1p1) | P; (.1) (1.) | PP"),
    Case("narrow", lambda x: x.narrow(1, 2, 4), (f(2, 9),), "p(cpc) | P"),
    Case("narrow from the end", lambda x: x.narrow(1, -5, 3), (f(2, 9),), "p(cpc) | P"),
    Case("narrow at a tensor", lambda x, s: torch.narrow(x, 1, s, 3), (f(2, 9), n(3)), "p. () | P."),
    *(Case(name, apply(name), (f(4, 3, 2),), "pp. | P") for name in ("view_as_complex", "view_as_complex_copy")),
    *(Case(name, apply(name), (z(4, 3),), "pp | P") for name in ("view_as_real", "view_as_real_copy")),
    Case("select", lambda x: x.select(1, -2), (f(2, 5, 3),), "p.p | P"),
    Case("select_copy", lambda x: aten.select_copy.int(x, 0, 1), (f(2, 5),), ".p | P"),
    Case("unbind", lambda x: x.unbind(1), (f(4, 3),), "p. | P"),
    Case("slice_scatter", lambda x, y: x.slice_scatter(y, 1, 2, 5), (f(4, 9), f(4, 3)), "p. p. | PP"),
    Case("select_scatter", lambda x, y: x.select_scatter(y, 1, 2), (f(4, 9, 2), f(4, 2)), "p.p pp | PP"),
    Case("flip", lambda x: x.flip(1), (f(4, 5),), "p. | P"),
    Case("roll", lambda x: x.roll(2, -1), (f(4, 5),), "p. | P"),
    Case("roll flat", lambda x: x.roll(2), (f(4, 5),), ".. | P"),
    Case("rot90", lambda x: torch.rot90(x, 1, (0, 1)), (f(4, 5, 3),), "..p | P"),
    Case("rot90 of equal sizes", lambda x: torch.rot90(x, 1, (0, 1)) + x, (f(4, 4, 3),), "..p | P; ppp ppp | PP"),
    Case("constant_pad_nd", lambda x: aten.constant_pad_nd(x, [1, 2]), (f(4, 5),), "p."),
    Case("constant_pad_nd of ones", lambda x: aten.constant_pad_nd(x, [0, 1], 1.0), (f(4, 5),), "p."),
    Case("constant_pad_nd back and forth", lambda x: aten.constant_pad_nd(x, [1, -1]), (f(4, 5),), "p."),
    Case("pad", lambda x: functional.pad(x, (1, 1), mode="reflect"), (f(2, 4, 5),), "pp."),
    Case("pad two dims", lambda x: functional.pad(x, (0, 1, 2, 0)), (f(2, 4, 5),), "p.."),
    Case("unfold", lambda x: x.unfold(1, 3, 2), (f(2, 7, 4),), "p.p | P"),
    Case("diagonal", lambda x: x.diagonal(), (f(4, 4),), ".."),
    Case("tril", lambda x: x.tril(), (f(3, 4, 5),), "p.. | P"),
    Case("triu", lambda x: x.triu(1), (f(3, 4, 5),), "p.. | P"),
    Case("as_strided", lambda x: x.as_strided((2, 3), (1, 2)), (f(3, 4),), ".."),
    Case("im2col", lambda x: aten.im2col(x, [2, 2], [1, 1], [0, 0], [1, 1]), (f(2, 3, 4, 4),), "...."),
    Case("pixel_shuffle", lambda x: functional.pixel_shuffle(x, 2), (f(2, 8, 3, 3),), "p(p..)pp | P"),
    Case("pixel_unshuffle", lambda x: functional.pixel_unshuffle(x, 2), (f(2, 3, 4, 6),), "pp(p.)(p.) | P"),
    Case("channel_shuffle", lambda x: torch.channel_shuffle(x, 2), (f(2, 6, 2, 2),), "p(pp)pp | P"),
    Case("complex", torch.complex, (f(4, 3), f(3)), "pp p | PP"),
]  # fmt: skip

# --- transform ----------------------------------------------------------------------------------------------------
TRANSFORM = [
    *(Case(name, apply(f"fft_{name}"), (z(3, 4, 8),), "pp. | P") for name in ["fft", "ifft", "irfft", "hfft"]),
    *(Case(name, apply(f"fft_{name}"), (f(3, 4, 8),), "pp. | P") for name in ["rfft", "ihfft"]),
    *(Case(name, apply(f"fft_{name}"), (z(3, 4, 4),), "p.. | P") for name in ["fft2", "ifft2", "irfft2", "hfft2"]),
    *(Case(name, apply(f"fft_{name}"), (f(3, 4, 4),), "p.. | P") for name in ["rfft2", "ihfft2"]),
    *(Case(name, apply(f"fft_{name}"), (z(3, 4),), ".. | P") for name in ["fftn", "ifftn", "irfftn", "hfftn"]),
    *(Case(name, apply(f"fft_{name}"), (f(3, 4),), ".. | P") for name in ["rfftn", "ihfftn"]),
    Case("irfft to a length", lambda x: torch.fft.irfft(x, n=8, dim=1), (z(3, 5, 4),), "p.p | P"),
    Case("fftn of the last", lambda x: torch.fft.fftn(x, s=(6,)), (z(3, 4),), "p. | P"),
    Case("fftshift", lambda x: torch.fft.fftshift(x, dim=1), (f(3, 4),), "p. | P"),
    Case("ifftshift", lambda x: torch.fft.ifftshift(x), (f(3, 4),), ".. | P"),
    Case(
        "stft",
        lambda x, w: torch.stft(x, 4, window=w, return_complex=True),
        (f(3, 16), u(4)),
        "pp | P; 1p.; 1pp | P; p. . | P.",
    ),
    Case("istft", lambda x, w: torch.istft(x, 4, window=w, return_complex=False), (z(3, 3, 9), u(4)), "p.. . | P."),
]

# --- reduction ----------------------------------------------------------------------------------------------------

REDUCTION = [
    Case("sum", torch.sum, (f(4, 3),), "rr | P"),
    Case("sum of a dim", lambda x: x.sum(-1), (f(4, 3),), "pr | P"),
    Case("sum of dims kept", lambda x: x.sum((0, 2), keepdim=True), (f(4, 3, 5),), "rpr | P"),
    Case("sum of no dims", lambda x: x.sum(()), (f(4, 3),), "rr | P"),
    Case("sum of a product", lambda x: x.view(4, 6).sum(1), (f(4, 2, 3),), "ppp | P; p(rr) | P"),
    Case("mean", torch.mean, (f(4, 3),), "mm | P"),
    Case("mean of a dim", lambda x: x.mean(1, keepdim=True), (f(4, 3),), "pm | P"),
    Case("mean of a product", lambda x: x.view(4, 6).mean(1), (f(4, 2, 3),), "ppp | P; p(mm) | P"),
    Case("mean of two dims", lambda x: x.mean((0, 1)), (f(2, 3, 4),), "mmp | P"),
    Case("nansum of nothing", lambda x: torch.nansum(x / x),
         (lambda _: torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 3.0]]),),
         "pp pp | P.; rr"),
    Case("nansum", torch.nansum, (f(4, 3),), "rr"),
    Case("sum of one's own square", lambda x: (x + x.t()).sum(), (f(3, 3),), "pp | P; .. .. | PP; rr | P"),
    *(Case(name, getattr(torch, name), (u(4, 3),), "..") for name in (
        "amax", "amin", "max", "min", "argmax", "argmin", "any", "all", "prod", "var", "std", "var_mean", "std_mean",
        "median", "norm", "count_nonzero", "aminmax")),
    *(Case(f"{name} of a dim", along(getattr(torch, name), dim=1), (u(4, 3),), "p.") for name in (
        "amax", "amin", "max", "min", "argmax", "argmin", "any", "all", "prod", "var", "std", "median",
        "count_nonzero", "aminmax")),
    *(Case(f"{name} of a dim kept", along(getattr(torch, name), dim=0, keepdim=True), (u(4, 3),), ".p")
      for name in ("max", "logsumexp", "var_mean", "std_mean", "mode", "norm")),
    Case("max of two", torch.max, (u(4, 3), u(3)), "pp p"),
    Case("norm of rows", lambda x: aten.norm.ScalarOpt_dim(x, 2, [1]), (f(4, 3),), "p."),
    Case("linalg_vector_norm", lambda x: torch.linalg.vector_norm(x, dim=-1), (f(4, 3),), "p."),
    Case("frobenius_norm", lambda x: aten.frobenius_norm.dim(x, [1]), (f(4, 3),), "p."),
]  # fmt: skip

# --- normalization ------------------------------------------------------------------------------------------------

NORMALIZATION = [
    Case("softmax", lambda x: x.softmax(-1), (f(2, 4, 5),), "pp."),
    Case("softmax of the first", lambda x: x.softmax(0), (f(4, 5),), ".p"),
    Case("log_softmax", lambda x: x.log_softmax(1), (f(4, 5),), "p."),
    Case("_softmax", lambda x: aten._softmax(x, 1, False), (f(4, 5),), "p."),
    Case("_log_softmax", lambda x: aten._log_softmax(x, 1, False), (f(4, 5),), "p."),
    Case("special_softmax", lambda x: torch.special.softmax(x, 1), (f(4, 5),), "p."),
    Case("special_log_softmax", lambda x: torch.special.log_softmax(x, 1), (f(4, 5),), "p."),
    *(Case(name, along(getattr(torch, name), dim=1), (u(4, 5),), "p.") for name in (
        "cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "sort", "argsort")),
    Case("diff", lambda x: x.diff(), (f(4, 5),), "p."),
    Case("diff of the first", lambda x: x.diff(n=2, dim=0), (f(4, 5),), ".p"),
    Case("diff with ends", lambda x, y, z: x.diff(prepend=y, append=z), (f(4, 5), f(4, 1), f(4, 2)), "p. p1 p."),
    Case("sort stable", lambda x: torch.sort(x, dim=0, stable=True), (f(4, 5),), ".p"),
    Case("topk", lambda x: x.topk(2), (u(4, 5),), "p."),
    Case("topk of all", lambda x: x.topk(5), (u(4, 5),), "p."),
    Case("kthvalue", lambda x: x.kthvalue(2, 1), (u(4, 5),), "p."),
    Case("kthvalue kept", lambda x: x.kthvalue(2, 0, keepdim=True), (u(4, 5),), ".p"),
    Case("renorm", lambda x: x.renorm(2, 0, 1.0), (u(4, 5, 3),), "p.."),
    Case("glu", lambda x: functional.glu(x), (u(4, 6),), "p."),
    Case("msort", torch.msort, (u(4, 5),), ".p"),
    Case("layer_norm", lambda x, w, c: functional.layer_norm(x, (5,), w, c), (u(2, 4, 5), u(5), u(5)), "pp. . ."),
    Case("layer_norm of two", lambda x, w: functional.layer_norm(x, (4, 5), w), (u(2, 4, 5), u(4, 5)), "p.. .."),
    Case("layer_norm alone", lambda x: functional.layer_norm(x, (5,)), (u(2, 4, 5),), "pp."),
    Case("layer_norm of odd weights", lambda x, w: functional.layer_norm(x.view(2, 6), (6,), w.view(6)),
         (u(2, 2, 3), u(3, 2)), "ppp | P; pp | P; p(..) (..)"),
    Case("native_layer_norm", lambda x, w: torch.native_layer_norm(x, (5,), w, None, 1e-5), (u(2, 4, 5), u(5)),
         "pp. ."),
    Case("rms_norm", lambda x, w: functional.rms_norm(x, (5,), w), (u(2, 4, 5), u(5)), "pp. ."),
    Case("_fused_rms_norm", lambda x, w: aten._fused_rms_norm(x, [5], w, 1e-5), (u(2, 4, 5), u(5)), "pp. ."),
    Case("batch_norm", lambda x, m, v, w, c: functional.batch_norm(x, m, v, w, c), (f(4, 3, 5), f(3), u(3), f(3), f(3)),
         "ppp p p p p"),
    Case("batch_norm of a row", lambda x, m, v: functional.batch_norm(x, m, v), (f(4, 3), f(3), u(3)), "pp p p"),
    Case("batch_norm in training", lambda x, w: functional.batch_norm(x, None, None, w, training=True),
         (f(4, 3, 5), f(3)),
         ".p. p"),
    Case("native_batch_norm", lambda x, w, c, m, v: torch.native_batch_norm(x, w, c, m, v, False, 0.1, 1e-5),
         (f(4, 3, 5), f(3), f(3), f(3), u(3)), "ppp p p p p"),
    Case("_native_batch_norm_legit_no_training",
         lambda x, w, c, m, v: aten._native_batch_norm_legit_no_training(x, w, c, m, v, 0.1, 1e-5),
         (f(4, 3, 5), f(3), f(3), f(3), u(3)), "ppp p p p p"),
    Case("instance_norm", lambda x, w, c: functional.instance_norm(x, weight=w, bias=c), (f(4, 3, 5), f(3), f(3)),
         "pp. p p"),
    Case("instance_norm of running means", lambda x, m, v: functional.instance_norm(x, m, v, use_input_stats=False),
         (f(4, 3, 5), f(3), u(3)), "ppp p p"),
    Case("group_norm", lambda x, w, c: functional.group_norm(x, 2, w, c), (f(2, 6, 5), f(6), f(6)), "p(p.). (p.) (p.)"),
    Case("group_norm of two dims", lambda x: functional.group_norm(x, 4), (f(3, 8),), "p(p.)"),
    Case("group_norm of odd weights", lambda x, w: functional.group_norm(x, 2, w.view(6)), (f(2, 6, 5), f(3, 2)),
         "pp | P; .(..). (..)"),
    Case("native_group_norm", lambda x, w: torch.native_group_norm(x, w, None, 3, 8, 5, 4, 1e-5), (f(3, 8, 5), f(8)),
         "p(p.). (p.)"),
    Case("_weight_norm", aten._weight_norm, (u(4, 3, 5), u(4, 1, 1)), "p.. p11 | .P"),
    Case("_weight_norm of the last", lambda v, g: aten._weight_norm(v, g, 2), (u(4, 3, 5), u(1, 1, 5)),
         "..p 11p | .P"),
    Case("_weight_norm of all", lambda v, g: aten._weight_norm(v, g, -1), (u(4, 3), u()), ".. () | .P"),
    Case("_weight_norm_interface", aten._weight_norm_interface, (u(4, 3, 5), u(4, 1, 1)), "p.. p11"),
    Case("cosine_similarity", lambda x, y: functional.cosine_similarity(x, y), (u(4, 3), u(4, 3)), ".. .."),
    Case("cdist", torch.cdist, (u(4, 3), u(5, 3)), ".. .."),
    Case("cross_entropy_loss", functional.cross_entropy, (u(4, 3), n(3, 4)), ".. ."),
    Case("nll_loss", lambda x, t: aten.nll_loss(x, t), (u(4, 3), n(3, 4)), ".. ."),
    Case("nll_loss_nd", functional.nll_loss, (u(4, 3), n(3, 4)), ".. ."),
]  # fmt: skip

# --- attention ----------------------------------------------------------------------------------------------------

sdpa = functional.scaled_dot_product_attention


def grouped(q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
    return sdpa(q, k, v, enable_gqa=True, **kwargs)


ATTENTION = [
    Case("scaled_dot_product_attention", sdpa, (u(2, 3, 4, 6), u(2, 3, 5, 6), u(2, 3, 5, 8)), "ppp. pp.. pp.p | ..P"),
    Case("sdpa masked", lambda q, k, v, m: sdpa(q, k, v, attn_mask=m),
         (u(2, 3, 4, 6), u(2, 3, 5, 6), u(2, 3, 5, 8), u(2, 1, 4, 5)), "ppp. pp.. pp.p p1p. | ..P."),
    Case("sdpa masked for each head", lambda q, k, v, m: sdpa(q, k, v, attn_mask=m),
         (u(2, 3, 4, 6), u(2, 3, 5, 6), u(2, 3, 5, 8), u(3, 1, 5)), "ppp. pp.. pp.p p1. | ..P."),
    Case("sdpa causal", lambda q, k, v: sdpa(q, k, v, is_causal=True), (u(2, 3, 5, 6), u(2, 3, 5, 6), u(2, 3, 5, 8)),
         "pp.. pp.. pp.p | ..P"),
    Case("sdpa of heads alone", sdpa, (u(3, 4, 6), u(3, 5, 6), u(3, 5, 8)), "pp. p.. p.p | ..P"),
    Case("sdpa broadcast", sdpa, (u(2, 3, 4, 6), u(1, 3, 5, 6), u(1, 1, 5, 8)), "ppp. 1p.. 11.p | ..P"),
    Case("sdpa of self", lambda x: sdpa(x, x, x), (u(2, 4, 6),), "p.. p.. p.. | ..P"),
    Case("sdpa grouped", grouped, (u(2, 4, 5, 6), u(2, 2, 5, 6), u(2, 2, 5, 8)), "p(pp)p. pp.. pp.p | ..P"),
    Case("sdpa grouped by three", grouped, (u(1, 9, 2, 6), u(1, 3, 5, 6), u(1, 3, 5, 8)), "1(pp)p. 1p.. 1p.p | ..P"),
    Case("sdpa multi-query", grouped, (u(2, 4, 5, 6), u(2, 1, 5, 6), u(2, 1, 5, 8)), "ppp. p1.. p1.p | ..P"),
    Case("sdpa grouped, equal heads", grouped, (u(2, 4, 5, 6), u(2, 4, 5, 6), u(2, 4, 5, 8)), "ppp. pp.. pp.p | ..P"),
]  # fmt: skip

# --- convolution --------------------------------------------------------------------------------------------------

conv1d, conv2d = functional.conv1d, functional.conv2d
CONVOLUTION = [
    Case("conv1d", conv1d, (f(2, 4, 7), f(6, 4, 3)), "pr. pr. | P. .P"),
    Case("conv1d with bias", conv1d, (f(2, 4, 7), f(6, 4, 3), f(6)), "pr. pr. p"),
    Case("conv1d without batch", conv1d, (f(4, 7), f(6, 4, 3)), "r. pr. | P. .P"),
    Case("conv1d padded as same", lambda x, w: conv1d(x, w, padding="same"), (f(2, 4, 7), f(6, 4, 3)),
         "pr. pr. | P. .P"),
    Case("conv1d grouped", lambda x, w, c: conv1d(x, w, c, groups=2), (f(2, 6, 7), f(8, 3, 3), f(8)),
         "p(pr). (pp)r. (pp)"),
    Case("conv1d depthwise", lambda x, w, c: conv1d(x, w, c, groups=4, padding=2), (f(2, 4, 7), f(4, 1, 3), f(4)),
         "pp. p1. p"),
    Case("conv1d depthwise, two each", lambda x, w: conv1d(x, w, groups=3), (f(2, 3, 7), f(6, 1, 3)),
         "pp. (pp)1. | P. .P"),
    Case("conv1d then residual", lambda x, w: conv1d(x, w, padding=1) + x, (f(2, 4, 7), f(4, 4, 3)),
         "pr. pr. | P. .P; p.p p.p | PP"),
    Case("conv2d", lambda x, w, c: conv2d(x, w, c, stride=2), (f(2, 4, 5, 5), f(6, 4, 2, 2), f(6)), "pr.. pr.. p"),
    Case("conv3d", functional.conv3d, (f(1, 2, 3, 3, 3), f(4, 2, 2, 2, 2)), "1r... pr... | P. .P"),
    Case("convolution", lambda x, w, c: torch.convolution(x, w, c, [1], [0], [1], False, [0], 2),
         (f(2, 6, 7), f(8, 3, 3), f(8)), "p(pr). (pp)r. (pp)"),
    Case("convolution transposed", lambda x, w: torch.convolution(x, w, None, [1], [0], [1], True, [0], 1),
         (f(2, 4, 7), f(4, 6, 3)), "pr. rp. | P. .P"),
    Case("conv_transpose1d", functional.conv_transpose1d, (f(2, 4, 7), f(4, 6, 3), f(6)), "pr. rp. p"),
    Case("conv_transpose1d grouped", lambda x, w: functional.conv_transpose1d(x, w, groups=2), (f(2, 6, 7), f(6, 2, 3)),
         "p(pr). (pr)p. | P. .P"),
    Case("conv_transpose2d", functional.conv_transpose2d, (f(2, 4, 3, 3), f(4, 6, 2, 2)), "pr.. rp.. | P. .P"),
    Case("conv_transpose3d", functional.conv_transpose3d, (f(1, 2, 3, 3, 3), f(2, 4, 2, 2, 2)), "1r... rp... | P. .P"),
    Case("conv2d of odd weights", lambda x, w: conv1d(x.view(1, 6, 5), w.view(4, 6, 2)), (f(2, 3, 5), f(4, 3, 2, 2)),
         "ppp | P; pppp | P; 1(..). .(..). | P. .P"),
    *(Case(name, by_two(getattr(functional, name)), (f(2, 3, 6),), "pp.") for name in (
        "max_pool1d", "avg_pool1d", "adaptive_avg_pool1d")),
    *(Case(name, by_two(getattr(functional, name)), (f(2, 3, 6, 6),), "pp..") for name in (
        "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d")),
    *(Case(name, by_two(getattr(functional, name)), (f(2, 3, 4, 4, 4),), "pp...") for name in (
        "max_pool3d", "avg_pool3d", "adaptive_avg_pool3d")),
    Case("max_pool2d without batch", lambda x: functional.max_pool2d(x, 2), (f(3, 6, 6),), "p.."),
    Case("max_pool1d_with_indices", lambda x: aten.max_pool1d_with_indices(x, [2]), (f(2, 3, 6),), "pp."),
    Case("max_pool2d_with_indices", lambda x: aten.max_pool2d_with_indices(x, [2, 2]), (f(2, 3, 6, 6),), "pp.."),
    Case("adaptive_max_pool1d", lambda x: aten.adaptive_max_pool1d(x, [2]), (f(2, 3, 6),), "pp."),
    *(Case(f"upsample_{name}", along(functional.interpolate, scale_factor=2.0, mode=mode), (f(2, 3, 4, 4),),
           "pp..") for name, mode in (("nearest2d", "nearest"), ("bilinear2d", "bilinear"), ("bicubic2d", "bicubic"))),
    *(Case(f"upsample_{name}", along(functional.interpolate, size=7, mode=mode), (f(2, 3, 4),), "pp.")
      for name, mode in (("nearest1d", "nearest"), ("linear1d", "linear"))),
    *(Case(name, along(getattr(aten, name), padding=[1, 1]), (f(2, 3, 4),), "pp.") for name in (
        "reflection_pad1d", "replication_pad1d")),
    *(Case(name, along(getattr(aten, name), padding=[1, 1, 1, 0]), (f(2, 3, 4, 4),), "pp..") for name in (
        "reflection_pad2d", "replication_pad2d")),
]  # fmt: skip

# --- creation -----------------------------------------------------------------------------------------------------

CREATION = [
    Case("zeros", lambda x: x + torch.zeros(4, 3, dtype=torch.float64), (f(4, 3),), " + pp; pp pp | PP"),
    Case("ones", lambda x: x + torch.ones(3, dtype=torch.float64), (f(4, 3),), " + p; pp p | PP"),
    Case("full", lambda x: x + torch.full((4, 1), 2.0, dtype=torch.float64), (f(4, 3),), " + p; pp p1 | PP"),
    Case("empty", lambda: torch.empty(4, 3), (), " + pp"),
    Case("scalar_tensor", lambda: aten.scalar_tensor(2.0), (), ""),
    Case("new_zeros", lambda x: x + x.new_zeros(4, 3), (f(4, 3),), "pp; pp pp | PP"),
    Case("new_ones", lambda x: x.new_ones(3, 2), (f(4, 3),), "cc + pp"),
    Case("new_full", lambda x: x.new_full((3, 2), 1.0), (f(4, 3),), "cc + pp"),
    Case("new_empty", lambda x: x.new_empty(3, 2), (f(4, 3),), "cc + pp"),
    Case("arange", lambda x: x + torch.arange(3), (f(4, 3),), "; pp p | PP"),
    Case("linspace", lambda x: x + torch.linspace(0, 1, 3), (f(4, 3),), "; pp p | PP"),
    Case("logspace", lambda: torch.logspace(0, 1, 3), (), ""),
    Case("eye", lambda: torch.eye(3, 4), (), ""),
    Case("rand", lambda: torch.rand(3, 4), (), ""),
    Case("randn", lambda: torch.randn(3, 4), (), ""),
    Case("randint", lambda: torch.randint(0, 4, (3, 4)), (), ""),
    Case("randperm", lambda: torch.randperm(4), (), ""),
    Case("tril_indices", lambda: torch.tril_indices(3, 4), (), ""),
    Case("triu_indices", lambda: torch.triu_indices(3, 4), (), ""),
    Case("bernoulli", torch.bernoulli, (u(4, 3),), ".."),
    Case("rand_like", torch.rand_like, (f(4, 3),), ".."),
    Case("randn_like", torch.randn_like, (f(4, 3),), ".."),
    Case("multinomial", lambda x: torch.multinomial(x, 2), (u(4, 3),), ".."),
    Case("hann_window", lambda: torch.hann_window(4), (), ""),
    Case("one_hot", lambda x: functional.one_hot(x, 6), (n(6, 4, 3),), "pp"),
    Case("one_hot of as many as there are", lambda x: functional.one_hot(x), (n(6, 4, 3),), ".."),
    Case("bucketize", lambda x, e: torch.bucketize(x, e), (f(4, 3), rising(5)), "pp ."),
    Case("bucketize a number", lambda e: aten.bucketize.Scalar(1.0, e), (rising(5),), "."),
    Case("searchsorted", lambda e, x: torch.searchsorted(e, x), (rising(5), f(4, 3)), ". pp"),
    Case("searchsorted in rows", lambda e, x: torch.searchsorted(e, x), (rising(5, 4), f(4, 3)), "p. pp"),
    Case(
        "searchsorted in order",
        lambda e, x, o: torch.searchsorted(e, x, sorter=o),
        (f(5), f(4, 3), permuted(5)),
        ". pp .",
    ),
    Case("isin", torch.isin, (i(4, 3), i(5)), "pp ."),
    Case("isin for a number", lambda e: aten.isin.Scalar_Tensor(1, e), (i(5),), "."),
    *(Case(name, getattr(aten, name), (i(4, 3),), "..") for name in ("nonzero", "_unique2", "nonzero_numpy")),
    Case("bincount", torch.bincount, (n(5, 8),), "."),
    Case("histc", torch.histc, (u(8),), "."),
    Case("masked_select", torch.masked_select, (f(4, 3), b(4, 3)), ".. .."),
    Case("meshgrid", lambda x, y: torch.meshgrid(x, y, indexing="ij"), (f(4), f(3)), ". ."),
]

# --- indexing -----------------------------------------------------------------------------------------------------


def put(x: Tensor, *rest: Tensor, at: tuple[Any, ...], add: bool = False) -> Tensor:
    """`rest[-1]` put into x at indices: of `at`, numbers choose among `rest`, None is a whole dim."""
    return aten.index_put.default(x, [None if a is None else rest[a] for a in at], rest[-1], add)


def pick(x: Tensor, *rest: Tensor, at: tuple[Any, ...]) -> Tensor:
    return aten.index.Tensor(x, [None if a is None else rest[a] for a in at])


def case_at(name: str, op: Any, at: tuple[Any, ...], operands: tuple[Make, ...], roles: str, **kwargs: Any) -> Case:
    return Case(name, lambda *x: op(*x, at=at, **kwargs), operands, roles)


INDEXING = [
    Case("embedding", lambda w, x: functional.embedding(x, w), (f(7, 4), n(7, 5, 3)), "lp pp"),
    Case("embedding_bag", lambda w, x, o: functional.embedding_bag(x, w, o), (f(7, 4), n(7, 6), ends(6, 3)), ".p . ."),
    Case("embedding_bag of maxima", lambda w, x, o: functional.embedding_bag(x, w, o, mode="max"),
         (s(7, 4), n(7, 6), ends(6, 3)), ".p . ."),
    *(Case(name, apply(name), (f(7, 4), n(7, 6), ends(6, 3)), ".p . .")
      for name in ("_embedding_bag", "_embedding_bag_forward_only")),
    Case("embedding padded", lambda w, x: functional.embedding(x, w, padding_idx=2), (f(7, 4), n(7, 5)), "lp p"),
    Case("embedding of packed rows", lambda w, x: functional.embedding(x, w.view(3, 3, 4).view(9, 4)),
         (f(9, 4), n(9, 5)), "(pp)p | P; ppp | P; (l.)p p"),
    Case("index_select", lambda x, k: x.index_select(1, k), (f(4, 5, 3), n(5, 6)), "p.p p | P."),
    case_at("index", pick, (0,), (f(5, 4), n(5, 3)), ".p p | P."),
    case_at("index of a middle dim", pick, (None, 0), (f(5, 4, 3), n(4, 2, 6)), "p.p pp | P."),
    case_at("index of two neighbours", pick, (None, 0, 1), (f(5, 4, 3), n(4, 6), n(3, 2, 1)), "p.. p p1 | P.."),
    case_at("index of two apart", pick, (0, None, 1), (f(5, 4, 3), n(5, 6), n(3, 6)), ".p. p p | P.."),
    case_at("index of all dims", pick, (0, 1), (f(5, 4), n(5, 6), n(4, 6)), ".. p p | P.."),
    case_at("index by a mask", pick, (0,), (f(5, 4, 3), b(5, 4)), "..p .."),
    case_at("index by a mask inside", pick, (None, 0), (f(5, 4, 3), b(4)), "..p ."),
    case_at("index by a mask and numbers", pick, (0, 1), (f(5, 4, 3), chosen(1, 0, 1, 0, 1),
            n(4, 3)), "..p . ."),
    case_at("index by numbers of two dims and a mask", pick, (0, 1), (f(5, 4, 3), n(5, 2, 2), chosen(1, 0, 1, 0)),
            "..p .. ."),
    Case("index by constants", lambda x: x[:, [1, 2]], (f(4, 6),), "p(1.c) . | P."),
    Case("index by constants from the end", lambda x: x[:, [-2, -1]], (f(4, 6),), "p(c.) . | P."),
    Case("index by all constants", lambda x: x[[0, 1, 2]], (f(3, 4),), ".p . | P."),
    Case("index by scattered constants", lambda x: x[:, [0, 2, 5]], (f(4, 6),), "p. p | P."),
    Case("index by constants across the end", lambda x: x[:, [-1, 0]], (f(4, 6),), "p. p | P."),
    Case("gather", lambda x, k: x.gather(1, k), (f(4, 5, 3), n(5, 4, 2, 3)), "p.p ppp | P."),
    Case("gather fewer rows", lambda x, k: x.gather(1, k), (f(4, 5), n(5, 2, 3)), ".. .p | P."),
    Case("take_along_dim", lambda x, k: torch.take_along_dim(x, k, 1), (f(4, 5), n(5, 4, 2)), "p. pp | P."),
    Case("take_along_dim broadcast", lambda x, k: torch.take_along_dim(x, k, 1), (f(4, 5), n(5, 1, 2)), ".. 1p | P."),
    Case("take_along_dim flat", lambda x, k: torch.take_along_dim(x, k), (f(4, 5), n(20, 3)), ".. p | P."),
    Case("scatter", lambda x, k, y: x.scatter(1, k, y), (f(4, 5), rows_of(4, 3, 5), f(4, 3)), "p. p. p."),
    Case("scatter of more", lambda x, k, y: x.scatter(1, k, y), (f(4, 5), rows_of(4, 3, 5), f(4, 5)), "p. p. p."),
    Case("scatter of a number", lambda x, k: x.scatter(1, k, 2.0), (f(4, 5), n(5, 4, 3)), "p. p."),
    Case("scatter_add", lambda x, k, y: x.scatter_add(0, k, y), (f(4, 5), n(4, 3, 5), f(3, 5)), ".p .p .p"),
    Case("scatter_add fewer", lambda x, k, y: x.scatter_add(0, k, y), (f(4, 5), n(4, 3, 2), f(3, 5)), ".. .. .."),
    Case("scatter_reduce", lambda x, k, y: x.scatter_reduce(0, k, y, "amax"), (f(4, 5), n(4, 3, 5), f(3, 5)),
         ".p .p .p"),
    Case("index_add", lambda x, k, y: x.index_add(1, k, y), (f(4, 5), n(5, 3), f(4, 3)), "p. . p. | P.P"),
    Case("index_add scaled", lambda x, k, y: x.index_add(1, k, y, alpha=2), (f(4, 5), n(5, 3), f(4, 3)),
         "p. . p. | P.P"),
    Case("index_copy", lambda x, k, y: x.index_copy(0, k, y), (f(5, 4), permuted(5), f(5, 4)), ".p . .p | P.P"),
    Case("index_fill", lambda x, k: x.index_fill(1, k, 2.0), (f(4, 5), n(5, 3)), "p. ."),
    Case("index_fill of a tensor", lambda x, k, v: x.index_fill(1, k, v), (f(4, 5), n(5, 3), f()), "p. . () | P.P"),
    case_at("index_put", put, (0,), (f(5, 4), permuted(5), f(5, 4)), ".p . .p | P.P"),
    case_at("index_put adding", put, (0,), (f(5, 4), n(5, 3), f(3, 4)), ".p . .p | P.P", add=True),
    case_at("index_put of a middle dim", put, (None, 0), (f(5, 4, 3), permuted(4), f(5, 4, 3)), "p.p . p.p | P.P"),
    case_at("index_put broadcast", put, (None, 0), (f(5, 4, 3), n(4, 2), f(1, 3)), "p.p . 1p | P.P"),
    case_at("index_put of a number", put, (0,), (f(5, 4), n(5, 2), f()), ".p . () | P.P"),
    case_at("index_put of two neighbours", put, (0, 1), (f(5, 4, 3), n(5, 2), n(4, 2), f(3)), "..p . . p | P..P"),
    case_at("index_put of two apart", put, (0, None, 1), (f(5, 4, 3), permuted(3), permuted(3), f(3, 4)),
         ".p. . . .p | P..P"),
    case_at("index_put by a mask", put, (0,), (f(5, 4), b(5, 4), f()), ".. .. ()"),
    Case("masked_scatter", lambda x, m, y: x.masked_scatter(m, y), (f(5, 4), b(5, 4), f(5, 4)), ".. .. .."),
]  # fmt: skip

# --- recurrence ---------------------------------------------------------------------------------------------------


def weights(gates: int) -> tuple[Make, ...]:
    """Of 5 features and a state of 4: input and state weights, and their biases."""
    return u(gates * 4, 5), u(gates * 4, 4), u(gates * 4), u(gates * 4)


def run_layer(op: Any, states: int, batch_first: bool = False) -> Callable[..., Any]:
    def run(x: Tensor, *rest: Tensor) -> Any:
        given = rest[0] if states == 1 else rest[:states]
        return op(x, given, rest[states:], True, 1, 0.0, False, False, batch_first)

    return run


RECURRENT = [
    Case("lstm", run_layer(torch.lstm, 2), (u(3, 2, 5), u(1, 2, 4), u(1, 2, 4), *weights(4)),
         ".p. 1p. 1p. .. .. . ."),
    Case("lstm, batch first", run_layer(torch.lstm, 2, True), (u(2, 3, 5), u(1, 2, 4), u(1, 2, 4), *weights(4)),
         "p.. 1p. 1p. .. .. . ."),
    Case("gru", run_layer(torch.gru, 1), (u(3, 2, 5), u(1, 2, 4), *weights(3)), ".p. 1p. .. .. . ."),
    Case("rnn_tanh", run_layer(torch.rnn_tanh, 1), (u(3, 2, 5), u(1, 2, 4), *weights(1)), ".p. 1p. .. .. . ."),
    Case("rnn_relu", run_layer(torch.rnn_relu, 1), (u(3, 2, 5), u(1, 2, 4), *weights(1)), ".p. 1p. .. .. . ."),
    Case("gru of packed sequences",
         lambda x, lengths, h, *w: torch.gru(x, lengths, h, w, True, 1, 0.0, False, False),
         (u(5, 5), lambda rng: torch.tensor([2, 2, 1]), u(1, 2, 4), *weights(3)), ".. . 1.. .. .. . ."),
    Case("lstm_cell", lambda x, h, c, *w: torch.lstm_cell(x, (h, c), *w), (u(2, 5), u(2, 4), u(2, 4), *weights(4)),
         "p. p. p. .. .. . ."),
    Case("gru_cell", torch.gru_cell, (u(2, 5), u(2, 4), *weights(3)), "p. p. .. .. . ."),
    Case("rnn_tanh_cell", torch.rnn_tanh_cell, (u(2, 5), u(2, 4), *weights(1)), "p. p. .. .. . ."),
    Case("rnn_relu_cell", torch.rnn_relu_cell, (u(2, 5), u(2, 4), *weights(1)), "p. p. .. .. . ."),
]  # fmt: skip

READING = [Case("read", lambda x: x.sum(1).tolist(), (f(4, 3),), "pr | P; .")]
CASES = [
    *POINTWISE, *CONTRACTION, *VIEW, *TRANSFORM, *REDUCTION, *NORMALIZATION, *ATTENTION, *CONVOLUTION, *CREATION,
    *INDEXING, *RECURRENT, *READING,
]  # fmt: skip
