"""Integer arguments that no attribute makes local: the argument's expression is wrapped, and the rank takes its share.

    y.transpose(1, 2).reshape(B, T, C)                C is whole; of its 5 heads the rank has 3
    y.transpose(1, 2).reshape(B, T, local(C))         C * 3 // 5

The share is what the rank's op needs over what the rank's Python comes to, reduced. Only sizes are wrapped whose split
factors are fixed by parameters; other factors (a batch in front of the heads) are the same in both and cancel, so one
share holds for every batch and length.

Attributes come first (`edits.py`): integers are wrapped only where these leave them wrong, or where the proof says that
a rewritten attribute is read by something else too (a scale). What Python comes to is known for what tracing could
follow, and for numbers that stand in the source. Other integers (a `len`, an entry of a dict) are wrapped, as what was
traced, only once the proof says that they are wrong as they are. So there is another way for some ops: they are
`doubtful`, and where ("edit", class of the op) or ("size", class) is forbidden, its integers that come from attributes,
or the others, are done the other way.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from math import gcd

from axisplit.axes.expression import Axis
from axisplit.capture.graph import Node
from axisplit.capture.integers import Path, flat_integers
from axisplit.capture.provenance import Attribute, Expression, Leaf, Operation
from axisplit.lower.decision import Decision, rewritten
from axisplit.lower.edits import Equation, size_read, state_read
from axisplit.lower.places import Frames, Place, Refusal, WayTo, leaf_of
from axisplit.lower.source import is_number
from axisplit.solve.shards import LocalPart, held_by

Shares = tuple[tuple[int, int], ...]
EDIT, SIZE = "edit", "size"
OTHER_WAYS = (EDIT, SIZE)


class _Size(int):
    """A rank's size of an axis, or of several in a row, which it names."""

    axes: tuple[Axis, ...]

    def __new__(cls, size: int, axes: tuple[Axis, ...]) -> _Size:
        self = super().__new__(cls, size)
        self.axes = axes
        return self

    def __add__(self, other: int) -> int:
        return _Size(int(self) + int(other), self.axes + other.axes) if isinstance(other, _Size) else int(self) + other


class _Named(LocalPart):
    """Sizes of a rank that name their axes."""

    def __call__(self, axis: Axis) -> int:
        return _Size(super().__call__(axis), (axis,))


