"""The formulae against a ring that is walked step by step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axisplit.runtime.costs import (
    all_gather_bytes,
    all_reduce_bytes,
    all_to_all_bytes,
    broadcast_bytes,
    reduce_scatter_bytes,
)

shares = st.lists(st.integers(0, 50), min_size=1, max_size=5)


@given(shares)
def test_all_gather_sends_what_a_ring_sends(sizes: list[int]) -> None:
    n = len(sizes)
    for rank in range(n):
        assert all_gather_bytes(sizes, rank) == sum(sizes[(rank - step) % n] for step in range(n - 1))


@given(shares)
def test_reduce_scatter_sends_what_a_ring_sends(sizes: list[int]) -> None:
    n = len(sizes)
    for rank in range(n):
        assert reduce_scatter_bytes(sizes, rank) == sum(sizes[(rank - 1 - step) % n] for step in range(n - 1))


@given(st.integers(1, 9), st.integers(0, 40))
def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather(n: int, share: int) -> None:
    even = [share] * n
    assert all_reduce_bytes(share * n, n) == reduce_scatter_bytes(even, 0) + all_gather_bytes(even, 0)
    assert all_to_all_bytes(even, 0) == share * (n - 1)


def test_one_rank_sends_nothing_and_no_rank_is_refused() -> None:
    assert all_reduce_bytes(8, 1) == all_gather_bytes([8], 0) == broadcast_bytes(8, 1) == 0.0
    for call in (lambda: all_reduce_bytes(8, 0), lambda: broadcast_bytes(8, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            call()
    with pytest.raises(IndexError):
        all_gather_bytes([8], 1)
