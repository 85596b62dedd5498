"""The SHA-256 of a corpus, which tells one corpus from another in manifests, checkpoints and indexes."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from qr_jax.records import Passage


class CorpusHash:
    """SHA-256 over ids, titles and texts in order; lengths are hashed too, so that no boundary can move unnoticed."""

    def __init__(self) -> None:
        self._total = hashlib.sha256()

    def add(self, passage: Passage) -> None:
        for text in (passage.id, passage.title, passage.text):
            data = text.encode("utf-8", "surrogatepass")
            self._total.update(len(data).to_bytes(8, "little"))
            self._total.update(data)

    def over(self, passages: Iterable[Passage]) -> Iterator[Passage]:
        """Yield the same passages, and add each to the hash."""
        for passage in passages:
            self.add(passage)
            yield passage

    def hexdigest(self) -> str:
        return self._total.hexdigest()


def corpus_hash(corpus: Sequence[Passage]) -> str:
    """Return the SHA-256 of the passages; a stored corpus has it as `sha256`, checked against its manifest."""
    return getattr(corpus, "sha256", None) or hashed(corpus)


def hashed(corpus: Iterable[Passage]) -> str:
    total = CorpusHash()
    for passage in corpus:
        total.add(passage)
    return total.hexdigest()
