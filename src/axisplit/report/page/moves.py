"""Collectives at the modules where they happen: what each call sends, phase by phase."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from axisplit.report.text import bytes_text, clean
from axisplit.solve.plan import CollectivePlan, Plan

_MASKED = " masked"
Call = tuple[str, str, float]  # phase, text, bytes of one call


@dataclass(frozen=True)
class Move:
    """A collective at a module: bytes of one call in each phase. `backward`: there only."""

    kind: str
    where: str
    calls: tuple[Call, ...]
    backward: bool


def moves_of(collectives: tuple[CollectivePlan, ...]) -> tuple[Move, ...]:
    """One move for each kind and place; phases with a mask are left to the table."""
    found: dict[tuple[str, str, bool], dict[str, tuple[int, float]]] = defaultdict(dict)
    for entry in collectives:
        if entry.phase.endswith(_MASKED) or not entry.count:
            continue
        phases = found[entry.kind, entry.where, entry.phase == "backward"]
        calls, size = phases.get(entry.phase, (0, 0.0))
        phases[entry.phase] = (calls + entry.count, size + entry.bytes)
    return tuple(
        Move(clean(kind), where, tuple((clean(p), bytes_text(b / n), b / n) for p, (n, b) in phases.items()), backward)
        for (kind, where, backward), phases in found.items()
    )


class Places:
    """Moves by module, each handed out where it belongs; what no module asked for is `left`.

    A name with a star (`h.*.fc`) stands for the blocks of one class; several classes of one container have stars of
    their own (`*`, `*2`). A block is of none if something names it by its number, and of those that axes of its own
    parameters are named with.
    """

    def __init__(self, plan: Plan) -> None:
        self._moves = moves_of(plan.collectives)
        self._used: set[Move] = set()
        names = [move.where for move in self._moves] + [axis.name for axis in plan.axes]
        names += [key for kept in plan.choices.values() for key in kept]
        self._alone = {block for name in names for block in _numbered(name)}
        self._stars: dict[str, set[str]] = defaultdict(set)
        for parameter in plan.parameters:
            for block, star in _stars(parameter.axis, parameter.name):
                self._stars[block].add(star)

    def at(self, path: str) -> list[Move]:
        """The moves of one module."""
        found = [move for move in self._moves if move.where == path or self._means(move.where, path)]
        self._used.update(found)
        return found

    @property
    def left(self) -> list[Move]:
        return [move for move in self._moves if move not in self._used]

    def _means(self, pattern: str, path: str) -> bool:
        if not _matches(pattern, path):
            return False
        parts = path.split(".")
        for i, name in enumerate(pattern.split(".")):
            block = ".".join(parts[: i + 1])
            own = self._stars.get(block)
            if name.startswith("*") and (block in self._alone or (own and name not in own)):
                return False
        return True


def _matches(pattern: str, path: str) -> bool:
    """Whether a name with stars may mean a module.

    >>> _matches("h.*.fc", "h.3.fc"), _matches("h.*2.fc", "h.3.fc"), _matches("h.*.fc", "h.fc")
    (True, True, False)
    """
    if "*" not in pattern:
        return False
    names, parts = pattern.split("."), path.split(".")
    return len(names) == len(parts) and all(
        part.isdigit() if name.startswith("*") else name == part for name, part in zip(names, parts, strict=True)
    )


def _numbered(name: str) -> Iterator[str]:
    """The blocks that a name has by their numbers.

    >>> list(_numbered("h.0.attn.1.fc")), list(_numbered("h.*.attn.1"))
    (['h.0', 'h.0.attn.1'], [])
    """
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part.startswith("*"):
            return
        if part.isdigit():
            yield ".".join(parts[: i + 1])


def _stars(axis: str, parameter: str) -> Iterator[tuple[str, str]]:
    """(block, star) of those blocks of a parameter that its axis's name has too.

    >>> list(_stars("h.*2.k.weight[0]", "h.3.q.weight"))
    [('h.3', '*2')]
    """
    own = parameter.split(".")
    for i, (name, part) in enumerate(zip(axis.split("."), own, strict=False)):
        if name.startswith("*") and part.isdigit():
            yield ".".join(own[: i + 1]), name
        elif name != part:
            return
