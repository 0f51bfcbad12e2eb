"""Which ranks share a machine, and the way to them: a board for each machine, sockets between machines."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import mmap
import platform
import weakref
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from axisplit.runtime.shared.board import Board, board_bytes
from axisplit.runtime.shared.segment import Segment
from axisplit.runtime.shared.spanning import Machines, SpanningWire
from axisplit.runtime.shared.wire import SharedWire
from axisplit.runtime.wire import Wire

__all__ = ["MESSAGE_BYTES", "connect", "share_memory"]

_log = logging.getLogger(__name__)
MESSAGE_BYTES = 64
_SIDE_BYTES = 2**23
"""Of the slots of a side: 16 MiB a board, of the 64 that a container has for all shared memory where nobody asks."""
_LEAST_SLOT_BYTES = 2**18
"""A chunk takes longer to copy than to announce."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Tell = Callable[[bytes], Sequence[bytes]]
"""Send every rank the same message of at most `MESSAGE_BYTES`; returns what all sent, in rank order."""


def connect(
    rank: int, sockets: Wire, tell: Tell, among: Callable[[Sequence[int]], Wire], timeout_s: float
) -> Wire | SharedWire | SpanningWire:
    """The fastest way to the other ranks that all of them have; every rank calls this alike.

    Args:
        rank: of this process.
        sockets: to all ranks; what there is where machines have one rank each, or share no memory.
        tell: over `sockets`.
        among: a wire among some ranks, called by those only.
        timeout_s: how long a rank may be late.
    """
    machines = Machines.of(tell(_machine()))
    if all(len(ranks) == 1 for ranks in machines.ranks):
        return sockets
    near = share_memory(rank, machines.of_rank(rank), tell, timeout_s)
    if near is None or len(machines.ranks) == 1:
        return near or sockets
    leaders = [ranks[0] for ranks in machines.ranks]
    return SpanningWire(near, among(leaders) if rank in leaders else None, sockets, machines, rank)


def share_memory(
    rank: int, local: Sequence[int], tell: Tell, timeout_s: float, *, slot_bytes: int = 0
) -> SharedWire | None:
    """A board for the ranks `local` of one machine, while those of others make theirs.

    Args:
        slot_bytes: what a rank can write at a time, a multiple of 64; the ranks' share of 8 MiB where it is 0.
    Returns: None on every rank of every machine where one cannot join, as in containers that share no memory.
    """
    slot_bytes = slot_bytes or _slot_bytes(len(local))
    num_bytes = board_bytes(len(local), slot_bytes)
    made = _attempt(lambda: Segment(None, len(local), num_bytes)) if rank == local[0] else None
    name = tell(made.name.encode() if made else b"")[local[0]].decode()
    segment = made or (_attempt(lambda: Segment(name, len(local), num_bytes)) if name else None)
    if segment is not None:
        segment.live_as(local.index(rank))
    native = _native()
    joined = tell(b"" if segment is None else b"joined" if native is None else b"joined, compiled")
    if made is not None:
        made.forget_names()
    if segment is None or not all(joined):
        if segment is not None:
            segment.close()
        _log.warning("ranks of one machine share no memory: their collectives go through sockets, which is slower")
        return None
    same = native if len(set(joined)) == 1 else None
    wire = SharedWire(Board(segment, local.index(rank), len(local), slot_bytes, timeout_s, local, same))
    weakref.finalize(wire, segment.close)
    return wire


def _slot_bytes(num_ranks: int) -> int:
    """A rank's share of a side, in whole pages.

    >>> [_slot_bytes(num_ranks) // 1024 for num_ranks in (2, 3, 64)]
    [4096, 2728, 256]
    """
    return max(_LEAST_SLOT_BYTES, _SIDE_BYTES // num_ranks // mmap.PAGESIZE * mmap.PAGESIZE)


def _machine() -> bytes:
    """What is alike for processes of one running system, and differs between systems."""
    running = _BOOT_ID.read_text() if _BOOT_ID.exists() else platform.node()
    return sha256(running.encode()).digest()[: MESSAGE_BYTES // 2]


def _native() -> ModuleType | None:
    """The compiled part, where it was built."""
    if importlib.util.find_spec("axisplit.runtime.shared.native") is None:
        return None
    return importlib.import_module("axisplit.runtime.shared.native")


def _attempt(make: Callable[[], Segment]) -> Segment | None:
    try:
        return make()
    except OSError as error:
        _log.warning("no shared memory: %s", error)
        return None
