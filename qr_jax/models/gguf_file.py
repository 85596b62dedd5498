"""A GGUF file (llama.cpp's format): its header checked before anything is allocated, its tensors dequantised."""

import functools
import math
import mmap
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from qr_jax.errors import UserError

T = TypeVar("T")
KINDS = {str: "a text", int: "a whole number", float: "a number with a point", list: "a list of texts"}
MOST_ENTRIES = 100_000  # tensors, or metadata keys
LONGEST_NAME_BYTES = 65_535
LONGEST_STRING_BYTES = 16_000_000
READ = range(64)  # ggml types that are asked for
ROW_BLOCKS = 256  # of a row at most: the package takes 16 rows at a time, and each time costs
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
                raise UserError(f"{path.name} is empty") from None

    def skip(self, size: int) -> int:
        """Move past the next `size` bytes; return where they begin."""
        if size > len(self.data) - self.at:
            raise UserError(
                f"{self.name} ends within its header: {size} bytes wanted at byte {self.at} of {len(self.data)}"
            )
        start, self.at = self.at, self.at + size
        return start

    def number(self, form: str) -> Any:
        return struct.unpack_from("<" + form, self.data, self.skip(struct.calcsize("<" + form)))[0]

    def count(self, what: str, most: int) -> int:
        found = self.number("Q")
        if found > most:
            raise UserError(f"{self.name} announces {found} {what}; at most {most} are read")
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
            raise UserError(f"{self.name} has a metadata value of unknown type {kind}")
        inner, count = self.number("I"), self.number("Q")
        if inner in SCALARS:
            return self.array(inner, count)
        if inner != 8 or count > (len(self.data) - self.at) // 8:
            raise UserError(f"{self.name} has an array of {count} values of type {inner}; it cannot fit, or is nested")
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

    def need(self, key: str, kind: type[T]) -> T:
        """The metadata of that key. ValueError where there are none, or they are of another type."""
        if key not in self.metadata:
            raise UserError(f"{self.name} lacks the metadata {key!r}")
        found = self.metadata[key]
        if type(found) is not kind:
            raise UserError(f"{self.name} has a {type(found).__name__} for the metadata {key!r}; wanted {KINDS[kind]}")
        return found

    def get(self, key: str, kind: type[T]) -> T | None:
        """The metadata of that key, None where there are none. ValueError where they are of another type."""
        return self.need(key, kind) if key in self.metadata else None


def read_header(path: str | os.PathLike[str]) -> File:
    """Metadata and tensor places. ValueError when a count, length or offset is beyond the file or a bound."""
    cursor = _Cursor(Path(path))
    if cursor.data[:4] != b"GGUF":
        raise UserError(f"{cursor.name} begins with {cursor.data[:4]!r}; a GGUF file begins with b'GGUF'")
    cursor.skip(4)
    version = cursor.number("I")
    if version not in (2, 3):
        raise UserError(f"{cursor.name} has GGUF version {version}; versions 2 and 3 (little-endian) are read")
    tensor_count = cursor.count("tensors", MOST_ENTRIES)
    metadata: dict[str, Any] = {}
    for _ in range(cursor.count("metadata keys", MOST_ENTRIES)):
        key = cursor.string(LONGEST_NAME_BYTES)
        metadata[key] = cursor.value(cursor.number("I"))
    described = [_describe(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment > 2**20 or alignment & (alignment - 1):
        raise UserError(f"{cursor.name} has alignment {alignment!r}; wanted a power of two")
    data_start = cursor.at + -cursor.at % alignment
    tensors: dict[str, Tensor] = {}
    end = 0
    for name, shape, kind, offset in sorted(described, key=lambda entry: entry[3]):
        if name in tensors or offset < end or offset % alignment:
            raise UserError(f"tensor {name!r} of {cursor.name} occurs twice, overlaps another or is not aligned")
        end = offset + _size_bytes(cursor.name, name, shape, kind)
        if data_start + end > len(cursor.data):
            raise UserError(
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
        raise UserError(f"tensor {name!r} of {cursor.name} has {rank} dimensions; the format allows 4")
    shape = tuple(cursor.number("Q") for _ in range(rank))[::-1]
    return name, shape, cursor.number("I"), cursor.number("Q")


def _size_bytes(file: str, name: str, shape: tuple[int, ...], kind: int) -> int:
    blocks = _blocks(kind)
    if blocks is None:
        known = ", ".join(sorted(quants().GGMLQuantizationType(one).name for one in READ if _blocks(one)))
        raise UserError(f"tensor {name!r} of {file} has ggml type {kind}; read are {known}: requantise the model")
    weights, block_bytes = blocks
    if not shape or shape[-1] % weights:
        raise UserError(f"tensor {name!r} of {file} has shape {shape}; its rows are no whole blocks of {weights}")
    return math.prod(shape) // weights * block_bytes


@functools.cache
def _blocks(kind: int) -> tuple[int, int] | None:
    """Weights and bytes of a block of this ggml type; None where `gguf` cannot read it (tried on a block of zeros)."""
    try:
        weights, block_bytes = quants().GGML_QUANT_SIZES[quants().GGMLQuantizationType(kind)]
        values = _values(np.zeros((1, block_bytes), np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError):
        return None
    return (weights, block_bytes) if values.dtype == np.float32 else None


def _values(raw: np.ndarray, kind: int) -> np.ndarray:
    """float32 of rows of bytes; what is stored as floats of 2 or 4 bytes is viewed first."""
    of = quants()
    stored = {of.GGMLQuantizationType.F32: "<f4", of.GGMLQuantizationType.F16: "<f2"}.get(kind)
    return of.dequantize(raw if stored is None else raw.view(stored), of.GGMLQuantizationType(kind))


def dequantise(file: File, name: str) -> np.ndarray:
    """The tensor in float32, by the `gguf` package (a view of the file where it is stored so)."""
    shape, kind, start = file.tensors[name]
    blocks = _blocks(kind)
    assert blocks is not None, "read_header refuses what cannot be read"
    weights, block_bytes = blocks
    count = math.prod(shape)
    row = math.gcd(count // weights, ROW_BLOCKS) * block_bytes
    raw = np.frombuffer(file.data, np.uint8, count // weights * block_bytes, start).reshape(-1, row)
    return _values(raw, kind).reshape(shape)


def quants() -> Any:
    """The module of llama.cpp's `gguf` package that knows the quantisations; its import takes half a second."""
    import gguf.quants

    return gguf.quants
