"""Pipeline stages: a chain of blocks cut into runs, the largest as small as can be, the others as even as they may.

>>> assign_stages([5, 1, 1, 1, 1, 1], 3)
[(0, 1), (1, 3), (3, 6)]
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def assign_stages(sizes: Sequence[float], stages: int) -> list[tuple[int, int]]:
    """First and one past the last block of each stage; each has at least one.

    Args:
        sizes: bytes of each block, in the order in which they run; at least as many as stages.
    """
    assert 1 <= stages <= len(sizes)
    cap = _smallest_cap(sizes, stages)
    found, start = list[tuple[int, int]](), 0
    for left in range(stages, 0, -1):
        end, held = start + 1, sizes[start]
        share = sum(sizes[start:]) / left
        while len(sizes) - end >= left:  # a block at least for each of the others
            fits = held + sizes[end] <= cap
            must = left == 1 or _stages_needed(sizes[end:], cap) > left - 1
            if not must and not (fits and held + sizes[end] / 2 < share):
                break
            held, end = held + sizes[end], end + 1
        found.append((start, end))
        start = end
    return found


def _smallest_cap(sizes: Sequence[float], stages: int) -> float:
    """The least size of the largest stage: one of the sums of consecutive blocks."""
    sums = [0.0, *accumulate(sizes)]
    caps = sorted({sums[j] - sums[i] for i in range(len(sizes)) for j in range(i + 1, len(sums))})
    low, high = 0, len(caps) - 1
    while low < high:
        middle = (low + high) // 2
        if caps[middle] >= max(sizes) and _stages_needed(sizes, caps[middle]) <= stages:
            high = middle
        else:
            low = middle + 1
    return caps[low]


def _stages_needed(sizes: Sequence[float], cap: float) -> int:
    """How many stages of at most `cap` the blocks take when each is filled before the next."""
    count, held = 0, float("inf")
    for size in sizes:
        if held + size > cap:
            count, held = count + 1, 0.0
        held += size
    return count
