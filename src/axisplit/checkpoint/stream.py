"""Read any slice of any tensor of a checkpoint, without the rest of it.

A slice is given per dim as half-open index ranges; what comes back is their concatenation along each dim. The ranges'
product is a list of boxes; a box is read in runs of bytes. Two runs less than `GAP_BYTES` apart are read together with
the gap between them (that takes no longer than another call, and disks read ahead), others apart.

Invariants: bytes read <= bytes of the slice + `GAP_BYTES` per run; memory <= the slice + `PIECE_BYTES`.

Worked example: columns 2:4 of an F32 [3, 4] tensor are runs of 8 bytes at 8, 24 and 40 (gaps of 8 bytes): one read of
[8, 48), then a strided copy of 24 bytes. Rows 1:3 are one run, read straight into the result.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import FileIO
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from axisplit.checkpoint.header import TensorEntry
from axisplit.checkpoint.index import read_entries
from axisplit.errors import InputError

if TYPE_CHECKING:
    import torch

GAP_BYTES = 16 * 2**10
PIECE_BYTES = 4 * 2**20

Ranges = tuple[tuple[int, int], ...]
RangesPerDim = tuple[Ranges | None, ...]


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a directory by name; their bytes stay on disk until `read_slice`."""

    directory: Path
    tensors: Mapping[str, TensorEntry]
    stamps: Mapping[Path, tuple[int, int]] = field(repr=False)

    def read_slice(self, name: str, ranges_per_dim: RangesPerDim) -> torch.Tensor:
        """The index ranges of tensor `name`, concatenated along each dim, in the checkpoint's own dtype.

        Args:
            name: a key of `tensors`.
            ranges_per_dim: one entry per dim: half-open ranges in any order (an empty tuple is an empty shard),
                or None for the whole dim.
        Raises: InputError if there is no such tensor or range, or the file changed since it was opened.
        """
        from axisplit.runtime.aligned import aligned_empty

        entry = self._entry(name)
        ranges = _checked_ranges(name, entry.shape, ranges_per_dim)
        sizes = [sum(stop - start for start, stop in dim) for dim in ranges]
        out = aligned_empty(sizes, entry.dtype)
        with entry.file.open("rb", buffering=0) as handle:
            self._check_unchanged(entry.file, handle)
            reader = _BoxReader(handle, entry)
            for box in product(*(_with_destinations(dim) for dim in ranges)):
                target = out[tuple(slice(at, at + size) for _, size, at in box)] if box else out
                reader.read(tuple(start for start, _, _ in box), tuple(size for _, size, _ in box), target)
        return out

    def read(self, name: str) -> torch.Tensor:
        """The whole tensor `name`."""
        return self.read_slice(name, (None,) * len(self._entry(name).shape))

    def _entry(self, name: str) -> TensorEntry:
        if name not in self.tensors:
            raise InputError(
                what=f"cannot read tensor {name!a}",
                where=str(self.directory),
                got=f"{len(self.tensors)} other tensors",
                needed="a name that the checkpoint holds",
                do="match the model's names to the checkpoint's with match_names",
            )
        return self.tensors[name]

    def _check_unchanged(self, file: Path, handle: FileIO) -> None:
        if _stamp(os.fstat(handle.fileno())) != self.stamps[file]:
            raise InputError(
                what="the checkpoint changed while it was being read",
                where=str(file),
                got="another size or modification time",
                needed="the file as it was when it was opened",
                do="wait until whatever writes it is done, then open it again",
            )


def open_checkpoint(directory: Path | str) -> Checkpoint:
    """The checkpoint in a directory of safetensors, its headers checked, its tensors unread.

    Raises: InputError if there is none, or any of its files is damaged or lies outside the directory.
    """
    home = Path(directory)
    tensors = read_entries(home)
    files = {entry.file for entry in tensors.values()}
    return Checkpoint(home, tensors, {file: _stamp(file.stat()) for file in files})


