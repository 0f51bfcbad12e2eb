"""Shards: what ranks hold of a dim puts the dim together again."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from axisplit.axes.derive import Derived
from axisplit.axes.expression import Axes, Axis
from axisplit.runtime.layout import Layout, check_layout
from axisplit.solve.shards import LocalPart, held_by, layout_of, local_ranges, self_products
from axisplit.solve.splits import make_split
from axisplit.solve.ties import AxisKeys


@dataclass
class Forest:
    axes: Axes = field(default_factory=Axes)
    leaves: dict[str, Axis] = field(default_factory=dict)

    def draw(self, draw: st.DrawFn, size: int, depth: int = 2) -> Axis:
        """Any expression of a size; leaves come back under the same name."""
        divisors = [d for d in range(2, size) if size % d == 0]
        form = draw(st.sampled_from(["leaf", "sum", "product"])) if depth and size > 1 else "leaf"
        if form == "product" and divisors:
            inner = draw(st.sampled_from(divisors))
            return self.axes.product([self.draw(draw, size // inner, depth - 1), self.draw(draw, inner, depth - 1)])
        if form == "sum":
            first = draw(st.integers(1, size - 1))
            return self.axes.sum([self.draw(draw, first, depth - 1), self.draw(draw, size - first, depth - 1)])
        name = f"{draw(st.sampled_from('ab'))}{size}"
        return self.leaves.setdefault(name, self.axes.leaf(size))


@st.composite
def split_dims(draw: st.DrawFn) -> tuple[Derived, AxisKeys, tuple[str, ...], int]:
    forest = Forest()
    axis = forest.draw(draw, draw(st.sampled_from([4, 6, 8, 12, 18, 24])))
    dims = (forest.axes.leaf(2), axis, forest.axes.leaf(3))
    derived = Derived(None, forest.axes, {0: dims}, [])  # type: ignore[arg-type]
    found = sorted({leaf for leaf in forest.axes.leaves(axis) if leaf.size > 1}, key=lambda leaf: leaf.index)
    assume(found)
    keys = AxisKeys({leaf: f"axis {leaf.index}" for leaf in found})
    first = draw(st.sampled_from(found))
    ranks = draw(st.integers(2, 4))
    if first.size >= ranks:
        return derived, keys, (keys[first],), ranks
    others = [leaf for leaf in found if leaf is not first]
    assume(others)
    return derived, keys, (keys[first], keys[draw(st.sampled_from(others))]), ranks


@given(split_dims())
def test_gather_undoes_shard(case: tuple[Derived, AxisKeys, tuple[str, ...], int]) -> None:
    derived, keys, axes, ranks = case
    sizes = {key: leaf.size for leaf, key in keys.items()}
    split = make_split("x", axes, tuple(sizes[axis] for axis in axes), ranks, uneven=True)
    assume(split is not None)
    assert split is not None
    found = layout_of(derived, 0, split, keys)
    if found is None:
        assert any(keys.get(leaf) in axes for leaf in self_products(derived, 0))
        return
    layout = Layout(*found)
    check_layout(layout)
    shape = [axis.size for axis in derived.dims[0]]
    x = torch.arange(torch.Size(shape).numel()).view(shape)
    parts = [layout.take(x, rank) for rank in range(ranks)]
    assert torch.equal(layout.assemble(parts), x)
    axis = derived.dims[0][1]
    for rank, part in enumerate(parts):
        held = held_by(split, keys, rank)
        indices = [i for a, b in local_ranges(derived.axes, axis, held) for i in range(a, b)]
        assert torch.equal(part, x[:, indices])
        assert LocalPart(derived.axes, held)(axis) == len(indices)


def test_leading_factors_are_not_part_of_the_period() -> None:
    """[batch * heads] is cut by heads for any batch."""
    axes = Axes()
    batch, heads, size = axes.leaf(2), axes.leaf(6), axes.leaf(4)
    derived = Derived(None, axes, {0: (axes.product([batch, heads, size]),)}, [])  # type: ignore[arg-type]
    split = make_split("heads", ("heads",), (6,), 2, uneven=True)
    assert split is not None
    assert layout_of(derived, 0, split, AxisKeys({heads: "heads"})) == (0, 24, (((0, 12),), ((12, 24),)))


def test_a_dim_that_multiplies_with_itself_has_no_layout() -> None:
    """Parts of x + x.T, or of a [d * d] dim, are only its diagonal blocks."""
    axes = Axes()
    d = axes.leaf(4)
    values = {0: (d, d), 1: (axes.product([d, d]),), 2: (axes.sum([d, axes.product([d, axes.leaf(3)])]),)}
    derived = Derived(None, axes, values, [])  # type: ignore[arg-type]
    split = make_split("d", ("d",), (4,), 2, uneven=True)
    assert split is not None
    keys = AxisKeys({d: "d"})
    assert layout_of(derived, 0, split, keys) is None
    assert layout_of(derived, 1, split, keys) is None
    assert layout_of(derived, 2, split, keys) is not None


def test_a_part_knows_where_it_starts() -> None:
    axes = Axes()
    outer, inner = axes.leaf(4), axes.leaf(3)
    whole = axes.product([outer, inner])
    assert LocalPart(axes, {outer: (1, 3)}).start(whole) == 3
    assert LocalPart(axes, {outer: (1, 3)}).start(inner) == 0
    assert LocalPart(axes, {inner: (1, 3)}).start(whole) is None  # four ranges
