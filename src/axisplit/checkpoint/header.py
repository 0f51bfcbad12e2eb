"""The header of a safetensors file, parsed and checked before a byte of a tensor is believed.

Layout: u64 header size (little-endian), JSON header, data. Invariants of what `read_header` returns:
names are printable and unique; `end - start == prod(shape) * itemsize`; the tensors cover the data exactly, without
holes or overlaps, to the last byte of the file. Source: the format section of the safetensors README.

Worked example: one F32 tensor `w` [2, 3] in a file with a 64-byte header has data_offsets [0, 24], hence
start = 8 + 64 = 72, end = 96, and the file is 96 bytes long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axisplit.checkpoint.strict_json import parse_json_object
from axisplit.errors import InputError

if TYPE_CHECKING:
    import torch

MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 200_000
MAX_NDIM = 16
MAX_NAME_CHARS = 512

# code in the file -> (torch dtype, bytes per element); sub-byte codes (F4 …) are refused by name
DTYPES: dict[str, tuple[str, int]] = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "I16": ("int16", 2),
    "U16": ("uint16", 2),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I32": ("int32", 4),
    "U32": ("uint32", 4),
    "F32": ("float32", 4),
    "I64": ("int64", 8),
    "U64": ("uint64", 8),
    "F64": ("float64", 8),
    "C64": ("complex64", 8),
}


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor's bytes are: `[start, end)` of `file`, row-major."""

    file: Path
    code: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return DTYPES[self.code][1]

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype that `code` stands for."""
        import torch

        dtype = getattr(torch, DTYPES[self.code][0])
        assert isinstance(dtype, torch.dtype)
        return dtype


def read_header(file: Path) -> dict[str, TensorEntry]:
    """Name -> entry of every tensor in a safetensors file, in the order of their bytes.

    Raises: InputError naming the file and every tensor that is wrong.
    """
    header, data_start, file_bytes = _read_raw(file)
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not isinstance(metadata, dict):
        raise _damaged(file, "__metadata__ that is not an object", "strings by name")
    if len(header) > MAX_TENSORS:
        raise _damaged(file, f"{len(header):,} tensors", f"at most {MAX_TENSORS:,}")
    entries: dict[str, TensorEntry] = {}
    problems: list[str] = []
    for name, fields in header.items():
        entry = _entry(file, name, fields, data_start)
        if isinstance(entry, TensorEntry):
            entries[name] = entry
        else:
            problems.append(entry)
    if problems:
        raise _damaged(file, listing(problems), "name: dtype, shape and data_offsets that agree")
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)))
    _check_cover(file, ordered, data_start, file_bytes)
    return ordered


def listing(items: list[str], limit: int = 20) -> str:
    """The items for an error message, one a line; past `limit` only their number is told.

    >>> print(listing(["a", "b", "c"], limit=2))
    a
    b
    and 1 more
    """
    rest = len(items) - limit
    return "\n".join(items[:limit] + ([f"and {rest} more"] if rest > 0 else []))


def _read_raw(file: Path) -> tuple[dict[str, Any], int, int]:
    """(header object, offset of the data, bytes of the file)."""
    try:
        if not file.is_file():
            raise _damaged(file, "nothing there" if not file.exists() else "no regular file", "a safetensors file")
        with file.open("rb") as handle:
            file_bytes = file.stat().st_size
            header_bytes = int.from_bytes(handle.read(8), "little")
            if file_bytes < 8 or header_bytes > file_bytes - 8:
                raise _damaged(file, f"{file_bytes:,} bytes", f"a header of {header_bytes:,} bytes behind the first 8")
            if header_bytes > MAX_HEADER_BYTES:
                raise _damaged(file, f"a header of {header_bytes:,} bytes", f"at most {MAX_HEADER_BYTES:,}")
            raw = handle.read(header_bytes)
    except OSError as error:
        raise _damaged(file, error.strerror or str(error), "a readable file") from error
    if not raw.startswith(b"{"):
        raise _damaged(file, f"a header that starts with {raw[:8]!r}", "a JSON object")
    return (
        parse_json_object(raw, "cannot read the header of a safetensors file", str(file)),
        8 + header_bytes,
        file_bytes,
    )


def _entry(file: Path, name: str, fields: Any, data_start: int) -> TensorEntry | str:
    """The checked entry, or what is wrong with it in words."""
    label = ascii(name[:80])
    if not name.isprintable() or not 0 < len(name) <= MAX_NAME_CHARS:
        return f"name {label} is empty, too long or not printable"
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        return f"{label} is not described by dtype, shape and data_offsets"
    code, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        return f"{label} has dtype {ascii(code)[:40]}, which axisplit does not read"
    if not _sizes(shape) or len(shape) > MAX_NDIM or not _sizes(offsets) or len(offsets) != 2:
        return f"{label} has a bad shape or bad offsets"
    entry = TensorEntry(file, code, tuple(shape), data_start + offsets[0], data_start + offsets[1])
    if entry.end - entry.start != math.prod(shape) * entry.itemsize:
        return f"{label} {code} {shape} needs {math.prod(shape) * entry.itemsize:,} bytes, has {offsets}"
    return entry


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_cover(file: Path, entries: dict[str, TensorEntry], data_start: int, file_bytes: int) -> None:
    """Tensors lie one behind the other from `data_start` to the end of the file."""
    position = data_start
    for name, entry in entries.items():
        if entry.start != position:
            kind = "overlaps the tensor before it" if entry.start < position else "leaves a hole before it"
            raise _damaged(file, f"{name!a} {kind}", "tensors one behind the other")
        position = entry.end
    if position != file_bytes:
        raise _damaged(file, f"{file_bytes:,} bytes", f"{position:,} bytes, as its header says")


def _damaged(file: Path, got: str, needed: str) -> InputError:
    return InputError(
        what="cannot read a safetensors file",
        where=str(file),
        got=got,
        needed=needed,
        do="the file is missing, damaged or cut short: copy or download it again",
    )
