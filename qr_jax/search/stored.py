"""A corpus on disk: passages read by position from two memory maps, so that millions take no memory."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from qr_jax.data.readers import STORED
from qr_jax.errors import UserError
from qr_jax.records import Passage
from qr_jax.search import index_files

TEXTS, ENDS = STORED


class Stored(Sequence[Passage]):
    """The passages that `store` wrote into a folder, in order; each is made on access."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.sha256: str | None = None  # of the passages, once somebody has checked it (corpus_hash.py)
        # Where id, title and text of each passage end, in bytes. Plain views: a slice of a memory map itself is slow.
        self._ends = index_files.array(self.folder / ENDS)
        index_files.check(self.folder / TEXTS)
        self._bytes = np.asarray(np.memmap(self.folder / TEXTS, np.uint8, "r"))
        is_table = (
            self._ends.dtype == np.int64 and self._ends.ndim == 2 and self._ends.shape[1:] == (3,) and len(self._ends)
        )
        flat = self._ends.reshape(-1) if is_table else np.ones(1, np.int64)
        if flat[:3].any() or flat[-1] != len(self._bytes) or any((np.diff(part) < 0).any() for part in _pieces(flat)):
            raise UserError(f"{ENDS} does not say where the passages of {TEXTS} end, one after another")

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> list[Passage]: ...

    def __getitem__(self, index: Any) -> Passage | list[Passage]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = int(index) + len(self) * (index < 0)
        if not 0 <= at < len(self):
            raise IndexError(f"passage {index} of {len(self)}")
        start, (name, title, text) = int(self._ends[at, -1]), self._ends[at + 1].tolist()
        whole = self._bytes[start:text].tobytes()
        parts = whole[: name - start], whole[name - start : title - start], whole[title - start :]
        found = [part.decode("utf-8", "surrogatepass") for part in parts]
        return Passage(found[0], found[1], found[2])


def _pieces(flat: np.ndarray, size: int = 2**22) -> Iterator[np.ndarray]:
    """Yield the array in pieces, each with the first element of the next one."""
    return (flat[at : at + size + 1] for at in range(0, len(flat), size))


def store(passages: Iterable[Passage], folder: Path) -> Iterator[Passage]:
    """Yield the same passages and write each into the folder; the files are complete after the last one."""
    ends, at = array("q", (0, 0, 0)), 0
    with (folder / TEXTS).open("wb") as file:
        for passage in passages:
            for text in (passage.id, passage.title, passage.text):
                at += file.write(text.encode("utf-8", "surrogatepass"))
                ends.append(at)
            yield passage
    np.save(folder / ENDS, np.frombuffer(ends, np.int64).reshape(-1, 3))
