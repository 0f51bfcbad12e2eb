"""Products that sum over shared indices, written as einsum specifications.

A letter is an index; one that is missing from the result is summed over (reduce); `...` stands for broadcast dims,
summed over as well where the result has none. Operands behind `+` are added to the result.

    linear   x[..., k] w[n, k] + b[n] -> [..., n]
"""

from __future__ import annotations

from axisplit.axes.expression import Axis
from axisplit.axes.law import Dims, Law, NodeView, rule
from axisplit.axes.rules.pointwise import broadcast, joined_shape
from axisplit.capture.graph import Ref

SPECIFICATIONS = {
    "linear": "...k,nk->...n + n",
    "mm": "ik,kj->ij",
    "bmm": "bik,bkj->bij",
    "mv": "ik,k->i",
    "dot": "k,k->",
    "vdot": "k,k->",
    "outer": "i,j->ij",
    "bilinear": "...a,...b,nab->...n + n",
}


def contract(view: NodeView, spec: str, operands: list[Ref], added: list[Ref]) -> Law:
    """Apply an einsum specification to operands (and operands that are added to the result)."""
    left, right = spec.split("->")
    front, kept, back = right.partition("+")[0].strip().partition("...")
    letters: dict[str, Axis] = {}
    refused: list[Axis] = []
    batch: list[Dims] = []
    for term, operand in zip(left.split(","), operands, strict=True):
        dims = view.dims(operand)
        head, dots, tail = term.strip().partition("...")
        named = list(zip(head, dims, strict=False))
        if dots:
            batch.append(dims[len(head) : len(dims) - len(tail)])
            named += list(zip(tail, dims[len(dims) - len(tail) :], strict=True))
        for letter, axis in named:
            refused += _meet(view, letters, letter, axis)
    batch_dims, refused_batch = broadcast(view, batch, joined_shape(batch))
    refused += refused_batch
    output = (*(letters[name] for name in front), *(batch_dims if kept else ()), *(letters[name] for name in back))
    for operand in added:
        _, failed = broadcast(view, [output, view.dims(operand)], view.output_shapes()[0])
        refused += failed
    reduced = [axis for letter, axis in letters.items() if letter not in front + back]
    reduced += () if kept else batch_dims
    positions = {id(operand): position for position, operand in enumerate(_refs(view))}
    linear = tuple(frozenset({positions[id(o)]}) for o in operands) if not added else ()
    additive = frozenset(positions[id(operand)] for operand in added)
    reason = "the same index letter meets two different indices" if refused else ""
    return Law("contraction", [output], refused, reduced, linear=linear, additive=additive, reason=reason)


def _meet(view: NodeView, letters: dict[str, Axis], letter: str, axis: Axis) -> list[Axis]:
    known = letters.get(letter)
    if known is None or known.size == 1:
        letters[letter] = axis
    elif axis.size != 1 and not view.axes.unify(known, axis):
        return [known, axis]
    return []


def _refs(view: NodeView) -> list[Ref]:
    found: list[Ref] = []

    def walk(tree: object) -> None:
        if isinstance(tree, Ref):
            found.append(tree)
        elif isinstance(tree, (tuple, list)):
            for item in tree:
                walk(item)

    walk(view.node.args)
    walk(list(view.node.kwargs.values()))
    return found


@rule(*SPECIFICATIONS)
def by_specification(view: NodeView) -> Law:
    spec = SPECIFICATIONS[view.node.op._opname]
    refs = _refs(view)
    if view.node.op._opname == "linear" and len(view.dims(refs[1])) == 1:
        spec = "...k,k->..."
    count = spec.split("->")[0].count(",") + 1
    return contract(view, spec, refs[:count], refs[count:])


@rule("addmm", "baddbmm", "addmv", "addbmm")
def added_product(view: NodeView) -> Law:
    bias, *factors = _refs(view)
    specs = {"addmm": "ik,kj->ij", "baddbmm": "bik,bkj->bij", "addmv": "ik,k->i", "addbmm": "bik,bkj->ij"}
    return contract(view, specs[view.node.op._opname], factors, [bias])


@rule("matmul")
def matmul(view: NodeView) -> Law:
    """Numpy's matmul: vectors lose their dim, leading dims broadcast."""
    left, right = _refs(view)
    a, b = len(view.dims(left)), len(view.dims(right))
    spec = {(1, 1): "k,k->", (1, 2): "k,kj->j", (2, 1): "ik,k->i"}.get((a, b))
    if spec is None:
        spec = "...k,k->..." if b == 1 else "k,...kj->...j" if a == 1 else "...ik,...kj->...ij"
    return contract(view, spec, [left, right], [])


@rule("einsum")
def einsum(view: NodeView) -> Law:
    """The specification is the op's own; repeated letters in one operand (diagonals) need their index whole."""
    equation = str(view.argument(0)).replace(" ", "")
    left, arrow, right = equation.partition("->")
    if not arrow:
        names = left.replace(",", "").replace("...", "")
        right = "..." * ("..." in left) + "".join(sorted(c for c in set(names) if names.count(c) == 1))
    law = contract(view, f"{left}->{right}", _refs(view), [])
    if any(len(set(term.replace("...", ""))) != len(term.replace("...", "")) for term in left.split(",")):
        law.whole += [axis for dims in view.operand_dims() for axis in dims]
        law.reason = "a diagonal is taken"
    return law


@rule("_grouped_mm")
def grouped_mm(view: NodeView) -> Law:
    """Rows [t, k] of expert after expert against weights [e, k, n]: which rows are whose depends on the data."""
    rows, weights, *_ = _refs(view)
    if len(view.dims(weights)) != 3 or len(view.dims(rows)) != 2:
        whole = [axis for dims in view.operand_dims() for axis in dims]
        outputs = [view.fresh(s) for s in view.output_shapes()]
        return Law("contraction", outputs, whole, reason="grouped product of ragged operands")
    law = contract(view, "tk,ekn->tn", [rows, weights], [])
    experts = view.dims(weights)[0]
    law.reduce = [axis for axis in law.reduce if axis is not experts]
    law.whole += [experts, view.dims(rows)[0], *(axis for ref in _refs(view)[2:] for axis in view.dims(ref))]
    law.reason = "rows are assigned to experts by the data"
    step = 16 // view.dtype_bytes(rows)  # the kernel wants rows of 16 bytes
    law.multiples = [(axis, step) for axis in (*view.dims(rows)[1:], *view.dims(weights)[1:])]
    return law
