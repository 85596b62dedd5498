"""A GGUF file (llama.cpp's format): its header checked before anything is allocated, its tensors dequantised."""

import math
import mmap
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

MOST_ENTRIES = 100_000  # tensors, or metadata keys
LONGEST_NAME_BYTES = 65_535
LONGEST_STRING_BYTES = 16_000_000
# GGUF's value types by number; 8 is a string, 9 an array.
SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
# Tensor types by number: name, weights a block, bytes a block (ggml's block_q4_0, block_q4_1, block_q8_0).
BLOCKS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    8: ("Q8_0", 32, 34),
    30: ("BF16", 1, 2),
}


class Tensor(NamedTuple):
    """Shape (slowest axis first, as numpy has it), type and the place of the first byte in the file."""

    shape: tuple[int, ...]
    kind: int
    start: int


class _Cursor:
    """Reads forward through the mapped file; a ValueError where it would pass the end or a bound."""

    def __init__(self, path: Path):
        self.name, self.at = path.name, 0
        with path.open("rb") as file:
            try:
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:
                raise ValueError(f"{path.name} is empty") from None

    def skip(self, size: int) -> int:
        """Where the next `size` bytes begin."""
        if size > len(self.data) - self.at:
            raise ValueError(
                f"{self.name} ends within its header: {size} bytes wanted at byte {self.at} of {len(self.data)}"
            )
        start, self.at = self.at, self.at + size
        return start

    def number(self, form: str) -> Any:
        return struct.unpack_from("<" + form, self.data, self.skip(struct.calcsize("<" + form)))[0]

    def count(self, what: str, most: int) -> int:
        found = self.number("Q")
        if found > most:
            raise ValueError(f"{self.name} announces {found} {what}; at most {most} are read")
        return found

    def string(self, most: int) -> str:
        size = self.count("bytes in a string", most)
        start = self.skip(size)
        return self.data[start : start + size].decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        """One metadata value: a number, a string, a list of strings or an array that views the file."""
        if kind in SCALARS:
            return self.array(kind, 1)[0].item()
        if kind == 8:
            return self.string(LONGEST_STRING_BYTES)
        if kind != 9:
            raise ValueError(f"{self.name} has a metadata value of unknown type {kind}")
        inner, count = self.number("I"), self.number("Q")
        if inner in SCALARS:
            return self.array(inner, count)
        if inner != 8 or count > (len(self.data) - self.at) // 8:
            raise ValueError(f"{self.name} has an array of {count} values of type {inner}; it cannot fit, or is nested")
        return [self.string(LONGEST_STRING_BYTES) for _ in range(count)]

    def array(self, kind: int, count: int) -> np.ndarray:
        dtype = np.dtype(SCALARS[kind])
        return np.frombuffer(self.data, dtype, count, self.skip(count * dtype.itemsize))


class File(NamedTuple):
    """An opened file: metadata by key, tensors by name, and the mapped bytes."""

    name: str
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]
    data: mmap.mmap

    def need(self, key: str) -> Any:
        if key not in self.metadata:
            raise ValueError(f"{self.name} lacks the metadata {key!r}")
        return self.metadata[key]


def read_header(path: str | os.PathLike[str]) -> File:
    """Metadata and tensor places. ValueError when a count, length or offset is beyond the file or a bound."""
    cursor = _Cursor(Path(path))
    if cursor.data[:4] != b"GGUF":
        raise ValueError(f"{cursor.name} begins with {cursor.data[:4]!r}; a GGUF file begins with b'GGUF'")
    cursor.skip(4)
    version = cursor.number("I")
    if version not in (2, 3):
        raise ValueError(f"{cursor.name} has GGUF version {version}; versions 2 and 3 (little-endian) are read")
    tensor_count = cursor.count("tensors", MOST_ENTRIES)
    metadata: dict[str, Any] = {}
    for _ in range(cursor.count("metadata keys", MOST_ENTRIES)):
        key = cursor.string(LONGEST_NAME_BYTES)
        metadata[key] = cursor.value(cursor.number("I"))
    described = [_describe(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment > 2**20 or alignment & (alignment - 1):
        raise ValueError(f"{cursor.name} has alignment {alignment!r}; wanted a power of two")
    data_start = cursor.at + -cursor.at % alignment
    tensors: dict[str, Tensor] = {}
    end = 0
    for name, shape, kind, offset in sorted(described, key=lambda entry: entry[3]):
        if name in tensors or offset < end or offset % alignment:
            raise ValueError(f"tensor {name!r} of {cursor.name} occurs twice, overlaps another or is not aligned")
        end = offset + _size_bytes(cursor.name, name, shape, kind)
        if data_start + end > len(cursor.data):
            raise ValueError(
                f"tensor {name!r} of {cursor.name} ends at byte {data_start + end} of {len(cursor.data)}; "
                "fetch the file again"
            )
        tensors[name] = Tensor(shape, kind, data_start + offset)
    return File(cursor.name, metadata, tensors, cursor.data)


def _describe(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape, type and offset of one tensor; the format writes the fastest axis first."""
    name = cursor.string(LONGEST_NAME_BYTES)
    rank = cursor.number("I")
    if rank > 4:
        raise ValueError(f"tensor {name!r} of {cursor.name} has {rank} dimensions; the format allows 4")
    shape = tuple(cursor.number("Q") for _ in range(rank))[::-1]
    return name, shape, cursor.number("I"), cursor.number("Q")


def _size_bytes(file: str, name: str, shape: tuple[int, ...], kind: int) -> int:
    if kind not in BLOCKS:
        known = ", ".join(block[0] for block in BLOCKS.values())
        raise ValueError(f"tensor {name!r} of {file} has ggml type {kind}; read are {known}: requantise the model")
    _, weights, block_bytes = BLOCKS[kind]
    if not shape or shape[-1] % weights:
        raise ValueError(f"tensor {name!r} of {file} has shape {shape}; its rows are no whole blocks of {weights}")
    return math.prod(shape) // weights * block_bytes


def dequantise(file: File, name: str) -> np.ndarray:
    """The tensor in float32 (a view of the file where it is stored so). Source: ggml's dequantize_row_*."""
    shape, kind, start = file.tensors[name]
    kind_name, weights, block_bytes = BLOCKS[kind]
    count = math.prod(shape)
    raw = np.frombuffer(file.data, np.uint8, count // weights * block_bytes, start).reshape(-1, block_bytes)
    if kind_name == "F32":
        return raw.view("<f4").reshape(shape)
    if kind_name in ("F16", "BF16"):
        return raw.view("<f2" if kind_name == "F16" else ml_dtypes.bfloat16).astype(np.float32).reshape(shape)
    scale = raw[:, :2].view("<f2").astype(np.float32)
    if kind_name == "Q8_0":
        return (raw[:, 2:].view(np.int8) * scale).reshape(shape)
    packed = raw[:, -16:]
    low_then_high = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)
    if kind_name == "Q4_0":
        return ((low_then_high - 8) * scale).reshape(shape)
    return (low_then_high * scale + raw[:, 2:4].view("<f2").astype(np.float32)).reshape(shape)
