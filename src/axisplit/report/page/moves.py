"""Collectives at the modules where they happen: what each call sends, phase by phase."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from axisplit.report.text import bytes_text, clean
from axisplit.solve.plan import CollectivePlan

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
    """Moves by module, each handed out where it belongs; what no module asked for is `left`."""

    def __init__(self, moves: tuple[Move, ...]) -> None:
        self._moves = moves
        self._used: set[Move] = set()

    def at(self, path: str, block_axes: set[str]) -> list[Move]:
        """The moves of one module. A name with a star stands for every block, unless another names this one itself."""
        exact = [move for move in self._moves if move.where == path]
        starred = [move for move in self._moves if "*" in move.where and _matches(move.where, path)]
        found = exact or _of_its_class(starred, block_axes)
        self._used.update(found)
        return found

    @property
    def left(self) -> list[Move]:
        return [move for move in self._moves if move not in self._used]


def _matches(pattern: str, path: str) -> bool:
    """Whether a module is one of those that a name with stars means.

    >>> _matches("h.*.fc", "h.3.fc"), _matches("h.*2.fc", "h.3.fc"), _matches("h.*.fc", "h.fc")
    (True, True, False)
    """
    names, parts = pattern.split("."), path.split(".")
    return len(names) == len(parts) and all(
        part.isdigit() if name.startswith("*") else name == part for name, part in zip(names, parts, strict=True)
    )


def _of_its_class(moves: list[Move], axes: set[str]) -> list[Move]:
    """Blocks of several classes have stars of their own (`*`, `*2`): those that this block's axes are named with."""
    if len({move.where for move in moves}) < 2:
        return moves
    stars = {axis.partition("[")[0].rpartition(".")[0] for axis in axes}
    named = [move for move in moves if any(_head(star) == _head(move.where) for star in stars)]
    return named or moves


def _head(name: str) -> str:
    """A name up to its last star.

    >>> _head("block.*2.layer.0.k")
    'block.*2'
    """
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts) if part.startswith("*")), default=-1)
    return ".".join(parts[: last + 1])
