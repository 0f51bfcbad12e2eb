"""A board on which every rank writes, then all meet, then every rank reads: all that the collectives are made of.

Each rank has a slot on each of the two sides of the board, and sides alternate. A meeting is: put the signature beside
what was written, say to everybody that one has come, wait until all have. A rank that comes to meeting k + 1 has read
what it wanted of meeting k, so a slot may be written again for meeting k + 2: one round of signals for each meeting,
none to say that reading is done; nobody gets two meetings ahead of anybody.

Signals are rings of the others' doorbells, of which there is one for each side, so that a rank that is ahead cannot be
mistaken for one that is late. Where the compiled `native` is there on all ranks, they are numbers in the shared memory,
and doorbells wake sleepers only. Python alone cannot use such numbers: it has no order of memory to promise.

A wait begins with looking where every rank has a core of its own, and then sleeps, looking up now and then whether all
are alive.
"""

from __future__ import annotations

import logging
import os
import struct
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from axisplit.errors import CollectiveError
from axisplit.runtime.shared.segment import Segment
from axisplit.runtime.signature import DIGEST_BYTES, TEXT_BYTES, Signature, check_alike, signature_of
from axisplit.runtime.sums import max_over_ranks, sum_in_rank_order
from axisplit.runtime.wire import Combine

__all__ = ["Board", "board_bytes", "num_cores"]

_log = logging.getLogger(__name__)
_LINE = 64
"""Of the cache; slots begin at multiples of it."""
_SPIN_S = 2e-3
_LOOKS = 64
_LOOK_UP_S = 0.2
_LATE_S = 10.0
_TURN = struct.Struct("<q")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""µs that a container's processes may compute together, and in how many."""
_RING, _ABSENT = 1, 2
"""What `native.meet` found: a rank that sleeps; not all have come."""
_NATIVE: dict[tuple[Combine, torch.dtype], int] = {
    (sum_in_rank_order, torch.float32): 0,
    (sum_in_rank_order, torch.float64): 1,
    (sum_in_rank_order, torch.int32): 2,
    (sum_in_rank_order, torch.int64): 3,
    (sum_in_rank_order, torch.bfloat16): 4,
    (max_over_ranks, torch.int64): 5,
}
"""What `native` can compute, by its number there."""


