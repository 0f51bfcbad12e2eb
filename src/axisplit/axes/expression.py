"""The axis algebra: what a tensor dim is made of.

    axis = leaf(size) | product(outer, ..., inner) | sum(segment, ..., segment)

`view` makes and splits products, `cat`, `split` and `slice` make and cut sums, and `unify(a, b)` says that two dims
count the same index. Axes are nodes of a union-find forest: a leaf may later be bound to another axis or refined to a
product or a sum, everywhere at once.

    unify(leaf, x)            the leaf becomes x, unless it occurs inside x
    unify(product, product)   both are refined to the common cut of their factors, from the inside out
    unify(sum, sum)           both are refined to the common cut of their segments
    unify(product, sum)       the inner factor is taken out of every segment: a*h + b*h = (a + b)*h
    otherwise                 refused: the two indices cannot be shown to be the same

A refused `unify` leaves no trace (every binding is on a trail and undone), because a half-made link is a false law.

`keep_apart(a, b)` refuses from then on whatever would make two axes share an index: the rows and columns of a square
matrix stay two things to split, wherever a residual lets its result meet its operand.

Packed QKV of 2 kv heads, groups of 3 and head size 5, 50 wide: the split at 30 and 40 makes
`sum(30, 10, 10)`; viewing the parts as heads refines it to `2*3*5 + 2*5 + 2*5`, and the 2 in all three segments becomes
one axis as soon as attention multiplies them.

>>> space = Axes()
>>> packed = space.leaf(50)
>>> q, k, v = space.cut(packed, [30, 10, 10])
>>> space.unify(q, space.product([space.leaf(2), space.leaf(3), space.leaf(5)]))
True
>>> space.show(packed)
'2*3*5 + 10 + 10'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Form = Literal["leaf", "product", "sum"]


@dataclass(slots=True, eq=False)
class Axis:
    """A node of the forest. Read it through `Axes`, which follows bindings."""

    index: int
    size: int
    form: Form = "leaf"
    parts: tuple[Axis, ...] = ()
    bound: Axis | None = None

    def __repr__(self) -> str:
        return f"Axis({self.index}: {self.size})"


class Axes:
    """The forest. Sizes are those of the traced example; a leaf that stems from an input is symbolic by nature."""

    def __init__(self) -> None:
        self._count = 0
        self._known: dict[Axis, tuple[Axis, ...]] | None = None
        self._trail: list[tuple[Axis, Form, tuple[Axis, ...], Axis | None]] = []
        self._apart: dict[Axis, list[tuple[Axis, Axis]]] = {}  # leaf -> pairs of axes that it must not join

    # --- making ---------------------------------------------------------------------------------------------------

    def leaf(self, size: int) -> Axis:
        self._count += 1
        return Axis(self._count, size)

    def product(self, factors: Sequence[Axis]) -> Axis:
        """Outer … inner; factors of size 1 carry no index and are dropped."""
        kept = [factor for factor in factors if factor.size != 1]
        if len(kept) == 1:
            return kept[0]
        if not kept:
            return self.leaf(1)
        size = 1
        for factor in kept:
            size *= factor.size
        self._count += 1
        return Axis(self._count, size, "product", tuple(kept))

    def sum(self, segments: Sequence[Axis]) -> Axis:
        """Segments laid end to end; empty ones are dropped."""
        kept = [segment for segment in segments if segment.size != 0]
        if len(kept) == 1:
            return kept[0]
        if not kept:
            return self.leaf(0)
        self._count += 1
        return Axis(self._count, sum(s.size for s in kept), "sum", tuple(kept))

    # --- reading --------------------------------------------------------------------------------------------------

    def find(self, axis: Axis) -> Axis:
        while axis.bound is not None:
            axis = axis.bound
        return axis

    def factors(self, axis: Axis) -> list[Axis]:
        """Flattened product factors, outer to inner; a leaf or sum is its own only factor."""
        axis = self.find(axis)
        if axis.form != "product":
            return [axis]
        return [factor for part in axis.parts for factor in self.factors(part)]

    def segments(self, axis: Axis) -> list[Axis]:
        """Flattened segments; `(a + b) * h` is read as `a*h + b*h`."""
        axis = self.find(axis)
        if axis.form == "sum":
            return [segment for part in axis.parts for segment in self.segments(part)]
        factors = self.factors(axis)
        if len(factors) > 1 and factors[0].form == "sum":
            made = [self.product([outer, *factors[1:]]) for outer in self.segments(factors[0])]
            return [segment for one in made for segment in self.segments(one)]  # 1 * (a + b) is a + b
        return [axis]

    def leaves(self, axis: Axis) -> tuple[Axis, ...]:
        """The leaves of an axis in order, with repetitions."""
        axis = self.find(axis)
        if axis.form == "leaf":
            return (axis,)
        found = None if self._known is None else self._known.get(axis)
        if found is None:
            found = tuple(leaf for part in axis.parts for leaf in self.leaves(part))
            if self._known is not None:
                self._known[axis] = found
        return found

    def freeze(self) -> None:
        """Nothing is refined any more: what is read can be remembered."""
        self._known = {}

    def show(self, axis: Axis) -> str:
        axis = self.find(axis)
        if axis.form == "leaf":
            return str(axis.size)
        if axis.form == "sum":
            return " + ".join(self.show(part) for part in self.segments(axis))
        shown = [(f"({self.show(p)})" if self.find(p).form == "sum" else self.show(p)) for p in self.factors(axis)]
        return "*".join(shown)

    # --- refining -------------------------------------------------------------------------------------------------

    def cut(self, axis: Axis, sizes: Sequence[int]) -> list[Axis] | None:
        """An axis as consecutive segments of the given sizes, or None where its structure forbids it."""
        mark = len(self._trail)
        pieces = self._cut(axis, list(sizes))
        if pieces is None or not self._still_apart(mark):
            self._undo(mark)
            return None
        return pieces

    def unify(self, a: Axis, b: Axis) -> bool:
        """Say that two axes count the same index. False, and nothing changed, where that cannot be."""
        return self.unify_all([(a, b)])

    def unify_all(self, pairs: Sequence[tuple[Axis, Axis]]) -> bool:
        """Several unifications, all or none."""
        mark = len(self._trail)
        if all(self._unify(a, b) for a, b in pairs) and self._still_apart(mark):
            return True
        self._undo(mark)
        return False

    def keep_apart(self, a: Axis, b: Axis) -> None:
        """Refuse from now on to unify what these axes, which share no index yet, are made of."""
        for leaf in (*self.leaves(a), *self.leaves(b)):
            self._apart.setdefault(leaf, []).append((a, b))

    def _still_apart(self, mark: int) -> bool:
        """Whether bindings since a mark leave apart what must be; what a leaf became inherits its pairs."""
        for changed, *_ in self._trail[mark:]:
            pairs = self._apart.get(changed, ())
            if any(not set(self.leaves(a)).isdisjoint(self.leaves(b)) for a, b in pairs):
                return False
            for leaf in self.leaves(changed) if pairs else ():
                known = self._apart.setdefault(leaf, [])
                known += [pair for pair in pairs if pair not in known]
        return True

    def _bind(self, axis: Axis, form: Form, parts: tuple[Axis, ...], bound: Axis | None) -> bool:
        assert self._known is None, "the axes are frozen"
        self._trail.append((axis, axis.form, axis.parts, axis.bound))
        axis.form, axis.parts, axis.bound = form, parts, bound
        return True

    def _undo(self, mark: int) -> None:
        while len(self._trail) > mark:
            changed, form, parts, bound = self._trail.pop()
            changed.form, changed.parts, changed.bound = form, parts, bound

    def _occurs(self, leaf: Axis, inside: Axis) -> bool:
        return any(found is leaf for found in self.leaves(inside))

    def _refine(self, leaf: Axis, structure: Axis) -> bool:
        """Bind a leaf to a structure of the same size."""
        structure = self.find(structure)
        if structure is leaf:
            return True
        if structure.form != "leaf" and self._occurs(leaf, structure):
            return False
        return self._bind(leaf, "leaf", (), structure)

    def _unify(self, a: Axis, b: Axis) -> bool:
        a, b = self.find(a), self.find(b)
        if a is b:
            return True
        if a.size != b.size:
            return False
        if a.form == "leaf":
            return self._refine(a, b)
        if b.form == "leaf":
            return self._refine(b, a)
        if a.form == "product" and b.form == "product":
            return self._unify_products(self.factors(a), self.factors(b))
        if a.form == "sum" and b.form == "sum":
            return self._unify_sums(self.segments(a), self.segments(b))
        product, total = (a, b) if a.form == "product" else (b, a)
        if len(self.segments(product)) > 1 and self._aligned(self.segments(product), self.segments(total)):
            return self._unify_sums(self.segments(product), self.segments(total))
        return self._factor_out(product, total)

    def _aligned(self, xs: list[Axis], ys: list[Axis]) -> bool:
        return [x.size for x in xs] == [y.size for y in ys]

    def _unify_products(self, xs: list[Axis], ys: list[Axis]) -> bool:
        xs, ys = list(xs), list(ys)
        while xs and ys:
            x, y = xs.pop(), ys.pop()
            if x.size == y.size:
                if not self._unify(x, y):
                    return False
                continue
            big, small, rest = (x, y, xs) if x.size > y.size else (y, x, ys)
            if small.size == 0 or big.size % small.size:
                return False
            outer = self._divide(big, small)
            if outer is None:
                return False
            rest.append(outer)
        return not xs and not ys

    def _divide(self, axis: Axis, inner: Axis) -> Axis | None:
        """Axis = outer * inner: the outer axis, refining as needed."""
        axis = self.find(axis)
        if axis.form == "leaf":
            outer = self.leaf(axis.size // inner.size)
            return outer if self._refine(axis, self.product([outer, inner])) else None
        if axis.form == "sum":
            outers = []
            for segment in self.segments(axis):
                if segment.size % inner.size:
                    return None
                left = self._strip(segment, inner)
                if left is None:
                    return None
                outers.append(left)
            total = self.sum(outers)
            self._bind(axis, "product", self.product([total, inner]).parts, None)
            return total
        return self._strip(axis, inner)

    def _strip(self, axis: Axis, inner: Axis) -> Axis | None:
        """Like `_divide`, for an axis that may itself be a product or equal the inner one."""
        axis = self.find(axis)
        if axis.size == inner.size:
            return self.leaf(1) if self._unify(axis, inner) else None
        if axis.form != "product":
            return self._divide(axis, inner)
        factors = self.factors(axis)
        outer = self.leaf(axis.size // inner.size)
        if not self._unify_products(factors, [outer, *self.factors(inner)]):
            return None
        return outer

    def _factor_out(self, product: Axis, total: Axis) -> bool:
        """a*h against s + t + …: take h out of every segment, then compare a with what is left."""
        *outer, inner = self.factors(product)
        segments = self.segments(total)
        if any(segment.size % inner.size for segment in segments):
            if inner.form != "leaf":
                return False
            return self._share_inner(outer, inner, segments)
        left = self._divide(total, inner)
        return left is not None and self._unify(self.product(outer), left)

    def _share_inner(self, outer: list[Axis], inner: Axis, segments: list[Axis]) -> bool:
        """The inner leaf is larger than a segment's: refine it to the segments' own common inner size."""
        common = 0
        for segment in segments:
            common = _gcd(common, segment.size)
        common = _gcd(common, inner.size)
        if common <= 1 or common == inner.size:
            return False
        smaller = self.leaf(common)
        if self._divide(inner, smaller) is None:
            return False
        return self._factor_out(self.product([*outer, inner]), self.sum(segments))

    def _unify_sums(self, xs: list[Axis], ys: list[Axis]) -> bool:
        if self._overlap(xs, ys):
            return False
        xs, ys = list(reversed(xs)), list(reversed(ys))
        while xs and ys:
            x, y = xs.pop(), ys.pop()
            if x.size == y.size:
                if not self._unify(x, y):
                    return False
                continue
            big, small, rest = (x, y, xs) if x.size > y.size else (y, x, ys)
            pieces = self._cut(big, [small.size, big.size - small.size])
            if pieces is None or not self._unify(pieces[0], small):
                return False
            rest.append(pieces[1])
        return not xs and not ys

    def _overlap(self, xs: list[Axis], ys: list[Axis]) -> bool:
        """Whether two sums share a segment only at different offsets, or shifted against itself (`x[1:]` against
        `x[:-1]`): an index is not its own neighbour, and refining would never end.
        """
        mine, theirs = self._offsets(xs), self._offsets(ys)
        for key in mine.keys() & theirs.keys():
            size, here, there = mine[key][0], set(mine[key][1]), set(theirs[key][1])
            if not here & there or any(0 < abs(a - b) < size for a in here for b in there):
                return True
        return False

    def _offsets(self, segments: list[Axis]) -> dict[tuple[int, ...], tuple[int, list[int]]]:
        """Segments by their factors: size, and where each occurrence starts."""
        found: dict[tuple[int, ...], tuple[int, list[int]]] = {}
        position = 0
        for segment in segments:
            key = tuple(factor.index for factor in self.factors(segment))
            found.setdefault(key, (segment.size, []))[1].append(position)
            position += segment.size
        return found

    def _cut(self, axis: Axis, sizes: list[int]) -> list[Axis] | None:
        axis = self.find(axis)
        assert sum(sizes) == axis.size, (sizes, axis)
        if axis.size in sizes:  # the other pieces are empty
            return [axis if size else self.leaf(0) for size in sizes]
        segments = self.segments(axis)
        if len(segments) > 1:
            return self._cut_segments(segments, sizes)
        if axis.form == "leaf":
            pieces = [self.leaf(size) for size in sizes]
            self._bind(axis, "sum", tuple(p for p in pieces if p.size), None)
            return pieces
        *outer, inner = self.factors(axis)
        if any(size % inner.size for size in sizes):
            return None
        outers = self._cut(self.product(outer), [size // inner.size for size in sizes])
        return None if outers is None else [self.product([part, inner]) for part in outers]

    def _cut_segments(self, segments: list[Axis], sizes: list[int]) -> list[Axis] | None:
        waiting, pieces = list(reversed(segments)), []
        for size in sizes:
            taken: list[Axis] = []
            while size > 0:
                segment = waiting.pop()
                if segment.size > size:
                    parts = self._cut(segment, [size, segment.size - size])
                    if parts is None:
                        return None
                    waiting.append(parts[1])
                    segment = parts[0]
                taken.append(segment)
                size -= segment.size
            pieces.append(self.sum(taken))
        return pieces


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a
