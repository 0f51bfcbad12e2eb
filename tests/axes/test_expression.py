"""The axis algebra: what may be said to be the same index, and that a refusal leaves no trace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axisplit.axes.expression import Axes, Axis
from axisplit.solve.shards import local_length, local_ranges

# A recipe describes an expression without making it: ("leaf", name, size), ("product", parts) or ("sum", parts).
# Leaves of one name are one leaf, so expressions share structure, at other places too.
Recipe = tuple[str, object, object]


@st.composite
def recipes(draw: st.DrawFn, size: int | None = None, depth: int = 2) -> Recipe:
    """Any expression of a size."""
    if size is None:
        size = draw(st.sampled_from([1, 2, 3, 4, 5, 6, 8, 9, 12]))
    divisors = [d for d in range(2, size) if size % d == 0]
    form = draw(st.sampled_from(["leaf", "sum", "product"])) if depth and size > 1 else "leaf"
    if form == "product" and divisors:
        inner = draw(st.sampled_from(divisors))
        sizes = [size // inner, inner]
    elif form == "sum":
        first = draw(st.integers(1, size - 1))
        sizes = [first, size - first]
    else:
        return ("leaf", f"{draw(st.sampled_from('abc'))}{size}", size)
    return (form, tuple(draw(recipes(one, depth - 1)) for one in sizes), None)


@st.composite
def equal_pairs(draw: st.DrawFn) -> list[tuple[Recipe, Recipe]]:
    """A few pairs of recipes of equal sizes, to be unified one after the other."""
    sizes = draw(st.lists(st.sampled_from([2, 4, 6, 8, 9, 12]), min_size=1, max_size=4))
    return [(draw(recipes(size)), draw(recipes(size))) for size in sizes]


class Builder:
    """Makes recipes in one forest; `eager` makes all leaves first, in reverse."""

    def __init__(self, eager: list[Recipe] | None = None) -> None:
        self.axes = Axes()
        self.leaves: dict[object, Axis] = {}
        for recipe in reversed(eager or []):
            self._declare(recipe)

    def _declare(self, recipe: Recipe) -> None:
        form, parts, size = recipe
        if form == "leaf":
            self.leaves.setdefault(parts, self.axes.leaf(size))  # type: ignore[arg-type]
            return
        for part in reversed(parts):  # type: ignore[call-overload]
            self._declare(part)

    def make(self, recipe: Recipe) -> Axis:
        form, parts, size = recipe
        if form == "leaf":
            if parts not in self.leaves:
                self.leaves[parts] = self.axes.leaf(size)  # type: ignore[arg-type]
            return self.leaves[parts]
        made = [self.make(part) for part in parts]  # type: ignore[attr-defined]
        return self.axes.product(made) if form == "product" else self.axes.sum(made)


def forest(axes: Axes, found: list[Axis]) -> list[tuple[str, list[int]]]:
    """What the axes are, up to names: their expressions and which of their leaves are the same."""
    numbers: dict[Axis, int] = {}
    return [(axes.show(a), [numbers.setdefault(leaf, len(numbers)) for leaf in axes.leaves(a)]) for a in found]


@settings(max_examples=150)
@given(equal_pairs())
def test_unify_is_symmetric_blind_to_order_and_traceless_when_refused(pairs: list[tuple[Recipe, Recipe]]) -> None:
    recipes_in_order = [r for pair in pairs for r in pair]
    here, there = Builder(), Builder(recipes_in_order)
    left = [(here.make(a), here.make(b)) for a, b in pairs]
    right = [(there.make(a), there.make(b)) for a, b in pairs]
    mine, theirs = [x for pair in left for x in pair], [x for pair in right for x in pair]
    for (a, b), (c, d) in zip(left, right, strict=True):
        before = forest(here.axes, mine)
        done = here.axes.unify(a, b)
        assert there.axes.unify(d, c) == done
        assert forest(here.axes, mine) == forest(there.axes, theirs)
        if done:
            assert here.axes.unify(a, b)
            assert here.axes.unify(b, a)
        else:
            assert forest(here.axes, mine) == before


def degree(axes: Axes, axis: Axis, leaf: Axis) -> int:
    """How often a leaf multiplies inside an axis: held in part, a leaf that meets itself covers only a diagonal."""
    axis = axes.find(axis)
    if axis.form == "leaf":
        return int(axis is leaf)
    found = [degree(axes, part, leaf) for part in axis.parts]
    return sum(found) if axis.form == "product" else max(found)


@settings(max_examples=150)
@given(equal_pairs(), st.data())
def test_equal_axes_hold_the_same_indices(pairs: list[tuple[Recipe, Recipe]], data: st.DataObject) -> None:
    """The semantics: give every leaf a range; equal axes must pick equal flat indices, and parts make the whole."""
    builder = Builder()
    axes, made = builder.axes, [(builder.make(a), builder.make(b)) for a, b in pairs]
    equal = [pair for pair in made if axes.unify(*pair)]
    leaves = sorted({x for pair in equal for axis in pair for x in axes.leaves(axis)}, key=lambda x: x.index)
    leaves = [leaf for leaf in leaves if leaf.size > 1]  # others carry no index
    cuts = {leaf: data.draw(st.integers(0, leaf.size), label=str(leaf)) for leaf in leaves}
    held = {leaf: (0, cut) for leaf, cut in cuts.items()}
    for a, b in equal:
        assert local_ranges(axes, a, held) == local_ranges(axes, b, held)
        assert local_length(axes, a, held) == sum(y - x for x, y in local_ranges(axes, a, held))
        for leaf in axes.leaves(a):
            if leaf.size > 1 and degree(axes, a, leaf) == 1:
                parts = [local_ranges(axes, a, {leaf: r}) for r in ((0, cuts[leaf]), (cuts[leaf], leaf.size))]
                indices = sorted(i for part in parts for x, y in part for i in range(x, y))
                kept = [i for x, y in local_ranges(axes, a, {leaf: (0, 0)}) for i in range(x, y)]
                assert set(indices) == set(range(a.size))
                assert len(indices) == a.size + len(kept)  # only what does not depend on the leaf is held twice


@settings(max_examples=100)
@given(recipes(), st.data())
def test_what_was_cut_adds_up(recipe: Recipe, data: st.DataObject) -> None:
    builder = Builder()
    axes, axis = builder.axes, builder.make(recipe)
    bounds = sorted(data.draw(st.lists(st.integers(0, axis.size), max_size=3), label="bounds"))
    sizes = [b - a for a, b in zip([0, *bounds], [*bounds, axis.size], strict=True)]
    before = forest(axes, [axis])
    plain = all(degree(axes, axis, leaf) == 1 for leaf in axes.leaves(axis))
    pieces = axes.cut(axis, sizes)
    if pieces is None:
        assert forest(axes, [axis]) == before
        return
    assert [piece.size for piece in pieces] == sizes
    together = axes.sum(pieces)
    assert axes.unify(together, axis) or not plain
    held = {leaf: (leaf.size // 2, leaf.size) for leaf in axes.leaves(axis) if leaf.size > 1}
    assert local_ranges(axes, together, held) == local_ranges(axes, axis, held)


# --- examples -----------------------------------------------------------------------------------------------------


def product(axes: Axes, *factors: Axis | int) -> Axis:
    return axes.product([axes.leaf(f) if isinstance(f, int) else f for f in factors])


def attend(axes: Axes, q: Axis, k: Axis, v: Axis, heads: int, groups: int, size: int) -> Axis:
    """View q as [kv, group, d], k and v as [kv, d], and multiply them: the kv axis they share."""
    kv, features = axes.leaf(heads), axes.leaf(size)
    assert axes.unify(q, product(axes, kv, groups, features))
    assert axes.unify(k, product(axes, kv, features))
    assert axes.unify(v, product(axes, kv, size))
    return kv


def held_by_halves(axes: Axes, axis: Axis, split: Axis) -> list[list[tuple[int, int]]]:
    leaf = axes.find(split)
    return [local_ranges(axes, axis, {leaf: r}) for r in ((0, leaf.size // 2), (leaf.size // 2, leaf.size))]


def test_packed_qkv_of_gpt2() -> None:
    axes = Axes()
    packed = axes.leaf(3 * 12)
    pieces = axes.cut(packed, [12, 12, 12])
    assert pieces is not None
    heads = attend(axes, *pieces, heads=4, groups=1, size=3)
    assert axes.show(packed) == "4*3 + 4*3 + 4*3"
    assert held_by_halves(axes, packed, heads)[1] == [(6, 12), (18, 24), (30, 36)]


def test_packed_qkv_of_grouped_queries() -> None:
    axes = Axes()
    packed = axes.leaf(50)
    pieces = axes.cut(packed, [30, 10, 10])
    assert pieces is not None
    heads = attend(axes, *pieces, heads=2, groups=3, size=5)
    assert axes.show(packed) == "2*3*5 + 2*5 + 2*5"
    assert held_by_halves(axes, packed, heads)[0] == [(0, 15), (30, 35), (40, 45)]


def test_packed_qkv_of_neox() -> None:
    """Each head's q, k and v lie side by side: view [heads, 3 * d], then cut the last dim."""
    axes = Axes()
    packed, heads, inner = axes.leaf(4 * 3 * 5), axes.leaf(4), axes.leaf(15)
    assert axes.unify(packed, axes.product([heads, inner]))
    pieces = axes.cut(inner, [5, 5, 5])
    assert pieces is not None
    assert axes.show(packed) == "4*(5 + 5 + 5)"
    assert held_by_halves(axes, packed, heads)[0] == [(0, 30)]
    assert held_by_halves(axes, packed, axes.leaf(4))[0] == [(0, 60)]


