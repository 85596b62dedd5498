"""A corpus on disk: passages read by their place from two memory maps, so that millions take no memory."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from qr_jax.records import Passage

TEXTS, ENDS = "passages.bin", "passages.npy"


class Stored(Sequence[Passage]):
    """The passages that `store` wrote into a folder, in their order; each is made when it is asked for."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        # Where id, title and text of each passage end, in bytes. Plain views: a slice of a memory map itself is slow.
        self._ends = np.asarray(np.load(self.folder / ENDS, mmap_mode="r"))
        self._bytes = np.asarray(np.memmap(self.folder / TEXTS, np.uint8, "r"))

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


def store(passages: Iterable[Passage], folder: Path) -> Iterator[Passage]:
    """The same passages, each written into the folder as it goes by; the files are whole when the last one has."""
    ends, at = array("q", (0, 0, 0)), 0
    with (folder / TEXTS).open("wb") as file:
        for passage in passages:
            for text in (passage.id, passage.title, passage.text):
                at += file.write(text.encode("utf-8", "surrogatepass"))
                ends.append(at)
            yield passage
    np.save(folder / ENDS, np.frombuffer(ends, np.int64).reshape(-1, 3))


class CorpusHash:
    """SHA-256 over ids, titles and texts in order; lengths are part of it, so that no two corpora run together."""

    def __init__(self) -> None:
        self._total = hashlib.sha256()

    def add(self, passage: Passage) -> None:
        for text in (passage.id, passage.title, passage.text):
            data = text.encode("utf-8", "surrogatepass")
            self._total.update(len(data).to_bytes(8, "little"))
            self._total.update(data)

    def over(self, passages: Iterable[Passage]) -> Iterator[Passage]:
        """The same passages, each added as it goes by."""
        for passage in passages:
            self.add(passage)
            yield passage

    def hexdigest(self) -> str:
        return self._total.hexdigest()
