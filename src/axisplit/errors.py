"""Every error that a user can cause, as one tree.

    AxisplitError
    ├── InputError           bad model, file, argument or inputs (exit code 2 on the command line)
    ├── CaptureError         the model could not be turned into a graph
    ├── LayoutError          a dim, axis or parameter cannot be split, or not like this
    ├── LoweringError        a plan could not be put into the model's own code
    ├── PlanMismatchError    the plan was made for another model, graph, mesh or version
    ├── MemoryBoundError     no plan fits into the memory that was allowed
    ├── CollectiveError      a rank failed, was late, or disagrees with the others
    └── ProofError           the proof failed, or could not be made

    UnprovedCallWarning      a call of a parallelized model whose program could not be traced, hence not proved
    ForgottenStateWarning    a module had kept state of an earlier call of the whole model; its part begins without

Each says what, where, got, needed and what to do; all offenders at once. Our own invariants are `assert`s.
"""

from __future__ import annotations

__all__ = [
    "AxisplitError",
    "CaptureError",
    "CollectiveError",
    "InputError",
    "LayoutError",
    "LoweringError",
    "MemoryBoundError",
    "PlanMismatchError",
    "ProofError",
]

_LABELS = ("where", "got", "needed", "do")


class AxisplitError(Exception):
    """An error with a readable cause and remedy; the text is made of its fields.

    Args:
        what: the failure in one line.
        where: module, parameter, site, file or rank.
        got: what was found; several lines for several offenders.
        needed: what would have been right.
        do: what the user can do about it.

    >>> print(LayoutError("cannot split 'kv_heads' over 8 ranks", got="12 kv heads", do="use 1, 2, 3, 4, 6 or 12"))
    cannot split 'kv_heads' over 8 ranks
      got: 12 kv heads
      do: use 1, 2, 3, 4, 6 or 12
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        got: str | None = None,
        needed: str | None = None,
        do: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.got = got
        self.needed = needed
        self.do = do

    def __str__(self) -> str:
        lines = [self.what]
        for label in _LABELS:
            text: str | None = getattr(self, label)
            if text:
                lines.append(_labelled(label, text))
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by fields: the default would lose all but `what` on its way from a rank to its parent."""
        return (_rebuild, (type(self), self.what, {label: getattr(self, label) for label in _LABELS}))


def _labelled(label: str, text: str) -> str:
    """One field; the further lines of a long one are indented below the first."""
    first, *rest = text.splitlines()
    return "\n".join([f"  {label}: {first}", *(f"    {line}" for line in rest)])


def _rebuild(kind: type[AxisplitError], what: str, fields: dict[str, str | None]) -> AxisplitError:
    return kind(what, **fields)


class InputError(AxisplitError):
    """A bad model, file, argument or input; exit code 2 on the command line."""


class CaptureError(AxisplitError):
    """The model could not be turned into a graph."""


class LayoutError(AxisplitError):
    """A dim, an axis or a parameter cannot be split, or not like this."""


class LoweringError(AxisplitError):
    """A plan could not be put into the model's own code."""


class PlanMismatchError(AxisplitError):
    """The plan was made for another model, graph, mesh or version."""


class MemoryBoundError(AxisplitError):
    """No plan fits into the memory that was allowed."""


class CollectiveError(AxisplitError):
    """A rank failed, was late, or disagrees with the others."""


class ProofError(AxisplitError):
    """The proof failed, or could not be made."""


class ForgottenStateWarning(UserWarning):
    """Modules had kept state of an earlier call of the whole model; their parts begin without."""


class UnprovedCallWarning(UserWarning):
    """A call of a parallelized model that runs without having been proved: its program cannot be traced."""
