"""Safetensors files by the `safetensors` package: it checks a header against the file before allocating."""

import functools
import os
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
    """Return every tensor's entry. ValueError when the header is malformed, or says what the file does not hold."""
    path = Path(path)
    try:
        with safetensors.safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - the file is no dict
            return {name: Entry(path, name, at.get_dtype(), tuple(at.get_shape())) for name, at in slices.items()}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is no whole safetensors file of known types ({error}); fetch it again") from error


def read(entry: Entry) -> np.ndarray:
    """Return the tensor in its own dtype. ValueError for one that is not of floats."""
    if entry.dtype not in FLOATS:
        where = f"tensor {entry.name!r} of {entry.path.name}"
        raise UserError(f"{where} has dtype {entry.dtype!r}; supported: {', '.join(FLOATS)}")
    status = os.stat(entry.path)
    return _opened(entry.path, status.st_ino, status.st_mtime_ns).get_tensor(entry.name)


@functools.lru_cache(1)
def _opened(path: Path, *_: int) -> Any:
    """Return the file, kept open until another is read: its header is parsed as it is opened."""
    return safetensors.safe_open(path, "np")
