"""A board on which every rank writes, then all meet, then every rank reads: all that the collectives are made of.

Each rank has a slot on each of the two sides of the board. A meeting is: put the signature beside the slot, ring
everybody else's doorbell of this side, wait for as many rings on the own one. Sides alternate. A rank that rings for
meeting k + 1 has read what it wanted of meeting k, so a slot may be written again at meeting k + 2: one round of rings
for each meeting, none to say that reading is done. With two doorbells a rank that is ahead cannot be mistaken for one
that is late: nobody gets two meetings ahead of anybody.

A wait begins with spinning (0.1 µs a look) where every rank has a core of its own, and then sleeps, looking up every
second whether all are alive.
"""

from __future__ import annotations

import logging
import os
import struct
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from axisplit.errors import CollectiveError
from axisplit.runtime.shared.segment import Segment
from axisplit.runtime.signature import DIGEST_BYTES, TEXT_BYTES, Signature, disagreement, signature_of

__all__ = ["Board", "board_bytes"]

_log = logging.getLogger(__name__)
_LINE = 64
"""Of the cache; slots begin at multiples of it."""
_SPIN_S = 2e-3
_LOOKS = 64
_LOOK_UP_S = 1.0
_LATE_S = 10.0
_TURN = struct.Struct("<q")


def board_bytes(num_ranks: int, slot_bytes: int) -> int:
    """What a board of two sides takes, in whole pages."""
    page = os.sysconf("SC_PAGESIZE")
    return -(-2 * (_head_bytes(num_ranks) + num_ranks * slot_bytes) // page) * page


def _head_bytes(num_ranks: int) -> int:
    """Digests and turns of all ranks on one side, in whole cache lines."""
    return -(-num_ranks * (DIGEST_BYTES + _TURN.size) // _LINE) * _LINE


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Board:
    """This rank's view of the board.

    Args:
        segment: of `board_bytes(size, slot_bytes)`; this process already lives in it as `rank`.
        rank, size: of the ranks that meet.
        slot_bytes: what a rank can write for one meeting; a multiple of 64.
        timeout_s: how long a rank may be late.
        names: what to call the ranks in messages.
    """

    def __init__(
        self, segment: Segment, rank: int, size: int, slot_bytes: int, timeout_s: float, names: Sequence[int]
    ) -> None:
        self.rank, self.size, self.slot_bytes = rank, size, slot_bytes
        self._names = names
        self._segment, self._timeout_s = segment, timeout_s
        self.side = 0
        """Of the next meeting."""
        self._turn = 1  # the memory begins with 0: nobody waits
        view, head = memoryview(segment.memory), _head_bytes(size)
        digests, turns = size * DIGEST_BYTES, size * _TURN.size
        self._all_digests = [view[s * head : s * head + digests] for s in (0, 1)]
        self._turns = view[digests : digests + turns]
        own = slice(rank * DIGEST_BYTES, (rank + 1) * DIGEST_BYTES)
        self._own_digest = [digests[own] for digests in self._all_digests]
        self._rings = [[bells[s].ring for r, bells in enumerate(segment.doorbells) if r != rank] for s in (0, 1)]
        self._answers = [segment.doorbells[rank][s].answer for s in (0, 1)]
        self._spin_s = _SPIN_S if size <= _num_cores() else 0.0
        with torch.inference_mode(False):  # else they could only be written in inference mode
            whole = torch.frombuffer(segment.memory, dtype=torch.uint8)
            slots = torch.split(whole[2 * head : 2 * head + 2 * size * slot_bytes], slot_bytes)
        self._slots = [slots[:size], slots[size : 2 * size]]

    def slots(self, side: int) -> tuple[Tensor, ...]:
        """Every rank's slot on a side: uint8 tensors [slot_bytes] in the shared memory."""
        return self._slots[side]

    def meet(self, signature: Signature) -> None:
        """Wait until all have written; what they wrote stays until this rank's next meeting.

        Raises: CollectiveError if the ranks' signatures differ, with all of them, or if a rank has ended or is late.
        """
        side = self.side
        self._own_digest[side][:] = signature.digest
        for ring in self._rings[side]:
            ring()
        answer = self._answers[side]
        for _ in range(self.size - 1):
            if not answer(False):
                self._wait(answer, signature)
        self.side = 1 - side
        self._turn += 1
        if self._all_digests[side] != signature.digest * self.size:
            self.compare(signature)

    def compare(self, signature: Signature) -> None:
        """Meet once more, over the texts. Raises: CollectiveError if they differ."""
        side = self.side
        text = torch.frombuffer(bytearray(signature.text.encode()[:TEXT_BYTES].ljust(TEXT_BYTES)), dtype=torch.uint8)
        self._slots[side][self.rank][:TEXT_BYTES].copy_(text)
        self.meet(_COMPARISON)
        texts = [bytes(slot[:TEXT_BYTES].tolist()).decode(errors="replace").strip() for slot in self._slots[side]]
        if len(set(texts)) > 1:
            raise disagreement(texts, signature.site)

    def _wait(self, answer: Callable[..., bool], signature: Signature) -> None:
        """Until the doorbell rings: spin, then sleep and look up now and then."""
        begin = time.perf_counter()
        while time.perf_counter() - begin < self._spin_s:
            for _ in range(_LOOKS):
                if answer(False):
                    return
        _TURN.pack_into(self._turns, self.rank * _TURN.size, self._turn)  # those who wait, too, are not late
        warned = False
        while not answer(True, _LOOK_UP_S):
            waited = time.perf_counter() - begin
            gone = [r for r in range(self.size) if r != self.rank and self._segment.is_gone(r)]
            if answer(False):  # it may have rung before it left
                return
            late = self._late()
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

    def _missing(self, how: str, ranks: list[int], waited: float, signature: Signature) -> CollectiveError:
        return CollectiveError(
            f"rank {', '.join(str(self._names[r]) for r in ranks)} {how}",
            where=signature.site or None,
            got=f"rank {self._names[self.rank]} waited {waited:.1f} s for it, at {signature.text}",
            needed="every rank alive and in the same collective",
            do="look at that rank's own error or stack first",
        )


_COMPARISON = signature_of("comparison", "")