class _BoxReader:
    """Copies boxes of one tensor from an open file."""

    def __init__(self, handle: FileIO, entry: TensorEntry) -> None:

        self._handle, self._entry = handle, entry
        self._strides = tuple(math.prod(entry.shape[dim + 1 :]) for dim in range(len(entry.shape)))
        self._piece: torch.Tensor | None = None

    def read(self, starts: tuple[int, ...], sizes: tuple[int, ...], out: torch.Tensor) -> None:
        """Fill `out` with the box at `starts` of extent `sizes`, halving it until one read serves."""
        if math.prod(sizes) == 0:
            return
        itemsize = self._entry.itemsize
        offset = self._entry.start + itemsize * sum(a * b for a, b in zip(starts, self._strides, strict=True))
        span, gap = _span_and_gap(sizes, self._strides)
        if gap == 0 and out.is_contiguous():
            self._read_into(offset, out)
        elif span * itemsize <= PIECE_BYTES and gap * itemsize < GAP_BYTES:
            piece = self._piece_of(span * itemsize)
            self._read_into(offset, piece)
            out.copy_(piece.view(out.dtype).as_strided(sizes, self._strides))
        elif gap * itemsize >= GAP_BYTES and self._is_rows(sizes, out):
            self._read_rows(offset, _outermost(sizes), out)
        else:
            dim, half = _outermost(sizes), sizes[_outermost(sizes)] // 2
            for at, size in ((0, half), (half, sizes[dim] - half)):
                part_starts = (*starts[:dim], starts[dim] + at, *starts[dim + 1 :])
                part_sizes = (*sizes[:dim], size, *sizes[dim + 1 :])
                self.read(part_starts, part_sizes, out.narrow(dim, at, size))

    def _is_rows(self, sizes: tuple[int, ...], out: torch.Tensor) -> bool:
        """Whether an index of the outermost dim is a single run, here as there."""
        dim = _outermost(sizes)
        return _span_and_gap(sizes[dim + 1 :], self._strides[dim + 1 :])[1] == 0 and out.select(dim, 0).is_contiguous()

    def _piece_of(self, num_bytes: int) -> torch.Tensor:
        import torch

        if self._piece is None:
            self._piece = torch.empty(min(PIECE_BYTES, self._entry.end - self._entry.start), dtype=torch.uint8)
        return self._piece[:num_bytes]

    def _read_rows(self, offset: int, dim: int, out: torch.Tensor) -> None:
        """Runs at equal distances, each into one index of `dim`, in front of which all sizes are 1."""
        step, file = self._strides[dim] * self._entry.itemsize, self._handle.fileno()
        rows = out.view(_bits(out.dtype)).numpy().reshape(out.shape[dim:])  # a view: dims of size 1 go
        for index, row in enumerate(rows):
            if os.preadv(file, [row], offset + index * step) != row.nbytes:
                self._read_into(offset + index * step, out.select(dim, index))

    def _read_into(self, offset: int, out: torch.Tensor) -> None:
        """Fill the contiguous tensor `out` with the bytes of the file from `offset`."""
        import torch

        view = memoryview(out.flatten().view(torch.uint8).numpy().data)
        self._handle.seek(offset)
        while len(view):
            count = self._handle.readinto(view)
            if not count:
                raise InputError(
                    what="a checkpoint file ended early",
                    where=str(self._entry.file),
                    got=f"its end, {len(view):,} bytes short",
                    needed=f"bytes up to {self._entry.end:,}",
                    do="copy or download the file again",
                )
            view = view[count:]


def _span_and_gap(sizes: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int]:
    """(elements from a box's first to its last, the largest number of elements between two of its runs).

    The outermost dim with more than one index has the largest gap: what an inner dim leaves out is in it too.
    >>> _span_and_gap((3, 2), (4, 1))
    (10, 2)
    """
    span, gap = 1, 0
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size > 1:
            gap = stride - span
            span += (size - 1) * stride
    return span, gap


def _outermost(sizes: tuple[int, ...]) -> int:
    """The first dim with more than one index."""
    return next(dim for dim, size in enumerate(sizes) if size > 1)


def _bits(dtype: torch.dtype) -> torch.dtype:
    """An integer type of the same size, for what numpy does not know."""
    import torch

    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(dtype.itemsize, dtype)


def _checked_ranges(name: str, shape: tuple[int, ...], ranges_per_dim: RangesPerDim) -> list[Ranges]:
    """The ranges with None spelt out."""
    ranges = [((0, size),) if dim is None else dim for dim, size in zip(ranges_per_dim, shape, strict=False)]
    inside = all(0 <= a <= b <= size for dim, size in zip(ranges, shape, strict=False) for a, b in dim)
    if len(ranges_per_dim) != len(shape) or not inside:
        raise InputError(
            what=f"cannot slice tensor {name!a}",
            where=f"shape {list(shape)}",
            got=f"ranges {ranges_per_dim}",
            needed="for each dim None, or ranges (start, stop) with 0 <= start <= stop <= its size",
            do="make the plan for this checkpoint's own shapes",
        )
    return ranges


def _with_destinations(ranges: Ranges) -> list[tuple[int, int, int]]:
    """(start, size, where it goes) of each range.

    >>> _with_destinations(((4, 6), (0, 3)))
    [(4, 2, 0), (0, 3, 2)]
    """
    placed, position = [], 0
    for start, stop in ranges:
        placed.append((start, stop - start, position))
        position += stop - start
    return placed


def _stamp(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns
