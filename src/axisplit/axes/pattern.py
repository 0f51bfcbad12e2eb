"""A rule in one line: `b s i, o i -> b s o`.

    letters    the dims of the tensor operands in order, then those of the outputs; equal letters are equal indices
    ...        leading dims, any number of them, equal where it stands twice
    _          a dim that is needed whole (left), or that the op makes (right)
    left only  the letter is summed over (reduce), unless it is named as needed whole
    both       the letter passes, unless it is named as needed whole

`law_of` makes the law of one node out of it; `misfit` says where shapes do not follow it.

>>> pattern = parse("... i, o i -> ... o")
>>> expand(pattern, [3, 2]).text()
'...0 ...1 i, o i -> ...0 ...1 o; sums over i'
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from axisplit.axes.expression import Axis
from axisplit.axes.law import Law, LocalSize, NodeView

Term = tuple[str, ...]
WHOLE_DIM = "_"


@dataclass(frozen=True)
class Pattern:
    """What an op does to its dims. `sizes`: argument position -> for each of its integers the letter whose local size
    it is, `_` for one that stays; one entry for an integer argument.
    """

    operands: tuple[Term, ...]
    outputs: tuple[Term, ...]
    whole: tuple[str, ...] = ()
    linear: tuple[tuple[int, ...], ...] = ()
    added: tuple[int, ...] = ()
    sizes: tuple[tuple[int, Term], ...] = ()

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of the operands, in order."""
        named = (letter for term in self.operands for letter in term)
        return tuple(dict.fromkeys(letter for letter in named if letter not in (WHOLE_DIM, "...")))

    @property
    def passing(self) -> tuple[str, ...]:
        kept = {letter for term in self.outputs for letter in term}
        return tuple(letter for letter in self.letters if letter in kept and letter not in self.whole)

    @property
    def reduced(self) -> tuple[str, ...]:
        kept = {letter for term in self.outputs for letter in term}
        return tuple(letter for letter in self.letters if letter not in kept and letter not in self.whole)

    def positions(self, letter: str) -> tuple[tuple[int, int], ...]:
        """(operand, dim) of every dim of a letter."""
        found = ((o, d) for o, term in enumerate(self.operands) for d, name in enumerate(term) if name == letter)
        return tuple(found)

    def text(self) -> str:
        """The pattern in its own notation, then what it does not show."""
        left, right = (", ".join(" ".join(term) or "()" for term in side) for side in (self.operands, self.outputs))
        notes = [f"sums over {' '.join(self.reduced)}"] if self.reduced else []
        notes += [f"{' '.join(self.whole)} whole"] if self.whole else []
        groups = [" and ".join(map(str, group)) for group in self.linear]
        notes += [f"linear in operand {', '.join(groups)}"] if groups else []
        notes += [f"adds operand {', '.join(map(str, self.added))}"] if self.added else []
        notes += [f"argument {p} is the local size of {' '.join(term)}" for p, term in self.sizes]
        return "; ".join([f"{left} -> {right}", *notes])


def parse(spec: str) -> Pattern:
    """The pattern of a specification. Raises: ValueError saying what is wrong with it."""
    left, arrow, right = spec.partition("->")
    if not arrow or "->" in right:
        raise ValueError("it has not exactly one '->'")
    operands, outputs = ([_term(part) for part in side.split(",")] for side in (left, right))
    for term in (*operands, *outputs):
        repeated = {letter for letter in term if letter != WHOLE_DIM and term.count(letter) > 1}
        if repeated:
            raise ValueError(f"{' '.join(sorted(repeated))} stands twice in '{' '.join(term)}': a diagonal, say _ _")
        if "..." in term[1:]:
            raise ValueError(f"'...' is not in front in '{' '.join(term)}'")
    known = {letter for term in operands for letter in term} | {WHOLE_DIM}
    made = sorted({letter for term in outputs for letter in term} - known)
    if made:
        raise ValueError(f"{' '.join(made)} only stands on the right: write _ for a dim that the op makes")
    return Pattern(tuple(operands), tuple(outputs))