class Sizes:
    """The integer arguments of a decision that are wrapped, and what of them cannot be."""

    def __init__(self, decision: Decision, way_to: WayTo) -> None:
        self._decision, self._way_to = decision, way_to
        self.places: list[Place] = []
        self.refusals: list[Refusal] = []
        self.doubtful: set[tuple[str, str]] = set()  # what may be forbidden: there is another way then
        self._values: Mapping[int, Mapping[Attribute, int]] = {}
        self._ops_of_call = Counter(node.issue for node in decision.graph.nodes)
        self._wanted_by: dict[int, list[list[int]]] = {}

    @cached_property
    def _ranks(self) -> list[int]:
        return self._decision.one_of_each

    def can_wrap(self, equation: Equation) -> bool:
        """Whether the integer of an equation can be wrapped."""
        node = self._decision.graph.nodes[equation.node]
        path = dict(node.given).get(equation.position)
        if path is None or self._way(node, path) is None:
            return False
        wanted = [numbers[equation.position] for numbers in self._wanted(node)]
        return all(self._holds_always(number, self._whole(node)[equation.position], node) for number in wanted)

    def other_way(self, equation: Equation) -> bool:
        """Whether the proof failed with what would be done first."""
        return self._other_way(EDIT, self._decision.graph.nodes[equation.node])

    def find(self, values: Mapping[int, Mapping[Attribute, int]]) -> None:
        """Places for the integers that are not what the ranks need, where these, one of each kind, hold these
        attributes.
        """
        self._values = values
        needed = {
            _point(node, path)
            for node, position, path, expression in self._integers()
            if self._is_needed(node, position, path, expression)
        }
        found: dict[tuple[str, str], dict[Shares, list[tuple[Node, Path, Frames]]]] = defaultdict(dict)
        for node, position, path, expression in self._integers():
            way = self._way(node, path) if _point(node, path) in needed else None
            if way is not None and self._whole(node)[position] != -1:
                shares = self._shares(node, position, expression) or ()
                key = (node.module, f"{leaf_of(way)}.{SIZE}.{'.'.join(map(str, path))}")
                found[key].setdefault(shares, []).append((node, path, way))
        for (module, leaf), by_shares in found.items():
            self._place(module, leaf, by_shares)

    def _place(self, module: str, leaf: str, by_shares: dict[Shares, list[tuple[Node, Path, Frames]]]) -> None:
        ((shares, ((_, path, way), *_)), *others) = by_shares.items()
        if shares and not others:
            of_kind = dict(zip(self._ranks, shares, strict=True))
            every = tuple(of_kind[kind] for kind in self._decision.kinds)
            self.places.append(Place(module, "size", leaf, (), way, argument=path, shares=every))
            return
        for node in [node for uses in by_shares.values() for node, _, _ in uses]:
            self._refuse(node, "one expression would have to be counted in two ways")

    def _is_needed(self, node: Node, position: int, path: Path, expression: Expression | None) -> bool:
        """Whether an integer is wrapped."""
        shares, attributes = self._shares(node, position, expression), _attributes(expression)
        right = shares is not None and all(n == d for n, d in shares)
        changes = any(wanted[position] != self._whole(node)[position] for wanted in self._wanted(node))
        if right and not (attributes and changes):
            return False
        kind, way = EDIT if attributes else SIZE, None if shares is None else self._way(node, path)
        other = self._other_way(kind, node)
        if way is not None and not other:
            self.doubtful.add((kind, self._key(node)))
        if attributes and not right and way is None:
            self._refuse(node, f"{', '.join(attributes)} would need more than one value")
        if attributes or way is None:
            return way is not None and not right
        known = expression is not None or is_number(way[0], path)
        return known != other

    def _refuse(self, node: Node, reason: str) -> None:
        strategy = self._decision.strategy(node).name
        if strategy != "whole":
            self.refusals.append(Refusal(("run", self._key(node), strategy), reason, node.index))

    # --- one integer ------------------------------------------------------------------------------------------------

    def _integers(self) -> Iterator[tuple[Node, int, Path, Expression | None]]:
        """Integers that Python gives to ops: op, position in its integers, argument in the source, where it is from."""
        decision = self._decision
        for node in decision.graph.nodes:
            changes = node.traced or decision.search.derived.laws[node.index].rewrites
            if changes and node.index not in decision.captured_in and self._ops_of_call[node.issue] == 1:
                traced = dict(node.traced)
                for position, path in node.given:
                    yield node, position, path, traced.get(position)

    def _shares(self, node: Node, position: int, expression: Expression | None) -> Shares | None:
        """The share that one rank of each kind has of what its Python comes to; None where no share says it for all
        batches and lengths.
        """
        whole, found = self._whole(node)[position], list[tuple[int, int]]()
        for rank, wanted in zip(self._ranks, self._wanted(node), strict=True):
            given, number = self._delivered(expression, whole, rank), wanted[position]
            if given == number:
                found.append((1, 1))
                continue
            if given is None or min(given, number) < 1 or not self._holds_always(number, whole, node):
                return None
            if given != whole and not self._is_product(expression):
                return None
            common = gcd(given, number)
            found.append((number // common, given // common))
        return tuple(found)

    def _delivered(self, expression: Expression | None, whole: int, rank: int) -> int | None:
        """What a rank's Python comes to."""
        if expression is None:
            return whole
        values: dict[Leaf, int] = {dim: size_read(self._decision, dim, rank) for dim in expression.dims()}
        values.update((name, self._values[rank][name]) for name in expression.attributes())
        try:
            return expression.evaluate(values)
        except ZeroDivisionError:
            return None

    def _is_product(self, expression: Expression | int | None) -> bool:
        """Whether an expression grows with the sizes in it, and those of a rank are a fixed share of the whole ones."""
        if isinstance(expression, Operation):
            return expression.symbol in ("*", "//") and all(map(self._is_product, expression.operands))
        if expression is None or isinstance(expression, int | Attribute):
            return True
        state = state_read(self._decision, expression)
        axis = self._decision.search.derived.dims[expression.value][expression.position]
        return state[0] != "S" or self._is_fixed(axis, state[2:])

    def _is_fixed(self, axis: Axis, split: str) -> bool:
        """Whether those factors of an axis that a split cuts have the sizes of parameters."""
        keys, cut = self._decision.search.keys, self._decision.search.splits[split].axes if split else ()
        factors = map(self._leaves, self._decision.search.derived.axes.factors(axis))
        split_ones = [leaves for leaves in factors if any(keys.get(leaf) in cut for leaf in leaves)]
        return all(leaf in self._of_parameters for leaves in split_ones for leaf in leaves)

    @cached_property
    def _of_parameters(self) -> set[Axis]:
        """Leaves whose sizes parameters fix: not those of an input of which a parameter holds a longer dim (a table of
        more positions than there are).
        """
        graph, derived = self._decision.graph, self._decision.search.derived
        given = {
            a for v in graph.values if v.origin == "input" for axis in derived.dims[v.index] for a in self._leaves(axis)
        }
        found = set[Axis]()
        for value in {*graph.parameters.values(), *graph.buffers.values()}:
            for factor in [f for axis in derived.dims[value] for f in derived.axes.factors(axis)]:
                found.update(set(self._leaves(factor)) - (given if factor.form == "sum" else set()))
        return found

    def _whole(self, node: Node) -> list[int]:
        return list(flat_integers((node.args, node.kwargs)))

    def _wanted(self, node: Node) -> list[list[int]]:
        """The integers that the op of one rank of each kind needs; sizes of axes name them."""
        if node.index not in self._wanted_by:
            search, split = self._decision.search, self._decision.strategy(node).split
            found = []
            for rank in self._ranks if split else ():
                local = _Named(search.derived.axes, held_by(search.splits[split], search.keys, rank))
                found.append(list(flat_integers(rewritten(node, search.derived.laws[node.index], local))))
            self._wanted_by[node.index] = found or [self._whole(node) for _ in self._ranks]
        return self._wanted_by[node.index]

    def _holds_always(self, number: int, whole: int, node: Node) -> bool:
        """Whether a rank's size is the same share of the whole one for every batch and length."""
        if not isinstance(number, _Size):
            return number == whole
        axes = [axis for axis in number.axes if axis.size]
        if len(axes) > 1:
            return all(leaf in self._of_parameters for axis in axes for leaf in self._leaves(axis))
        return all(self._is_fixed(axis, self._decision.strategy(node).split) for axis in axes)

    def _leaves(self, axis: Axis) -> list[Axis]:
        return list(self._decision.search.derived.axes.leaves(axis))

    def _way(self, node: Node, path: Path) -> Frames | None:
        """How to the expression of an argument, if the call that it stands in is this op's alone."""
        alone = node.frames and self._ops_of_call[node.issue] == 1
        return self._way_to(node.module, node.frames, -1, False, path) if alone else None

    def _key(self, node: Node) -> str:
        return self._decision.search.ties.node[node.index]

    def _other_way(self, kind: str, node: Node) -> bool:
        return (kind, self._key(node)) in self._decision.search.forbidden


def _attributes(expression: Expression | None) -> list[str]:
    return [] if expression is None else sorted({str(attribute) for attribute in expression.attributes()})


def _point(node: Node, path: Path) -> tuple[object, ...]:
    """Where an argument stands in the source."""
    return (node.module, *((frame.code, frame.instruction) for frame in node.frames[:1]), path)
