"""Payload bytes that one rank sends in a bandwidth-optimal collective.

    all_reduce      2 (n - 1) / n * S      a reduce_scatter, then an all_gather of the sums
    all_gather      total - share of the next rank
    reduce_scatter  total - own share
    all_to_all      what the rank holds - what it keeps
    broadcast       S

On a ring, rank r of an all_gather sends on every share but the one its next neighbour started with, and rank r of a
reduce_scatter sends every share but the one it ends with; for even shares both are (n - 1) / n * total. Planner and
run time share these functions, so that planned bytes equal observed bytes.

Example: [2, 576] float32 (S = 4608 bytes) on 2 ranks. All-reduce: 4608 bytes a rank. All-gather of shares 6:3
(3072 and 1536 bytes): rank 0 sends 4608 - 1536 = 3072, its own share; rank 1 sends 1536.

Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", J. Parallel
Distrib. Comput. 2009. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "all_gather_bytes", "all_reduce_bytes", "all_to_all_bytes", "broadcast_bytes", "busiest_all_gather_bytes",
    "reduce_scatter_bytes",
]  # fmt: skip


def all_reduce_bytes(size_bytes: int, num_ranks: int) -> float:
    """Bytes each rank sends in a bandwidth-optimal all-reduce.

    Args:
        size_bytes: bytes of the full tensor on one rank.
        num_ranks: ranks taking part, at least 1.
    Returns: 2 (n - 1) / n * size_bytes; a reduce_scatter or all_gather costs half of it.
    Raises: ValueError if num_ranks < 1.

    >>> all_reduce_bytes(1024, 4)
    1536.0
    """
    if num_ranks < 1:
        raise ValueError(f"num_ranks must be at least 1, got {num_ranks}")
    return 2 * (num_ranks - 1) * size_bytes / num_ranks


def all_gather_bytes(share_bytes: Sequence[int], rank: int) -> float:
    """Bytes that `rank` sends in a ring all-gather of shares of any sizes.

    Args:
        share_bytes: bytes that each rank contributes; their sum is the gathered tensor.
        rank: the sender.
    Returns: all shares but that of the next rank on the ring; 0.0 for a single rank.
    Raises: IndexError if there is no such rank.

    >>> all_gather_bytes([256, 256, 256, 256], 0)
    768.0
    >>> [all_gather_bytes([600, 300], rank) for rank in range(2)]
    [600.0, 300.0]
    """
    _check_rank(share_bytes, rank)
    return float(sum(share_bytes) - share_bytes[(rank + 1) % len(share_bytes)])


def busiest_all_gather_bytes(share_bytes: Sequence[int]) -> float:
    """Bytes of the rank that sends most in a ring all-gather; in a ring reduce-scatter it sends as many.

    >>> busiest_all_gather_bytes([600, 300])
    600.0
    """
    return float(sum(share_bytes) - min(share_bytes))


def reduce_scatter_bytes(share_bytes: Sequence[int], rank: int) -> float:
    """Bytes that `rank` sends in a ring reduce-scatter into shares of any sizes.

    Args:
        share_bytes: bytes that each rank ends with; their sum is the full tensor on one rank.
        rank: the sender.
    Returns: all shares but its own.
    Raises: IndexError if there is no such rank.

    >>> reduce_scatter_bytes([256, 256, 256, 256], 0)
    768.0
    >>> [reduce_scatter_bytes([600, 300], rank) for rank in range(2)]
    [300.0, 600.0]
    """
    _check_rank(share_bytes, rank)
    return float(sum(share_bytes) - share_bytes[rank])


def all_to_all_bytes(send_bytes: Sequence[int], rank: int) -> float:
    """Bytes that `rank` sends in an all-to-all.

    Args:
        send_bytes: bytes that this rank holds for each rank, itself included; their sum is S.
        rank: the sender.
    Returns: all but what it keeps, (n - 1) / n * S for even shares.
    Raises: IndexError if there is no such rank.

    >>> all_to_all_bytes([256, 256, 256, 256], 0)
    768.0
    """
    _check_rank(send_bytes, rank)
    return float(sum(send_bytes) - send_bytes[rank])


def broadcast_bytes(size_bytes: int, num_ranks: int) -> float:
    """Bytes that the most loaded rank sends in a pipelined broadcast.

    Args:
        size_bytes: bytes of the tensor.
        num_ranks: ranks taking part, at least 1.
    Returns: size_bytes, or 0.0 for a single rank.
    Raises: ValueError if num_ranks < 1.

    >>> broadcast_bytes(1024, 4)
    1024.0
    """
    if num_ranks < 1:
        raise ValueError(f"num_ranks must be at least 1, got {num_ranks}")
    return float(size_bytes) if num_ranks > 1 else 0.0


def _check_rank(share_bytes: Sequence[int], rank: int) -> None:
    if not 0 <= rank < len(share_bytes):
        raise IndexError(f"rank {rank} of {len(share_bytes)} ranks")
