"""The files of an index's folder, BM25's or a dense one, which may be a stranger's: none is waited for or fills memory.

A pipe in a file's place would be waited for; a file of 3 GB that is all hole takes no disk, and 3 GB once it is read.
"""

import hashlib
import math
import re
from pathlib import Path

import numpy as np

from qr_jax import run_files
from qr_jax.errors import UserError
from qr_jax.run_files import Most

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
    """Why a file is not opened, or None. OSError where there is none."""
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
    """ValueError where the file is not to be opened."""
    if what := wrong(path):
        raise UserError(f"{path.name}: {what}")


def array(path: Path) -> np.ndarray:
    """The numbers of a .npy file, memory-mapped. ValueError where it is none, or is shorter or longer than it says."""
    check(path)
    kind, shape, start = _header(path)
    # Trap: a slice of a memory map costs more than what is done with it; a plain view of the same bytes does not.
    return np.asarray(np.memmap(path, kind, "r", start, shape))


def content(path: Path) -> bytes:
    """All bytes of a file that is no array."""
    check(path)
    return path.read_bytes()


def claim(folder: Path) -> str:
    """What an index's folder says of all its files, by which trust.py knows it again."""
    there = [folder / name for name in (MANIFEST, PIECES) if (folder / name).exists()]
    return f"index {[hashlib.sha256(content(path)).hexdigest() for path in there]}"


def _header(path: Path) -> tuple[np.dtype, tuple[int, ...], int]:
    """The type and shape that a .npy file says, and where its numbers begin."""
    with path.open("rb") as file:
        said = HEADER.match(file.read(2**10))
    if not said:
        raise UserError("no array of numbers")
    return np.dtype(said[1].decode()), tuple(int(length) for length in said.groups()[1:] if length), said.end()
