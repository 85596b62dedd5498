"""A corpus's passages by their ids, in 16 bytes of memory each however long the ids are."""

from collections.abc import Sequence

import numpy as np

from qr_jax.records import Passage


class Pages:
    """Finds a passage by its id; the constructor reads all ids once."""

    def __init__(self, corpus: Sequence[Passage]):
        hash_P = np.fromiter((hash(passage.id) for passage in corpus), np.int64, len(corpus))
        self._place_P = np.argsort(hash_P)
        self._hash_P = hash_P[self._place_P]
        self._corpus = corpus

    def get(self, name: str) -> Passage | None:
        at = int(np.searchsorted(self._hash_P, hash(name)))
        while at < len(self._hash_P) and self._hash_P[at] == hash(name):
            passage = self._corpus[int(self._place_P[at])]
            if passage.id == name:
                return passage
            at += 1
        return None
