"""Splits: every rank gets a part, and the parts are a partition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axisplit.solve.splits import Split, check_split, even_ranges, make_boxes, make_split


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 8))
def test_ranges_are_consecutive_and_balanced(size: int, parts: int, multiple: int) -> None:
    ranges = even_ranges(size, parts, multiple)
    assert [a for a, _ in ranges] == [0, *(b for _, b in ranges[:-1])]
    assert ranges[-1][1] == size
    assert all(a % multiple == 0 or a == size for a, _ in ranges)
    steps = [-(-(b - a) // multiple) for a, b in ranges]
    assert max(steps) - min(steps) <= 1


@given(st.lists(st.integers(1, 20), min_size=1, max_size=3), st.integers(1, 12), st.integers(1, 4))
def test_boxes_partition_the_index_space(sizes: list[int], ranks: int, multiple: int) -> None:
    split = make_split("x", tuple(f"axis {i}" for i in range(len(sizes))), tuple(sizes), ranks, True, multiple)
    if split is None:
        steps = -(-sizes[0] // multiple)
        assert steps < ranks  # the first axis alone does not reach
        return
    assert len(split.boxes) == ranks
    check_split(split)
    even = make_split("x", split.axes, split.sizes, ranks, False, multiple)
    assert (even is not None) == split.even


def test_nine_heads_on_two_ranks() -> None:
    assert make_boxes([9], 2) == (((0, 5),), ((5, 9),))
    assert make_boxes([3], 2) == (((0, 2),), ((2, 3),))  # the kv heads, and with them 6 and 3 of 9 query heads
    assert make_split("heads", ("heads",), (9,), 2, uneven=False) is None


def test_two_kv_heads_on_four_ranks() -> None:
    split = make_split("kv x group", ("kv", "group"), (2, 4), 4, uneven=True)
    assert split is not None
    assert split.even
    assert [split.range_of("kv", rank) for rank in range(4)] == [(0, 1), (0, 1), (1, 2), (1, 2)]
    assert [split.range_of("group", rank) for rank in range(4)] == [(0, 2), (2, 4), (0, 2), (2, 4)]


def test_two_kv_heads_on_three_ranks() -> None:
    assert make_boxes([2, 2], 3) == (((0, 1), (0, 1)), ((0, 1), (1, 2)), ((1, 2), (0, 2)))


def test_no_rank_is_left_empty() -> None:
    assert make_boxes([2], 3) is None
    assert make_boxes([2, 1], 3) is None
    assert make_boxes([128], 3, multiple=64) is None  # two steps of 64 for three ranks
    assert make_boxes([128], 3, multiple=16) == (((0, 48),), ((48, 96),), ((96, 128),))


@pytest.mark.parametrize(
    ("boxes", "fault"),
    [
        ((((0, 5),), ((4, 9),)), "hold 10 of 9"),
        ((((0, 5),), ((4, 8),)), "overlap"),
        ((((0, 9),), ((9, 9),)), None),
    ],
)
def test_a_split_that_is_no_partition_is_noticed(
    boxes: tuple[tuple[tuple[int, int], ...], ...], fault: str | None
) -> None:
    with pytest.raises(AssertionError, match=fault):
        check_split(Split("heads", ("heads",), (9,), boxes))
