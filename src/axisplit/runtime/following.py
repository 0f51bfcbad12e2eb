"""How long an index of the inputs is, which is another length in every call, and whether ranks hold parts of it.

A length that the ranks divide is cut: a reduce-scatter or a slice leaves each rank its part, and an all-gather behind
it makes the values whole. Any other length stays whole on every rank (`sites.whole_site`). A gather sees only how long
a rank's part is. `Lengths` says what it is a part of: what was last cut, or left whole. Where activations
are computed once more in backward (checkpointing) that may have been another call: then only a length that
came about in one way alone is sure, and any other an error.
"""

from __future__ import annotations

from collections import defaultdict

import torch

from axisplit.errors import CollectiveError

__all__ = ["Lengths"]


class Lengths:
    """The lengths that one index of the inputs had on this rank.

    >>> lengths = Lengths("inputs.ids[1]", 2)
    >>> lengths.cut(6), lengths.is_part(3), lengths.cut(3), lengths.is_part(3)
    (True, True, False, False)
    """

    def __init__(self, name: str, num_ranks: int) -> None:
        self._name, self._num_ranks = name, num_ranks
        self._last = (-1, False)  # length on this rank, whether it is a part
        self._seen: defaultdict[int, set[bool]] = defaultdict(set)

    def cut(self, length: int) -> bool:
        """Whether a whole length is cut."""
        is_cut = length % self._num_ranks == 0
        self._last = (length // self._num_ranks if is_cut else length, is_cut)
        self._seen[self._last[0]].add(is_cut)
        return is_cut

    def is_part(self, length: int) -> bool:
        """Whether a length on this rank is a part of the whole one.

        Raises: CollectiveError if that cannot be told.
        """
        again = torch._C._current_graph_task_id() != -1
        ways = self._seen.get(length, set()) if again else {self._last[1]} if length == self._last[0] else set()
        if len(ways) == 1:
            return next(iter(ways))
        raise CollectiveError(
            "it cannot be told whether these are a rank's part of the values or all of them",
            where=self._name,
            got=f"length {length} in " + ("what backward computes again" if again else "a call of a part of the model"),
            needed=f"not both of {length} and {length * self._num_ranks} in use"
            if again
            else "a call of the whole model",
            do="go backward before the next forward, or pad one of the two" if again else "call the whole model",
        )
