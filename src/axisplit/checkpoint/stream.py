"""Read any slice of any tensor of a checkpoint, without the rest of it.

A slice is given per dim as half-open index ranges; what comes back is their concatenation along each dim. The ranges'
product is a list of boxes; a box is runs of bytes at equal distances. It is copied out of the kernel's page cache,
through a mapping, so that what lies between two runs is never copied. Pages are asked for before they are touched,
those of about `PIECE_BYTES` at a time: runs less than `GAP_BYTES` apart together with the gaps between them (disks read
ahead), others one by one. So an error of the disk is an error here, where touching the page would end the process.

Invariants: bytes asked for <= bytes of the slice + `GAP_BYTES` per run, and the rest of their pages; private memory <=
the slice. Measured in docs/design/performance.md.

Worked example: columns 2:4 of an F32 [3, 4] tensor are runs of 8 bytes at 8, 24 and 40 (gaps of 8 bytes): one request
for [8, 48), then a strided copy of 24 bytes. Rows 1:3 are one run.
"""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from axisplit.checkpoint.header import TensorEntry
from axisplit.checkpoint.index import read_entries
from axisplit.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

GAP_BYTES = 16 * 2**10
PIECE_BYTES = 2**20

_POPULATE_READ, _POPULATE_WRITE = (22, 23) if sys.platform == "linux" else (None, None)
"""madvise's MADV_POPULATE_READ and MADV_POPULATE_WRITE, of Linux 5.14, for which `mmap` has no names."""

_WORTH_A_CALL = 2**16
_libc = ctypes.CDLL(None)

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
        import torch

        from axisplit.runtime.aligned import aligned_empty

        entry = self._entry(name)
        ranges = _checked_ranges(name, entry.shape, ranges_per_dim)
        sizes = [sum(stop - start for start, stop in dim) for dim in ranges]
        out = aligned_empty((*sizes, entry.itemsize), torch.uint8)
        with entry.file.open("rb", buffering=0) as handle:
            self._check_unchanged(entry.file, handle)
            for box in product(*(_with_destinations(dim) for dim in ranges)):
                target = out.numpy()[tuple(slice(at, at + size) for _, size, at in box)]
                if target.size:
                    _copy_box(handle, entry, tuple(start for start, _, _ in box), target)
        return out.view(entry.dtype).squeeze(-1)

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


def _copy_box(handle: FileIO, entry: TensorEntry, starts: tuple[int, ...], out: np.ndarray) -> None:
    """Fill `out`, the bytes of a box (one dim more than the tensor has), from the indices `starts` on."""
    import numpy as np

    per_index = [entry.itemsize * math.prod(entry.shape[dim + 1 :]) for dim in range(len(entry.shape))]
    begin = entry.start + sum(start * stride for start, stride in zip(starts, per_index, strict=True))
    single = tuple(dim for dim, size in enumerate(out.shape[:-1]) if size == 1)
    out = out.squeeze(single)
    strides = (*(stride for dim, stride in enumerate(per_index) if dim not in single), 1)
    lead, (span, _) = begin % mmap.ALLOCATIONGRANULARITY, _span_and_gap(out.shape, strides)
    with _errors_of(entry):
        pages = mmap.mmap(handle.fileno(), lead + span, access=mmap.ACCESS_READ, offset=begin - lead)
    box = np.ndarray(out.shape, np.uint8, pages, lead, strides)
    step = max(1, PIECE_BYTES // strides[0])
    for at in range(0, len(out), step):
        part = out[at : at + step]
        with _errors_of(entry):
            _populate(pages, lead + at * strides[0], part.shape, strides)
        _populate_to_write(part)
        np.copyto(part, box[at : at + step])


@contextmanager
def _errors_of(entry: TensorEntry) -> Iterator[None]:
    """What the kernel says of a file, told of the file. A ValueError: it is shorter than what is mapped."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(
            what="a checkpoint file could not be read",
            where=str(entry.file),
            got=f"{error}",
            needed=f"bytes {entry.start:,} to {entry.end:,}",
            do="copy or download the file again",
        ) from error


def _populate(pages: mmap.mmap, begin: int, sizes: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """Have the pages of a box mapped, read from disk where they must be.

    Raises: OSError where the disk fails or the file ended; only where the kernel is asked (Linux from 5.14 on).
    """
    span, gap = _span_and_gap(sizes, strides)
    if gap < GAP_BYTES:
        _populate_run(pages, begin, span)
        return
    for index in range(sizes[0]):
        _populate(pages, begin + index * strides[0], sizes[1:], strides[1:])


def _populate_run(pages: mmap.mmap, begin: int, length: int) -> None:
    lead = begin % mmap.PAGESIZE
    if _POPULATE_READ is not None:
        try:
            pages.madvise(_POPULATE_READ, begin - lead, lead + length)
        except OSError as error:
            if error.errno != errno.EINVAL:  # that a kernel says to what it does not know: pages come when touched
                raise


def _populate_to_write(part: np.ndarray) -> None:
    """Have the pages of new memory mapped in one call: a fault for each of them is most of the time of reading.

    It is advice: where the kernel does not take it, pages come when they are touched.
    """
    begin = part.__array_interface__["data"][0]
    end = begin + (len(part) - 1) * part.strides[0] + part[0].nbytes
    if _POPULATE_WRITE is not None and end - begin > _WORTH_A_CALL:
        begin -= begin % mmap.PAGESIZE
        _libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _POPULATE_WRITE)


def _span_and_gap(sizes: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int]:
    """(bytes from a box's first to its last, the largest number of bytes between two of its runs).

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