def _term(text: str) -> Term:
    letters = tuple(text.split()) if text.strip() != "()" else ()
    for letter in letters:
        if not (letter in (WHOLE_DIM, "...") or letter.isidentifier()):
            raise ValueError(f"'{letter}' is no letter: names, _ or ..., with spaces between, are")
    return letters


def expand(pattern: Pattern, ndims: Sequence[int]) -> Pattern | None:
    """The pattern for operands of so many dims, `...` written out; None if they do not fit it."""
    if len(ndims) != len(pattern.operands):
        return None
    counts = set()
    for term, ndim in zip(pattern.operands, ndims, strict=True):
        if "..." in term:
            counts.add(ndim - len(term) + 1)
        elif ndim != len(term):
            return None
    if len(counts) > 1 or any(count < 0 for count in counts):
        return None
    leading = tuple(f"...{i}" for i in range(next(iter(counts), 0)))

    def written(terms: tuple[Term, ...]) -> tuple[Term, ...]:
        return tuple((*leading, *term[1:]) if term[:1] == ("...",) else term for term in terms)

    whole = tuple(name for letter in pattern.whole for name in (leading if letter == "..." else (letter,)))
    return replace(pattern, operands=written(pattern.operands), outputs=written(pattern.outputs), whole=whole)


def misfit(pattern: Pattern, operands: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]) -> str:
    """Where an expanded pattern does not describe shapes; "" if it does."""
    kinds = (("operand", pattern.operands, operands), ("output", pattern.outputs, outputs))
    for kind, terms, shapes in kinds:
        if len(terms) != len(shapes):
            return f"{len(shapes)} {kind}s, the rule has {len(terms)}"
    sizes: dict[str, int] = {}
    for kind, terms, shapes in kinds:
        for number, (term, shape) in enumerate(zip(terms, shapes, strict=True)):
            if len(term) != len(shape):
                return f"{kind} {number} has {len(shape)} dims, the rule {len(term)}"
            for letter, size in zip(term, shape, strict=True):
                if letter != WHOLE_DIM and sizes.setdefault(letter, size) != size:
                    return f"{letter} is {size} in {kind} {number}, and {sizes[letter]} before"
    return ""


def law_of(view: NodeView, pattern: Pattern, family: str) -> Law:
    """The law of a node that an expanded pattern describes."""
    letters: dict[str, Axis] = {}
    whole: list[Axis] = []
    for term, dims in zip(pattern.operands, view.operand_dims(), strict=True):
        for letter, axis in zip(term, dims, strict=True):
            if letter == WHOLE_DIM:
                whole.append(axis)
            elif not view.axes.unify(letters.setdefault(letter, axis), axis):
                whole += [letters[letter], axis]
    outputs = [
        tuple(letters[letter] if letter in letters else view.axes.leaf(size) for letter, size in zip(t, s, strict=True))
        for t, s in zip(pattern.outputs, view.output_shapes(), strict=True)
    ]
    whole += [letters[letter] for letter in pattern.whole]
    law = Law(family, outputs, whole, [letters[letter] for letter in pattern.reduced])
    law.linear = tuple(frozenset(group) for group in pattern.linear)
    law.additive = frozenset(pattern.added)
    for position, term in pattern.sizes:
        law.rewrites[position] = _rewrite(view.argument(position), [letters.get(letter) for letter in term])
    return law


def _rewrite(value: object, axes: list[Axis | None]) -> Callable[[LocalSize], object]:
    """An argument on a rank's part: an integer, or a list of them, some of which are sizes of axes."""

    def local_value(local: LocalSize) -> object:
        if isinstance(value, (tuple, list)):
            return [given if axis is None else local(axis) for given, axis in zip(value, axes, strict=True)]
        return value if axes[0] is None else local(axes[0])

    return local_value
