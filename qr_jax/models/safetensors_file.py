"""Safetensors files by the `safetensors` package: it holds a header against the file before anything is allocated.

Writing is ours: the package wants all tensors of a file in memory, and an export has one there at a time.
"""

import functools
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
import safetensors

from qr_jax.errors import UserError

FLOATS: dict[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file, not read yet."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]


def read_header(path: str | os.PathLike[str]) -> dict[str, Entry]:
    """Every tensor's entry. ValueError when the header is malformed, or says what the file does not hold."""
    path = Path(path)
    try:
        with safetensors.safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - the file is no dict
            return {name: Entry(path, name, at.get_dtype(), tuple(at.get_shape())) for name, at in slices.items()}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path.name} is no whole safetensors file of known types ({error}); fetch it again") from error


def read(entry: Entry) -> np.ndarray:
    """The tensor in its own dtype. ValueError for one that is not of floats."""
    if entry.dtype not in FLOATS:
        where = f"tensor {entry.name!r} of {entry.path.name}"
        raise UserError(f"{where} has dtype {entry.dtype!r}; supported: {', '.join(FLOATS)}")
    status = os.stat(entry.path)
    return _opened(entry.path, status.st_ino, status.st_mtime_ns).get_tensor(entry.name)


@functools.lru_cache(1)
def _opened(path: Path, *_: int) -> Any:
    """The file, kept open until another is read: its header is parsed as it is opened."""
    return safetensors.safe_open(path, "np")


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
