"""Python looks at a tensor's numbers (`item`, `bool`, `tolist`, `torch.equal`): every rank must see the same ones."""

from __future__ import annotations

from axisplit.axes.law import Law, NodeView, rule


@rule("_local_scalar_dense")
def read(view: NodeView) -> Law:
    """X [...] -> no tensor."""
    everything = [axis for dims in view.operand_dims() for axis in dims]
    return Law("reading", [], everything, reason="Python looks at its numbers")


__all__ = ["read"]
