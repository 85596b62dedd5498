"""A safetensors file: its header checked before anything is allocated, its tensors read through a memory map."""

import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

LARGEST_HEADER_BYTES = 100_000_000  # the format's own limit
LARGEST_RANK = 8
FLOATS: dict[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in its file: `start` counts bytes from the file's first."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


def read_header(path: str | os.PathLike[str]) -> dict[str, Entry]:
    """Every tensor's entry. ValueError when the header is too long, malformed, or points outside the file."""
    path = Path(path)
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ValueError(f"{path.name} has {file_bytes} bytes; a safetensors file begins with 8 of header length")
        (length,) = struct.unpack("<Q", prefix)
        if length > min(LARGEST_HEADER_BYTES, file_bytes - 8):
            limit = f"the file has {file_bytes} bytes and the format allows {LARGEST_HEADER_BYTES}"
            raise ValueError(f"{path.name} announces a header of {length} bytes; {limit}. Fetch the file again")
        raw = file.read(length)
    described = _parse(path, raw)
    described.pop("__metadata__", None)
    spans = {name: _span(path, name, entry, file_bytes - 8 - length) for name, entry in described.items()}
    _refuse_overlap(path, spans)
    return {
        name: Entry(path, described[name]["dtype"], tuple(described[name]["shape"]), 8 + length + start)
        for name, (start, _) in spans.items()
    }


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name occurs twice")
        return dict(pairs)

    try:
        parsed = json.loads(raw, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the header of {path.name} is not proper JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"the header of {path.name} is a JSON {type(parsed).__name__}; wanted an object")
    return parsed


def _whole(values: object, most: int) -> bool:
    """Is this a list of at most `most` whole numbers, none negative?"""
    return isinstance(values, list) and len(values) <= most and all(type(v) is int and v >= 0 for v in values)


def _span(path: Path, name: str, entry: Any, data_bytes: int) -> tuple[int, int]:
    """First and last byte (exclusive) in the data part, checked against dtype, shape and the file's size."""
    where = f"tensor {name!r} of {path.name}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"{where} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in FLOATS:
        raise ValueError(f"{where} has dtype {dtype!r}; supported: {', '.join(FLOATS)}")
    if not _whole(shape, LARGEST_RANK) or not _whole(offsets, 2) or len(offsets) != 2:
        raise ValueError(f"{where} has shape {shape!r} and offsets {offsets!r}; wanted whole numbers, none negative")
    start, stop = offsets
    wanted = math.prod(shape) * FLOATS[dtype].itemsize
    if stop - start != wanted:
        raise ValueError(f"{where} has {stop - start} bytes; {dtype} of shape {shape} takes {wanted}")
    if stop > data_bytes:
        raise ValueError(f"{where} ends at byte {stop}, but the file has {data_bytes} bytes of data; fetch it again")
    return start, stop


def _refuse_overlap(path: Path, spans: Mapping[str, tuple[int, int]]) -> None:
    end, before = 0, ""
    for name, (start, stop) in sorted(spans.items(), key=lambda item: item[1]):
        if start < end:
            raise ValueError(f"tensors {before!r} and {name!r} of {path.name} overlap")
        end, before = stop, name


def read(entry: Entry) -> np.ndarray:
    """The tensor as a read-only memory map of its own dtype."""
    if math.prod(entry.shape) == 0:
        return np.zeros(entry.shape, FLOATS[entry.dtype])
    return np.memmap(entry.path, FLOATS[entry.dtype], "r", offset=entry.start, shape=entry.shape)


def write(
    path: str | os.PathLike[str], dtype: str, shapes: Mapping[str, tuple[int, ...]], give: Callable[[str], np.ndarray]
) -> None:
    """Write tensors one after another, one in memory at a time; `give(name)` returns each, cast to `dtype` here."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers wants the word
    position = 0
    for name, shape in shapes.items():
        stop = position + math.prod(shape) * FLOATS[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, stop]}
        position = stop
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with Path(path).open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for name, shape in shapes.items():
            array = np.ascontiguousarray(give(name), dtype=FLOATS[dtype])
            assert array.shape == shape, (name, array.shape, shape)
            file.write(array.view(np.uint8).data if array.size else b"")
