"""Fourier transforms: the transformed dims are needed whole, the others pass; all are linear."""

from __future__ import annotations

from axisplit.axes.law import Law, NodeView, rule

LINEAR = (frozenset({0}),)
REASON = "every element of its transform needs all of it"
_ONE = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")


@rule(
    *(f"fft_{name}" for name in _ONE),
    *(f"fft_{name}{count}" for name in _ONE for count in ("2", "n")),
    "fft_fftshift",
    "fft_ifftshift",
)
def fourier(view: NodeView) -> Law:
    """X [..., n] -> [..., m] along `dim`; of several dims the last ones if only their sizes are given, else all."""
    dims, (shape,) = view.dims(0), view.output_shapes()
    chosen, sizes = view.argument("dim"), view.argument("s") if view.has("s") else None
    if chosen is None:
        chosen = range(-len(sizes), 0) if sizes is not None else range(len(dims))
    gone = {view.dim(d, len(dims)) for d in ([chosen] if isinstance(chosen, int) else chosen)}
    output = tuple(view.axes.leaf(shape[d]) if d in gone else axis for d, axis in enumerate(dims))
    return Law("transform", [output], [dims[d] for d in sorted(gone)], linear=LINEAR, reason=REASON)


@rule("stft", "istft")
def short_time(view: NodeView) -> Law:
    """X [B, time] -> [B, frequency, frame] (then real and imaginary parts), or back: a batch of signals passes."""
    dims, (shape,) = view.dims(0), view.output_shapes()
    batch = dims[: len(dims) - (1 if view.node.op._opname == "stft" else 2)]
    batch = batch if len(batch) == 1 and shape[:1] == (batch[0].size,) else ()
    whole = [axis for operand in view.operand_dims() for axis in operand if axis not in batch]
    return Law("transform", [(*batch, *view.fresh(shape[len(batch) :]))], whole, linear=LINEAR, reason=REASON)


__all__ = ["fourier", "short_time"]