def test_packed_qkv_of_falcon() -> None:
    """Multi-query: (group + 2) rows of d features, first viewed, then cut; or first cut, then viewed."""
    for view_first in (True, False):
        axes = Axes()
        packed, rows, features = axes.leaf(6 * 4), axes.leaf(6), axes.leaf(4)
        viewed: Callable[[], bool] = lambda: axes.unify(packed, axes.product([rows, features]))  # noqa: B023, E731
        if view_first:
            assert viewed()
            pieces = axes.cut(rows, [4, 1, 1])
        else:
            pieces = axes.cut(packed, [16, 4, 4])
            assert viewed()
        assert pieces is not None
        assert axes.show(packed) in ("(4 + 1 + 1)*4", "4*4 + 4 + 4")
        assert axes.show(rows) == "4 + 1 + 1"
        heads = next(iter(axes.leaves(rows)))
        assert held_by_halves(axes, packed, heads)[1] == [(8, 24)]  # heads 2 and 3, and the one k and v
        assert held_by_halves(axes, packed, features)[0] == [(i, i + 2) for i in range(0, 24, 4)]


def test_gate_up_joined_and_interleaved() -> None:
    axes = Axes()
    packed = axes.leaf(12)
    pieces = axes.cut(packed, [6, 6])
    assert pieces is not None
    assert axes.unify(*pieces)
    assert held_by_halves(axes, packed, pieces[0])[1] == [(3, 6), (9, 12)]
    other = axes.leaf(12)  # a second packed tensor, cut the same way, and both halves are the same axis as well
    halves = axes.cut(other, [6, 6])
    assert halves is not None
    assert axes.unify_all([(halves[0], pieces[0]), (halves[1], pieces[1])])
    assert axes.unify(packed, other)
    interleaved, ffn, which = axes.leaf(12), axes.leaf(6), axes.leaf(2)
    assert axes.unify(interleaved, axes.product([ffn, which]))
    assert held_by_halves(axes, interleaved, ffn)[1] == [(6, 12)]


