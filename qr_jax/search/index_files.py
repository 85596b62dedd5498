"""Open the files of an index's folder, BM25's or dense, which may be a stranger's: no pipe is waited for."""

from pathlib import Path

import numpy as np

from qr_jax.errors import UserError
from qr_jax.run import run_files
from qr_jax.run.run_files import Most

MANIFEST = "manifest.json"
STARTS, WORDS, PARAMS = "indptr.csc.index.npy", "vocab.index.json", "params.index.json"
# Arrays are memory-mapped. A corpus file takes 150 bytes of a manifest, a different word about 20 of WORDS and 8 of
# STARTS.
MOST = {MANIFEST: Most(2**20), PARAMS: Most(2**20), WORDS: Most(2**31), STARTS: Most(2**30)}


def wrong(path: Path) -> str | None:
    """Return why a file is not opened, or None. OSError if it is missing."""
    return run_files.wrong(path, MOST)


def check(path: Path) -> None:
    """Raise ValueError if the file must not be opened."""
    if what := wrong(path):
        raise UserError(f"{path.name}: {what}")


def array(path: Path) -> np.ndarray:
    """Return a .npy file's array, memory-mapped. ValueError if it is none, or shorter than its header says."""
    check(path)
    try:
        # Trap: a slice of a memory map costs more than what is done with it; a plain view of the same bytes does not.
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise UserError(f"{path.name}: {error}") from error


def content(path: Path) -> bytes:
    """Read a file that is no array as bytes."""
    check(path)
    return path.read_bytes()
