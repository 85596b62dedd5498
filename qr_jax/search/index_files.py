"""Open the files of an index's folder, BM25's or dense, which may be a stranger's, without waiting or filling memory.

A pipe in a file's place would block; a sparse file of 3 GB takes no disk, and 3 GB of memory once it is read."""

import math
import re
from pathlib import Path

import numpy as np

from qr_jax.errors import UserError
from qr_jax.run import run_files
from qr_jax.run.run_files import Most

MANIFEST, PIECES = "manifest.json", "pieces.txt"
STARTS, WORDS, PARAMS = "indptr.csc.index.npy", "vocab.index.json", "params.index.json"
# Arrays are as large as they say. A corpus file takes 150 bytes of a manifest, a different word about 20 of WORDS and 8
# of STARTS, 1,024 passages 85 of PIECES.
MOST = {MANIFEST: Most(2**20), PARAMS: Most(2**20), WORDS: Most(2**31), STARTS: Most(2**30), PIECES: Most(2**26)}
# The numbers that an index has, as np.save writes them.
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?s:..)\{'descr': '(<f4|<i4|<i8|<u2|\|i1)', 'fortran_order': False, "
    rb"'shape': \((\d{1,15}),(?: (\d{1,9}))?\), \} *\n"
)


def wrong(path: Path) -> str | None:
    """Return why a file is not opened, or None. OSError if it is missing."""
    what = run_files.wrong(path, MOST)
    if what or path.suffix != ".npy":
        return what
    try:
        kind, shape, start = _header(path)
    except ValueError as error:
        return str(error)
    size, said = path.stat().st_size, start + kind.itemsize * math.prod(shape)
    return f"{size:,} bytes, and says that it has {said:,}" if size != said else None


def check(path: Path) -> None:
    """Raise ValueError if the file must not be opened."""
    if what := wrong(path):
        raise UserError(f"{path.name}: {what}")


def array(path: Path) -> np.ndarray:
    """Return a .npy file's array, memory-mapped. ValueError if it is none, or its size differs from its header's."""
    check(path)
    kind, shape, start = _header(path)
    # Trap: a slice of a memory map costs more than what is done with it; a plain view of the same bytes does not.
    return np.asarray(np.memmap(path, kind, "r", start, shape))


def content(path: Path) -> bytes:
    """Read a file that is no array as bytes."""
    check(path)
    return path.read_bytes()


def _header(path: Path) -> tuple[np.dtype, tuple[int, ...], int]:
    """Return the type and shape in a .npy file's header, and the offset of its numbers."""
    with path.open("rb") as file:
        said = HEADER.match(file.read(2**10))
    if not said:
        raise UserError("no array of numbers")
    return np.dtype(said[1].decode()), tuple(int(length) for length in said.groups()[1:] if length), said.end()