def test_products_refine_to_their_common_cut() -> None:
    axes = Axes()
    a, b = product(axes, 4, 6), product(axes, 2, 12)
    assert axes.unify(a, b)
    assert axes.show(a) == axes.show(b) == "2*2*6"
    c, d = product(axes, 4, 6), product(axes, 6, 4)
    assert not axes.unify(c, d)
    assert (axes.show(c), axes.show(d)) == ("4*6", "6*4")


@pytest.mark.parametrize("size", [2, 8, 4096])
@pytest.mark.parametrize("shift", [1, 2])
@pytest.mark.parametrize("inner", [1, 3])
def test_an_axis_is_not_its_own_neighbour(size: int, shift: int, inner: int) -> None:
    """x[shift:] - x[:-shift] ends, and does not cut the axis into single indices."""
    axes = Axes()
    outer = axes.leaf(size)
    whole = axes.product([outer, axes.leaf(inner)])
    if shift >= size:
        return
    tail = axes.cut(whole, [shift * inner, (size - shift) * inner])
    head = axes.cut(whole, [(size - shift) * inner, shift * inner])
    assert tail is not None
    assert head is not None
    same = axes.unify(tail[1], head[0])
    assert same == (size <= 2 * shift)  # where the two do not overlap, they are two halves
    assert len(axes.segments(whole)) <= 3


def test_a_leaf_inside_itself_is_refused() -> None:
    axes = Axes()
    a = axes.leaf(4)
    big = axes.leaf(8)
    assert axes.unify(big, axes.product([a, axes.leaf(2)]))
    two = axes.cut(a, [2, 2])
    assert two is not None
    assert not axes.unify(two[0], axes.product([two[0], axes.leaf(1), axes.leaf(1)])) or axes.show(big) == "(2 + 2)*2"


def test_empty_dims_have_no_structure() -> None:
    axes = Axes()
    a, b = product(axes, 0, 3), product(axes, 3, 0)
    axes.unify(a, b)
    pieces = axes.cut(axes.leaf(5), [0, 5, 0])
    assert pieces is not None
    assert [p.size for p in pieces] == [0, 5, 0]


def test_rows_and_columns_of_a_square_stay_apart() -> None:
    axes = Axes()
    row, column, hidden, other = (axes.leaf(6) for _ in range(4))
    axes.keep_apart(row, column)
    assert axes.unify(hidden, column)
    assert not axes.unify(row, hidden)  # by way of a third
    assert axes.unify(row, axes.product([axes.leaf(2), axes.leaf(3)]))
    assert not axes.unify_all([(hidden, axes.product([axes.leaf(2), axes.leaf(3)])), (hidden, row)])
    assert (axes.show(row), axes.show(column)) == ("2*3", "6")  # a refusal leaves no trace
    outer, inner = axes.factors(row)
    assert not axes.unify(column, axes.product([axes.leaf(3), outer]))  # not even in a factor
    assert not axes.unify(column, axes.sum([inner, axes.leaf(3)]))
    assert axes.unify(other, row)
    assert not axes.unify(other, column)
