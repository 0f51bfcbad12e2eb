"""Messages between processes: exact shares, guarded by a digest of what the ranks think they are doing.

Gloo, left alone, hangs, aborts or returns wrong numbers where ranks meet in different collectives, and refuses uneven
shares in an all-gather. Here every exchange is one all-to-all of bytes: any dtype, any shares, nothing padded, nothing
sent to oneself, and 16 bytes in front of each message: the digest of kind, site, dtype and shape. All ranks exchange
with all, so where one differs all notice, and then tell each other the texts. Only ranks whose message sizes differ
still abort inside gloo; `ProcessGroup(..., check=True)` compares before the message.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from axisplit.errors import CollectiveError

__all__ = ["Signature", "Wire", "disagreement", "signature_of"]

_TEXT_BYTES = 256
_DIGEST_BYTES = 16
"""A multiple of every element size, so that what follows stays aligned."""
_KEPT_BYTES = 2**17
_MAX_LANES = 1024


class Signature:
    """What a rank is about to do, in the forms that travel; for example `all_reduce_sum m/mlp torch.float32 [2, 3]`."""

    def __init__(self, site: str, text: str) -> None:
        self.site = site
        self.text = text
        self.digest = _bytes_of(sha256(text.encode()).digest()[:_DIGEST_BYTES])


@lru_cache(maxsize=4096)
def signature_of(kind: str, site: str, *details: str) -> Signature:
    """The signature of a collective; all of it must be alike on all ranks."""
    return Signature(site, " ".join([kind, site or "-", *details]).strip())


def disagreement(texts: Sequence[str], site: str) -> CollectiveError:
    """The error for ranks that met in different collectives: every side's signature."""
    return CollectiveError(
        "ranks disagree at a collective",
        where=site or None,
        got="\n".join(f"rank {rank}: {text}" for rank, text in enumerate(texts)),
        needed="the same collective, site, dtype and shape on every rank, in the same order",
        do="look for control flow, inputs or a plan that differ between ranks",
    )


class Wire:
    """A rank's messages to the others of a torch.distributed group.

    Args:
        group: the group, with this process's `rank` in it and its `size`.
        device: where texts travel from, as the backend wants it.
    """

    def __init__(self, group: dist.ProcessGroup, rank: int, size: int, device: torch.device) -> None:
        self._group = group
        self._rank = rank
        self._size = size
        self._device = device
        self._guards = dist.get_backend(group) != "fake"
        self._lanes: dict[tuple[Signature, int], _Lane] = {}

    def gather(
        self, x: Tensor, shapes: Sequence[Sequence[int]], signature: Signature, *, phase: int | None = None
    ) -> list[Tensor]:
        """Every rank's tensor; `shapes` are those of all ranks. For the rest see `swap`."""
        return self.swap([x] * self._size, shapes, signature, phase=phase)

    def swap(
        self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], signature: Signature, *, phase: int | None
    ) -> list[Tensor]:
        """Send parts[r] to rank r and receive from each a tensor of shapes[r]. The own part is returned as it is.

        Args:
            parts: detached tensors of one dtype and device, contiguous or not.
            shapes: what arrives.
            signature: alike on all ranks; it determines shapes and dtypes.
            phase: a number for this swap among those of one signature, if what arrives is used up before the next:
                then small buffers are kept for it. None for new buffers.
        Raises: CollectiveError on every rank if a signature differs (on CPU: reading a digest would stall a device).
        """
        own = parts[self._rank]
        lane = self._lanes.get((signature, phase)) if phase is not None else None
        if lane is None:
            guards = self._guards and own.device.type == "cpu"
            lane = _Lane(parts, shapes, self._rank, signature.digest if guards else None)
            if phase is not None and lane.num_bytes <= _KEPT_BYTES:
                self._keep((signature, phase), lane)
        for buffer, part in zip(lane.outgoing, parts, strict=True):
            if buffer is not None:
                buffer.copy_(part)
        self._exchange(lane.received, lane.sent, lane.receive_sizes, lane.send_sizes)
        if not all(torch.equal(head, signature.digest) for head in lane.heads):
            self.compare(signature)
        return [own if buffer is None else buffer for buffer in lane.incoming]

    def compare(self, signature: Signature) -> None:
        """Exchange the texts. Raises: CollectiveError on every rank if they differ."""
        own = _bytes_of(signature.text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES)).to(self._device)
        sizes = [0 if r == self._rank else _TEXT_BYTES for r in range(self._size)]
        received = own.new_empty(sum(sizes))
        self._exchange(received, own.repeat(self._size - 1), sizes, sizes)
        rows = list(torch.split(received, sizes))
        rows[self._rank] = own
        texts = [bytes(row.tolist()).decode(errors="replace").strip() for row in rows]
        if len(set(texts)) > 1 and self._guards:
            raise disagreement(texts, signature.site)

    def _exchange(self, received: Tensor, sent: Tensor, receive: list[int], send: list[int]) -> None:
        """One all-to-all of bytes, sizes per rank."""
        if self._size > 1:
            dist.all_to_all_single(received, sent, receive, send, self._group)

    def _keep(self, key: tuple[Signature, int], lane: _Lane) -> None:
        if len(self._lanes) >= _MAX_LANES:
            self._lanes.clear()
        self._lanes[key] = lane


class _Lane:
    """Buffers of one exchange: for every other rank [digest | payload], and views into them."""

    def __init__(
        self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], rank: int, digest: Tensor | None
    ) -> None:
        head = 0 if digest is None else _DIGEST_BYTES
        with torch.inference_mode(False):  # else they could only be reused in inference mode
            self.sent, self.send_sizes, self.outgoing, heads = _packed(
                [p.shape for p in parts], parts[rank], rank, head
            )
            self.received, self.receive_sizes, self.incoming, self.heads = _packed(shapes, parts[rank], rank, head)
            for view in heads:
                view.copy_(digest)  # type: ignore[arg-type]  # no views without a digest
        self.num_bytes = self.sent.numel() + self.received.numel()


def _packed(
    shapes: Sequence[Sequence[int]], like: Tensor, rank: int, head: int
) -> tuple[Tensor, list[int], list[Tensor | None], list[Tensor]]:
    """One buffer for all ranks but this: (buffer, bytes per rank, payloads with None for this rank, digests)."""
    sizes = [0 if r == rank else head + prod(shape) * like.element_size() for r, shape in enumerate(shapes)]
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, device=like.device)
    rows = torch.split(buffer, sizes)
    others = [r for r in range(len(shapes)) if r != rank]
    payloads: list[Tensor | None] = [None] * len(shapes)
    for r in others:
        payloads[r] = rows[r][head:].view(like.dtype).view(tuple(shapes[r]))
    return buffer, sizes, payloads, [rows[r][:head] for r in others] if head else []


def _bytes_of(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
