"""The header of a GGUF file, checked before a library with fewer checks reads it.

Layout (little-endian): magic `GGUF`, u32 version, u64 number of tensors, u64 number of fields; fields (key, u32 type,
value); tensors (name, u32 number of dims, u64 dims, u32 type, u64 offset); padding; data. Every count is bounded by
the bytes that are there, so that a damaged one cannot make a reader run for hours. Source: docs/gguf.md of ggml.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

from axisplit.errors import InputError

MAX_HEADER_BYTES = 256 * 2**20
MAX_FIELDS = 4096
MAX_TENSORS = 100_000
MAX_KEY_BYTES = 1024
MAX_NDIM = 4
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says about itself: `architecture`, field names, and where its tensors end."""

    architecture: str
    fields: frozenset[str]
    num_tensors: int

    @property
    def has_tokenizer(self) -> bool:
        """Whether the file carries its tokenizer's vocabulary."""
        return "tokenizer.ggml.tokens" in self.fields


def read_gguf_header(path: Path) -> GgufHeader:
    """The checked header of a GGUF file.

    Raises: InputError if it is not a GGUF file of version 2 or 3, is damaged, or is cut short.
    """
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as handle:
            cursor = _Cursor(path, handle.read(min(file_bytes, MAX_HEADER_BYTES)))
    except OSError as error:
        raise _damaged(path, error.strerror or str(error), "a readable file") from error
    magic, version = cursor.take(4), cursor.u32()
    if magic != b"GGUF" or version not in (2, 3):
        raise _damaged(path, f"magic {magic!r}, version {version}", "magic b'GGUF', version 2 or 3 (little-endian)")
    num_tensors, num_fields = cursor.u64(), cursor.u64()
    if num_tensors > MAX_TENSORS or num_fields > MAX_FIELDS:
        raise _damaged(
            path, f"{num_tensors:,} tensors and {num_fields:,} fields", f"at most {MAX_TENSORS:,} and {MAX_FIELDS:,}"
        )
    texts: dict[str, bytes] = {}
    alignment = 32
    for _ in range(num_fields):
        key = cursor.text(MAX_KEY_BYTES)
        if key in texts:
            raise _damaged(path, f"field {key!a} twice", "each field once")
        value = cursor.value()
        texts[key] = value
        if key == "general.alignment" and len(value) == 4:
            alignment = int.from_bytes(value, "little")
    if int.from_bytes(texts.get("split.count", b""), "little") > 1:
        raise _damaged(path, "one part of a split model", "the whole model in one file (llama-gguf-split --merge)")
    end_bytes = _tensors_end(cursor, num_tensors, alignment)
    if file_bytes < end_bytes:
        raise _damaged(path, f"{file_bytes:,} bytes", f"{end_bytes:,} bytes, as its header says")
    architecture = texts.get("general.architecture", b"").decode("utf-8", "replace")
    if not architecture.isprintable() or not architecture:
        raise _damaged(path, f"general.architecture {architecture!a}", "the name of an architecture")
    return GgufHeader(architecture, frozenset(texts), num_tensors)


def _tensors_end(cursor: _Cursor, num_tensors: int, alignment: int) -> int:
    """Offset of the byte behind the last tensor."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    ends, names = [0], set()
    for _ in range(num_tensors):
        name = cursor.text(MAX_KEY_BYTES)
        ndim = cursor.u32()
        dims = [cursor.u64() for _ in range(min(ndim, MAX_NDIM + 1))]
        code, offset = cursor.u32(), cursor.u64()
        known = code in GGMLQuantizationType._value2member_map_
        if name in names or ndim > MAX_NDIM or not known or max(dims, default=0) >= 2**48:
            got = f"tensor {name!a} of type {code} with dims {dims}"
            raise _damaged(cursor.path, got, f"each name once, a known type, at most {MAX_NDIM} dims")
        names.add(name)
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(code)]
        ends.append(offset + math.prod(dims) // block * block_bytes)
    if alignment <= 0 or alignment & (alignment - 1):
        raise _damaged(cursor.path, f"alignment {alignment}", "a power of two")
    data_start = (cursor.position + alignment - 1) // alignment * alignment
    return data_start + max(ends)


class _Cursor:
    """Reads forward through the header's bytes, never past their end."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path, self.data, self.position = path, data, 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            needed = f"a header that goes on to byte {end:,}"
            raise _damaged(self.path, f"{len(self.data):,} bytes", needed)
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def text(self, max_bytes: int) -> str:
        count = self.u64()
        if count > max_bytes:
            raise _damaged(self.path, f"a name of {count:,} bytes", f"at most {max_bytes:,}")
        return self.take(count).decode("utf-8", "replace")

    def value(self) -> bytes:
        """Skip one field's value; returns the bytes of a scalar or string, nothing of an array."""
        kind = self.u32()
        if kind == ARRAY:
            self._skip_array(self.u32(), self.u64())
            return b""
        return self.take(self.u64() if kind == STRING else self._scalar_bytes(kind))

    def _skip_array(self, kind: int, count: int) -> None:
        if kind != STRING:
            self.take(self._scalar_bytes(kind) * count)
            return
        position, data, size_of = self.position, self.data, struct.Struct("<Q")
        for _ in range(count):  # ends by the error below at the latest: each string takes 8 bytes or more
            if position + 8 > len(data):
                self.take(len(data) + 8 - self.position)
            position += 8 + size_of.unpack_from(data, position)[0]
        self.position = min(position, len(data) + 1)
        self.take(0)

    def _scalar_bytes(self, kind: int) -> int:
        if kind not in SCALAR_BYTES:
            raise _damaged(self.path, f"a field of type {kind}", f"one of {sorted({*SCALAR_BYTES, STRING, ARRAY})}")
        return SCALAR_BYTES[kind]


def _damaged(path: Path, got: str, needed: str) -> InputError:
    return InputError(
        what="cannot read a GGUF file",
        where=str(path),
        got=got,
        needed=needed,
        do="the file is damaged, cut short or of another format: copy or download it again",
    )
