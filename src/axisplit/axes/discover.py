"""Find the rule of an op that has none, by trying it on small operands of exactly representable integers.

    1. sizes     dims of equal size are one class; a class falls apart where the op also runs when some of its dims
                 have another size (a square matrix: its rows and columns)
    2. roles     each class is cut in parts at several sizes: it passes to an output dim, leaves summands, or is whole
    3. linear    groups of operands that may be partial sums while the others are whole
    4. sizes among the arguments (`n=16` beside a dim of 16) are tried as they are, then as that dim's local size; the
       reading that splits more dims is kept

What a trial finds is no proof: such a law carries an `assumption`, which plans and verdicts list. Whatever is not found
is needed whole, with the reason. An op is tried once for each kind of call: op, arguments, dtypes, and which operand
dims are of one size; see `remember` for how long that is kept. Seeds are fixed, so ranks find the same.

Invariant: a pattern is kept only if every one of its claims held on every fill, cut and size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, product
from threading import Lock
from typing import Any

from axisplit.axes.law import Law, NodeView, unknown
from axisplit.axes.pattern import WHOLE_DIM, Pattern, Term, law_of, misfit
from axisplit.axes.remember import Finding, recall, remember
from axisplit.axes.trial import Budget, CannotTry, OpCall, Position, Refused, Shape, Trial
from axisplit.capture.apart import apart, checks_shapes, why_not_run
from axisplit.capture.graph import Node

TIME_LIMIT_S = 10.0
LARGEST_TRIAL = 2**18  # elements of an operand
SMALL_SIZES = (4, 6, 10, 14, 22, 26, 34, 38)  # even, as many ops want; none a multiple of another but of the 2
READINGS = 8  # of integer arguments that equal a dim's size

_one_at_a_time = Lock()  # simulated ranks are threads, and a trial watches the random state
Class = tuple[Position, ...]
Reading = dict[int, tuple[Position | None, ...]]


def discovered(view: NodeView) -> Law:
    """The law that a trial finds, as an assumption; all axes whole where it finds none."""
    shapes = tuple(view.operand_shapes())
    finding = find(view.node, shapes, view.dtypes())
    if finding.pattern is None:
        return unknown(view, finding.reason)
    wrong = misfit(finding.pattern, shapes, view.output_shapes())
    if wrong:
        return unknown(view, f"the rule found by trial does not fit: {wrong}")
    law = law_of(view, finding.pattern, "discovered")
    law.reason = finding.reason
    law.assumption = f"{view.node.name}: rule discovered by trial on integers: {finding.pattern.text()}"
    return law


def find(node: Node, shapes: tuple[Shape, ...], dtypes: tuple[Any, ...]) -> Finding:
    """What trials say about one kind of call; tried when it is first asked for."""
    key = kind_of_call(node, shapes, dtypes)
    exactly = f"{key} {shapes}"
    with _one_at_a_time:
        found = recall(node.op, key) or recall(node.op, exactly)
        if found is None:
            found, general = _try(node, shapes, dtypes)
            remember(node.op, key if general else exactly, found)
    return found


def kind_of_call(node: Node, shapes: tuple[Shape, ...], dtypes: tuple[Any, ...]) -> str:
    """What a finding depends on: arguments, dtypes, which dims (and integers) are of one size, which of size 1."""
    sizes = list(dict.fromkeys(size for shape in shapes for size in shape if size > 1))
    dims = [[sizes.index(size) if size > 1 else -1 for size in shape] for shape in shapes]
    readings = [(p, sizes.index(v)) for p, v in _integers(node) if v in sizes]
    return repr((_without_refs(node.args), _without_refs(node.kwargs), list(map(str, dtypes)), dims, readings))


def _without_refs(tree: Any) -> Any:
    if isinstance(tree, (tuple, list)):
        return [_without_refs(item) for item in tree]
    if isinstance(tree, dict):
        return {key: _without_refs(item) for key, item in tree.items()}
    return tree if tree is None or isinstance(tree, (bool, int, float, str)) else type(tree).__name__ + _named(tree)


def _named(tree: Any) -> str:
    """What tells arguments of a type apart; a reference to a value is an operand, whichever it is."""
    return "" if type(tree).__name__ == "Ref" else f" {tree}"


def _integers(node: Node) -> Iterator[tuple[tuple[int, int], int]]:
    """((argument position, place in its list), integer) of positional arguments."""
    for position, value in enumerate(node.args):
        items = value if isinstance(value, (tuple, list)) else [value]
        for place, item in enumerate(items):
            if isinstance(item, int) and not isinstance(item, bool):
                yield (position, place), int(item)


def _try(node: Node, shapes: tuple[Shape, ...], dtypes: tuple[Any, ...]) -> tuple[Finding, bool]:
    """What trials find, and whether it holds for the kind of call rather than for these sizes only."""
    refusal = why_not_run(node.op)
    if refusal:
        return Finding(None, refusal), True
    if any(size == 0 for shape in shapes for size in shape):
        return Finding(None, "an operand is empty"), False
    budget, best, reason, general = Budget(TIME_LIMIT_S), None, "", True
    with apart():
        for reading in _readings(node, shapes):
            try:
                found = Search(OpCall(node, dtypes, budget, reading), shapes).result()
            except (CannotTry, Refused) as error:
                reason = reason or str(error)
                continue
            general = general and not found.own_sizes
            if best is None or found.score > best.score:
                best = found
            if best.complete:
                break
    if best is None or not best.score:
        reason = best.reason if best is not None else reason
        return Finding(None, _with_arguments(node, shapes, reason)), general and best is not None
    return Finding(best.pattern, best.reason), general


def _with_arguments(node: Node, shapes: tuple[Shape, ...], reason: str) -> str:
    """A reason, with the arguments that may be to blame."""
    sizes = {size for shape in shapes for size in shape if size > 1}
    named = sorted({node.op._schema.arguments[p].name for (p, _), value in _integers(node) if value in sizes})
    return reason + (f"; its argument {', '.join(named)} holds a dim's size and would have to change" if named else "")


def _readings(node: Node, shapes: tuple[Shape, ...]) -> Iterator[Reading]:
    """Integer arguments as they are; then those that equal a dim's size as that dim's, one dim after the other."""
    yield {}
    places: dict[int, list[Position]] = {}
    for operand, shape in enumerate(shapes):
        for dim, size in enumerate(shape):
            if size > 1:
                places.setdefault(size, []).append((operand, dim))
    entries = [(where, places[value]) for where, value in _integers(node) if value in places]
    if not entries:
        return
    for chosen in islice(product(*(options for _, options in entries)), READINGS):
        of = {where: place for (where, _), place in zip(entries, chosen, strict=True)}
        reading = {}
        for position in {position for position, _ in of}:
            value = node.args[position]
            count = len(value) if isinstance(value, (tuple, list)) else 1
            reading[position] = tuple(of.get((position, place)) for place in range(count))
        yield reading


@dataclass
class _Result:
    pattern: Pattern
    reason: str
    score: int  # operand dims that can be split, and groups of operands that may be partial
    complete: bool
    own_sizes: bool


class Search:
    """The pattern of one op under one reading of its arguments."""

    def __init__(self, call: OpCall, shapes: tuple[Shape, ...]) -> None:
        self.call, self.given = call, shapes
        sizes: dict[int, list[Position]] = {}
        for operand, shape in enumerate(shapes):
            for dim, size in enumerate(shape):
                if size > 1:
                    sizes.setdefault(size, []).append((operand, dim))
        self.classes: list[Class] = [tuple(positions) for positions in sizes.values()]
        self.own_sizes = False

    def result(self) -> _Result:
        """Raises: CannotTry, Refused."""
        shapes = self.runnable()
        if checks_shapes(self.call.node.op):
            self.classes = [part for whole in self.classes for part in self._refined(shapes, whole)]
        self.trials = [Trial(self.call, shapes)]
        self.trials[0].check_function()
        for found in self.classes:
            self.trials += [Trial(self.call, other) for other in self.varied(shapes, found)]
        return self._pattern()

    # --- sizes ------------------------------------------------------------------------------------------------------

    def runnable(self) -> tuple[Shape, ...]:
        """Small shapes on which the op runs, every class of its own size. Raises: CannotTry."""
        if len(self.classes) > len(SMALL_SIZES):
            raise CannotTry("its operands have too many dims")
        own = [self.given[c[0][0]][c[0][1]] for c in self.classes]
        ranked = {size: 4 * 2**rank for rank, size in enumerate(sorted(own))}
        error = "they would be too large"
        for sizes in (list(SMALL_SIZES[: len(own)]), [ranked[size] for size in own], own):
            shapes = self._shapes(self.given, dict(zip(self.classes, sizes, strict=True)))
            if max(map(_count, shapes), default=0) > LARGEST_TRIAL:
                continue
            self.own_sizes = sizes is own
            error = self._error(shapes)
            if not error:
                return shapes
        raise CannotTry(f"it does not run on small operands on the CPU: {error}")

    def _error(self, shapes: tuple[Shape, ...]) -> str:
        """Why the op does not run on operands of some shapes; "" if it does."""
        try:
            assert Trial(self.call, shapes).wholes
        except Refused as error:
            return str(error)
        return ""

    def _shapes(self, shapes: tuple[Shape, ...], sizes: Mapping[Class, int]) -> tuple[Shape, ...]:
        """Shapes with the dims of some classes of other sizes."""
        of = {position: size for positions, size in sizes.items() for position in positions}
        return tuple(tuple(of.get((o, d), size) for d, size in enumerate(shape)) for o, shape in enumerate(shapes))

    def varied(self, shapes: tuple[Shape, ...], dims: Class) -> list[tuple[Shape, ...]]:
        """Shapes with one class of another size, the first on which the op runs."""
        size = shapes[dims[0][0]][dims[0][1]]
        for other in (size + 2, size * 2, size // 2):
            varied = self._shapes(shapes, {dims: other})
            if other > 1 and max(map(_count, varied)) <= 2 * LARGEST_TRIAL and not self._error(varied):
                return [varied]
        return []

    def _refined(self, shapes: tuple[Shape, ...], dims: Class) -> list[Class]:
        """A class in the smallest sets of dims that can change their size alone."""
        for count in range(1, len(dims) // 2 + 1):
            for part in combinations(dims, count):
                if self.varied(shapes, part):
                    rest = tuple(position for position in dims if position not in part)
                    return [*self._refined(shapes, part), *self._refined(shapes, rest)]
        return [dims]

    # --- claims -----------------------------------------------------------------------------------------------------

    def _pattern(self) -> _Result:
        outputs = [[WHOLE_DIM] * t.dim() for t in self.trials[0].wholes[0][1]]
        letters: dict[Position, str] = {}
        reasons: dict[Class, str] = {}
        for letter, dims in zip("abcdefghijklmnopqrstuvw", self.classes, strict=False):
            places = self._passing(dims, outputs, reasons)
            if places:
                letters.update(dict.fromkeys(dims, letter))
                for output, place in enumerate(places):
                    if place is not None:
                        outputs[output][place] = letter
        added, reduced = self._reduced([dims for dims in self.classes if dims[0] not in letters], reasons)
        for letter, dims in zip("zyxwvutsrqponmlkjihgfed", reduced, strict=False):
            letters.update(dict.fromkeys(dims, letter))
        operands = tuple(tuple(letters.get((o, d), WHOLE_DIM) for d in range(len(s))) for o, s in enumerate(self.given))
        linear = tuple(group for group in self._groups() if self._linear(group))
        sizes = self._sizes(letters)
        pattern = Pattern(operands, tuple(map(tuple, outputs)), (), linear, added, sizes)
        whole = [dims for dims in self.classes if dims[0] not in letters]
        reason = _grouped([(*dims[0], reasons[dims]) for dims in whole])
        return _Result(pattern, reason, len(letters) + len(linear), not whole, self.own_sizes)

    def _passing(
        self, dims: Class, outputs: Sequence[Sequence[str]], reasons: dict[Class, str]
    ) -> list[int | None] | None:
        """The dim of each output to which a class passes, where it does."""
        places = self.trials[0].places(dims)
        if places is None or all(place is None for place in places):
            reasons[dims] = "the outputs of its parts are not parts of the outputs" if places is None else ""
            return None
        if any(place is not None and outputs[o][place] != WHOLE_DIM for o, place in enumerate(places)):
            reasons[dims] = "another dim of the operands goes to the same dim of the output"
            return None
        reasons[dims] = self._all(lambda trial: trial.passes(dims, places))
        return None if reasons[dims] else places

    def _reduced(self, dims: list[Class], reasons: dict[Class, str]) -> tuple[tuple[int, ...], list[Class]]:
        """Classes whose parts leave summands, and the operands that are added after (the same for all of them)."""
        found: tuple[tuple[int, ...], list[Class]] = ((), [])
        floats = self._floats()
        for added in [(), *((o,) for o in floats), *combinations(floats, 2)]:
            held = []
            for one in dims:
                outside = tuple(o for o in added if all(o != operand for operand, _ in one))
                wrong = "" if outside or not added else "it is added itself"
                wrong = wrong or self._all(lambda trial, one=one, outside=outside: trial.reduces(one, outside))
                if not wrong:
                    held.append(one)
                elif not added:
                    reasons[one] = reasons.get(one) or wrong
            if len(held) > len(found[1]):
                found = (added, held)
        return found

    def _floats(self) -> list[int]:
        return [o for o, dtype in enumerate(self.call.dtypes) if dtype.is_floating_point]

    def _groups(self) -> list[tuple[int, ...]]:
        floats = self._floats()
        groups = [*((o,) for o in floats), *combinations(floats, 2)]
        return list(dict.fromkeys([*groups, tuple(floats)])) if floats else []

    def _linear(self, group: tuple[int, ...]) -> bool:
        return not self._all(lambda trial: trial.linear(group))

    def _sizes(self, letters: Mapping[Position, str]) -> tuple[tuple[int, Term], ...]:
        found = []
        for position, places in sorted(self.call.sizes.items()):
            term = tuple(WHOLE_DIM if place is None else letters.get(place, WHOLE_DIM) for place in places)
            if any(letter != WHOLE_DIM for letter in term):
                found.append((position, term))
        return tuple(found)

    def _all(self, claim: Any) -> str:
        """What is wrong with a claim in any trial; "" if it holds in all."""
        return next((wrong for wrong in map(claim, self.trials) if wrong), "")


def _grouped(reasons: Sequence[tuple[int, int, str]]) -> str:
    """(operand, dim, why) in words, each reason once."""
    found: dict[str, list[str]] = {}
    for operand, dim, why in reasons:
        found.setdefault(why, []).append(f"dim {dim} of operand {operand}")
    return "; ".join(f"{', '.join(dims)}: {why}" for why, dims in found.items())


def _count(shape: Shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
