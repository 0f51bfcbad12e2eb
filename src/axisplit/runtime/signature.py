"""What a rank is about to do, in the forms that travel beside the data: ranks that meet in different ones notice."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from hashlib import sha256

from axisplit.errors import CollectiveError

__all__ = ["DIGEST_BYTES", "TEXT_BYTES", "Signature", "check_alike", "disagreement", "signature_of"]

DIGEST_BYTES = 16
"""A multiple of every element size, so that what follows stays aligned."""
TEXT_BYTES = 256


class Signature:
    """A collective, for example `all_reduce_sum m/mlp torch.float32 [2, 3]`."""

    __slots__ = ("digest", "site", "text")

    def __init__(self, site: str, text: str) -> None:
        self.site = site
        self.text = text
        self.digest = sha256(text.encode()).digest()[:DIGEST_BYTES]

    @property
    def row(self) -> bytes:
        """The text, cut and filled up to `TEXT_BYTES`."""
        return self.text.encode()[:TEXT_BYTES].ljust(TEXT_BYTES)


@lru_cache(maxsize=4096)
def signature_of(kind: str, site: str, *details: Hashable) -> Signature:
    """The signature of a collective; all of it must be alike on all ranks. Shapes are tuples or `torch.Size`."""
    return Signature(site, " ".join([kind, site or "-", *map(_text, details)]).strip())


def _text(detail: Hashable) -> str:
    return str(list(detail)) if isinstance(detail, tuple) else str(detail)


def check_alike(rows: Sequence[bytes], site: str) -> None:
    """Compare the `row` of every rank. Raises: CollectiveError with all texts if they differ."""
    texts = [row.decode(errors="replace").strip() for row in rows]
    if len(set(texts)) > 1:
        raise disagreement(texts, site)


def disagreement(texts: Sequence[str], site: str) -> CollectiveError:
    """The error for ranks that met in different collectives: every side's signature."""
    return CollectiveError(
        "ranks disagree at a collective",
        where=site or None,
        got="\n".join(f"rank {rank}: {text}" for rank, text in enumerate(texts)),
        needed="the same collective, site, dtype and shape on every rank, in the same order",
        do="look for control flow, inputs or a plan that differ between ranks",
    )
