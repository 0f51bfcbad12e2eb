"""Messages between processes over sockets: exact shares, guarded by a digest of what the ranks think they are doing.

Gloo, left alone, hangs, aborts or returns wrong numbers where ranks meet in different collectives, and refuses uneven
shares in an all-gather. Here every exchange is one all-to-all of bytes: any dtype, any shares, nothing padded, nothing
sent to oneself, and 16 bytes in front of each message: the digest of kind, site, dtype and shape. All ranks exchange
with all, so where one differs all notice, and then tell each other the texts. Only ranks whose message sizes differ
still abort inside gloo; `ProcessGroup(..., check=True)` compares before the message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from axisplit.runtime.signature import DIGEST_BYTES, TEXT_BYTES, Signature, check_alike

__all__ = ["Combine", "Wire"]

Combine = Callable[..., Tensor]
"""`combine(parts, out=None)`: one tensor of the parts of all ranks, in rank order."""
SMALL_BYTES = 4096
"""Up to here latency counts and not bytes: one exchange of the whole tensor in place of a reduce-scatter and an
all-gather, and in place of a broadcast, so that ranks which name different sources are found out."""
_KEPT_BYTES = 2**17
_MAX_LANES = 1024


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
        self, x: Tensor, shapes: Sequence[Sequence[int]], signature: Signature, *, phase: int = 0
    ) -> list[Tensor]:
        """Every rank's tensor; `shapes` are those of all ranks. For the rest see `swap`."""
        return self.swap([x] * self._size, shapes, signature, phase=phase)

    def reduce(self, x: Tensor, combine: Combine, signature: Signature) -> Tensor:
        """One tensor of all ranks' x, which have one shape and dtype: a new one."""
        if self._size == 2 or x.numel() * x.element_size() <= SMALL_BYTES:
            return combine(self.gather(x, [x.shape] * self._size, signature))
        flat, n = x.reshape(-1), self._size
        sizes = [(r + 1) * flat.numel() // n - r * flat.numel() // n for r in range(n)]
        chunks = self.swap(torch.split(flat, sizes), [(sizes[self._rank],)] * n, signature)
        sums = self.gather(combine(chunks), [(size,) for size in sizes], signature, phase=1)
        return torch.cat(sums).view(x.shape)

    def broadcast(self, x: Tensor, src: int, signature: Signature) -> Tensor:
        """Rank `src`'s tensor, a new one; x has one shape and dtype on all ranks."""
        if x.numel() * x.element_size() <= SMALL_BYTES:
            return self.gather(x, [x.shape] * self._size, signature)[src].clone()
        result = x.clone(memory_format=torch.contiguous_format)
        dist.broadcast(result.view(-1).view(torch.uint8), group=self._group, group_src=src)
        return result

    def swap(
        self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], signature: Signature, *, phase: int = 0
    ) -> list[Tensor]:
        """Send parts[r] to rank r and receive from each a tensor of shapes[r]. The own part is returned as it is.

        Args:
            parts: detached tensors of one dtype and device, contiguous or not.
            shapes: what arrives.
            signature: alike on all ranks; it determines shapes and dtypes.
            phase: a number for this swap among those of one signature; what arrives is used up before the next with
                both, as small buffers are kept.
        Raises: CollectiveError on every rank if a signature differs (on CPU: reading a digest would stall a device).
        """
        own = parts[self._rank]
        lane = self._lanes.get((signature, phase))
        if lane is None:
            guards = self._guards and own.device.type == "cpu"
            lane = _Lane(parts, shapes, self._rank, _bytes_of(signature.digest) if guards else None)
            if lane.num_bytes <= _KEPT_BYTES:
                self._keep((signature, phase), lane)
        for buffer, part in zip(lane.outgoing, parts, strict=True):
            if buffer is not None:
                buffer.copy_(part)
        self._exchange(lane.received, lane.sent, lane.receive_sizes, lane.send_sizes)
        if lane.differs():
            self.compare(signature)
        return [own if buffer is None else buffer for buffer in lane.incoming]

    def compare(self, signature: Signature) -> None:
        """Exchange the texts. Raises: CollectiveError on every rank if they differ."""
        own = _bytes_of(signature.row).to(self._device)
        sizes = [0 if r == self._rank else TEXT_BYTES for r in range(self._size)]
        received = own.new_empty(sum(sizes))
        self._exchange(received, own.repeat(self._size - 1), sizes, sizes)
        rows = list(torch.split(received, sizes))
        rows[self._rank] = own
        if self._guards:
            check_alike([bytes(row.tolist()) for row in rows], signature.site)

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
        head = 0 if digest is None else DIGEST_BYTES
        with torch.inference_mode(False):  # else they could only be reused in inference mode
            self.sent, self.send_sizes, self.outgoing, heads = _packed(
                [p.shape for p in parts], parts[rank], rank, head
            )
            self.received, self.receive_sizes, self.incoming, self.heads = _packed(shapes, parts[rank], rank, head)
            self._digest = torch.empty(0, dtype=torch.uint8) if digest is None else digest
            for view in heads:
                view.copy_(self._digest)
        self.num_bytes = self.sent.numel() + self.received.numel()

    def differs(self) -> bool:
        """Whether a message that arrived has another digest."""
        return any(not torch.equal(head, self._digest) for head in self.heads)


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