def board_bytes(num_ranks: int, slot_bytes: int) -> int:
    """What digests, a line for each rank and two sides of slots take, in whole pages."""
    page = os.sysconf("SC_PAGESIZE")
    total = 2 * _head_bytes(num_ranks) + num_ranks * _LINE + 2 * num_ranks * slot_bytes
    return -(-total // page) * page


def _head_bytes(num_ranks: int) -> int:
    """Digests and turns of all ranks on one side, in whole cache lines."""
    return -(-num_ranks * (DIGEST_BYTES + _TURN.size) // _LINE) * _LINE


def num_cores() -> int:
    """Cores that this process may use at a time: of its affinity, as far as a container's quota goes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if _QUOTA.exists():
        allowed, period = _QUOTA.read_text().split()
        if allowed != "max":
            cores = min(cores, -(-int(allowed) // int(period)))
    return cores


class Board:
    """This rank's view of the board.

    Args:
        segment: of `board_bytes(size, slot_bytes)`; this process already lives in it as `rank`.
        rank, size: of the ranks that meet.
        slot_bytes: what a rank can write for one meeting; a multiple of 64.
        timeout_s: how long a rank may be late.
        names: what to call the ranks in messages.
        native: the compiled module, if all ranks have it.
    """

    def __init__(
        self,
        segment: Segment,
        rank: int,
        size: int,
        slot_bytes: int,
        timeout_s: float,
        names: Sequence[int],
        native: ModuleType | None,
    ) -> None:
        self.rank, self.size, self.slot_bytes = rank, size, slot_bytes
        self._names, self._segment, self._timeout_s = names, segment, timeout_s
        self.side = 0
        """Of the next meeting."""
        self._turn = 1  # the memory begins with 0: nobody waits
        self._left: BaseException | None = None
        """What broke off a meeting: nobody can say any more which one comes next."""
        view, head = memoryview(segment.memory), _head_bytes(size)
        digests, turns = size * DIGEST_BYTES, size * _TURN.size
        self._all_digests = [view[s * head : s * head + digests] for s in (0, 1)]
        self._turns = view[digests : digests + turns]
        own = slice(rank * DIGEST_BYTES, (rank + 1) * DIGEST_BYTES)
        self._own_digest = [digests[own] for digests in self._all_digests]
        self._bells = [[bells[s].ring for r, bells in enumerate(segment.doorbells) if r != rank] for s in (0, 1)]
        self._answers = [segment.doorbells[rank][s].answer for s in (0, 1)]
        self._spin_s = _SPIN_S if size <= num_cores() else 0.0
        lines, slots_at = 2 * head, 2 * head + size * _LINE
        self._native, self._flags = native, None
        if native is not None:
            spin_ns = int(self._spin_s * 1e9)
            self._flags = native.open(segment.memory, rank, size, slot_bytes, head, lines, slots_at, spin_ns)
        with torch.inference_mode(False):  # else they could only be written in inference mode
            whole = torch.frombuffer(segment.memory, dtype=torch.uint8)
            slots = torch.split(whole[slots_at : slots_at + 2 * size * slot_bytes], slot_bytes)
        self._slots = [slots[:size], slots[size : 2 * size]]

    def slots(self, side: int) -> tuple[Tensor, ...]:
        """Every rank's slot on a side: uint8 tensors [slot_bytes] in the shared memory."""
        return self._slots[side]

    def meet(self, signature: Signature) -> None:
        """Wait until all have written; what they wrote stays until this rank's next meeting.

        Raises: CollectiveError if the ranks' signatures differ, with all of them, or if a rank has ended or is late.
        """
        self._meet(signature, 0, 0)

    def post(self, x: Tensor, view: Tensor, signature: Signature) -> None:
        """Write x, contiguous, into `view`, its place at the beginning of the own slot, and meet."""
        if self._native is not None:
            self._meet(signature, x.data_ptr(), x.nbytes)
        else:
            view.copy_(x)
            self._meet(signature)

    def reduction(self, combine: Combine, dtype: torch.dtype) -> int | None:
        """What `reduce` calls this reduction; None where Python has to do it."""
        return None if self._native is None or self.size == 1 else _NATIVE.get((combine, dtype))

    def reduce(self, x: Tensor, out: Tensor, how: int, signature: Signature) -> None:
        """Write x, contiguous, into the own slot, meet, and combine what all wrote into `out`, alike to x or x itself.

        Args:
            how: a `reduction` of x's dtype.
        """
        address = x.data_ptr()
        total = (out.data_ptr(), x.numel(), how)
        if not self._meet(signature, address, x.nbytes, *total):
            self._native.reduce(self._flags, address, *total)  # type: ignore[union-attr]

    def _meet(self, signature: Signature, *written: int) -> bool:
        """Come to the next meeting and wait for all, who must come with the same signature.

        Args:
            written: what `native.meet` takes behind the digest.
        Returns: whether that did all of it.
        """
        if self._left is not None:
            raise self._unfinished(signature)
        side, found = self.side, _ABSENT
        if self._native is None:
            self._wait_by_bells(signature)
        else:
            found = self._native.meet(self._flags, signature.digest, *written)
            if found:
                self._wait_by_flags(found, signature)
        self.side = 1 - side
        self._turn += 1
        if found and self._all_digests[side] != signature.digest * self.size:
            self.compare(signature)
        return not found

    def _wait_by_bells(self, signature: Signature) -> None:
        side = self.side
        self._own_digest[side][:] = signature.digest
        for ring in self._bells[side]:
            ring()
        answer = self._answers[side]
        for _ in range(self.size - 1):
            if not answer(False) and not self._spin(answer):
                self._sleep(partial(answer, True, _LOOK_UP_S), signature)

    def _wait_by_flags(self, found: int, signature: Signature) -> None:
        if found & _RING:
            for ring in self._bells[0]:
                ring()
        if found & _ABSENT:
            self._sleep_by_flags(signature)

    def _sleep_by_flags(self, signature: Signature) -> None:
        native, flags, answer = self._native, self._flags, self._answers[0]
        assert native is not None

        def came() -> bool:
            found: bool = native.came(flags) or (answer(True, _LOOK_UP_S) and native.came(flags))
            return found

        native.sleep(flags, True)
        try:
            self._sleep(came, signature)
        finally:
            native.sleep(flags, False)

    def compare(self, signature: Signature) -> None:
        """Meet once more, over the texts. Raises: CollectiveError if they differ."""
        side = self.side
        self._slots[side][self.rank][:TEXT_BYTES].copy_(torch.frombuffer(bytearray(signature.row), dtype=torch.uint8))
        self.meet(_COMPARISON)
        check_alike([bytes(slot[:TEXT_BYTES].tolist()) for slot in self._slots[side]], signature.site)

    def _spin(self, answer: Callable[..., bool]) -> bool:
        """Whether the doorbell rang while it was worth looking."""
        begin = time.perf_counter()
        while time.perf_counter() - begin < self._spin_s:
            for _ in range(_LOOKS):
                if answer(False):
                    return True
        return False

    def _sleep(self, came: Callable[[], bool], signature: Signature) -> None:
        """Until `came`, which sleeps for a moment at most, says so."""
        try:
            self._look_up(came, signature)
        except BaseException as error:  # Ctrl-C too
            self._left = error
            raise

    def _look_up(self, came: Callable[[], bool], signature: Signature) -> None:
        begin = time.perf_counter()
        _TURN.pack_into(self._turns, self.rank * _TURN.size, self._turn)  # those who wait, too, are not late
        warned = False
        while not came():
            waited = time.perf_counter() - begin
            gone = [r for r in range(self.size) if r != self.rank and self._segment.is_gone(r)]
            late = self._late()
            if gone and came():  # it may have come before it left
                return
            if culprits := [rank for rank in gone if rank in late]:
                raise self._missing("has ended", culprits, waited, signature)
            if gone or waited > self._timeout_s:  # who has ended had given up waiting
                raise self._missing("is late", late, waited, signature)
            if waited > _LATE_S and not warned:
                warned = True
                names = ", ".join(str(self._names[r]) for r in late)
                _log.warning("waiting for rank %s since %.0f s, at %s", names, waited, signature.text)

    def _late(self) -> list[int]:
        """Ranks that do not wait at this meeting."""
        turns = [turn for (turn,) in _TURN.iter_unpack(self._turns)]
        return [rank for rank in range(self.size) if rank != self.rank and turns[rank] != self._turn]

    def _unfinished(self, signature: Signature) -> CollectiveError:
        return CollectiveError(
            "an earlier collective of these ranks was left unfinished",
            where=signature.site or None,
            got=str(self._left).splitlines()[0] if str(self._left) else repr(self._left),
            needed="a group in which all ranks are alive",
            do="end the ranks and start them anew",
        )

    def _missing(self, how: str, ranks: list[int], waited: float, signature: Signature) -> CollectiveError:
        return CollectiveError(
            f"rank {', '.join(str(self._names[r]) for r in ranks)} {how}",
            where=signature.site or None,
            got=f"rank {self._names[self.rank]} waited {waited:.1f} s for it, at {signature.text}",
            needed="every rank alive and in the same collective",
            do="look at that rank's own error or stack first",
        )


_COMPARISON = signature_of("comparison", "")
