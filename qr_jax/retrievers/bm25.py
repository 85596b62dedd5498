"""Retriever: BM25 by word statistics alone (bm25s: Lu 2024, 2407.03618), its index on disk and memory-mapped."""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from qr_jax import bm25_index
from qr_jax.records import Passage, SearchFunction

# Words of two characters and more, as in bm25s, and single ones ("Vitamin C", "World War 2") but after an apostrophe.
WORD = r"(?u)\b\w\w+\b|(?<!['’])\b\w\b"


def bm25(
    *,
    corpus: Sequence[Passage],
    index: str | None = None,
    method: Literal["lucene", "robertson", "atire"] = "lucene",
    k1: float = 1.5,
    b: float = 0.75,
    stopwords: str | None = "en",
) -> SearchFunction:
    """A search over title + " " + text of each passage: best first, equal scores by id, score 0 left out.

    `index` names a folder: its index is used where it was made of this very corpus with these settings, else it is
    built there first (bm25_index.py; ValueError where the folder holds other files). None keeps it in memory. The
    order is exact, ties at the k-th place included. An empty query, or one of unknown words only, finds nothing.
    ValueError: an empty corpus, an id twice, no word in any passage, an unknown method. The function may be called
    from several threads.
    """
    # Trap: importing bm25s starts the JAX backend, after which no devices can be emulated nor processes joined.
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # at DEBUG by itself, it narrates every index it builds

    if method not in ("lucene", "robertson", "atire"):
        raise ValueError(f"bm25 has no method {method!r}; its methods are: lucene, robertson, atire")
    ids = [passage.id for passage in corpus]
    twice = [one for one, times in Counter(ids).items() if times > 1]
    if not ids or twice:
        found = f"the id {twice[0]!r} more than once" if twice else "no passage"
        raise ValueError(f"bm25 needs a corpus of passages with an id each; found {found}")
    settings = {"method": method, "k1": k1, "b": b, "stopwords": stopwords, "words": WORD}

    def build() -> bm25s.BM25:
        texts = [unicodedata.normalize("NFKC", f"{passage.title} {passage.text}") for passage in corpus]
        tokens: Any = bm25s.tokenize(texts, token_pattern=WORD, stopwords=stopwords or [], show_progress=False)
        if not tokens.vocab:
            raise ValueError(f"none of the {len(ids)} passages holds a word to search for (stopwords={stopwords!r})")
        model = bm25s.BM25(method=method, k1=k1, b=b, backend="numpy", csc_backend="numpy")
        model.index(tokens, create_empty_token=False, show_progress=False)
        return model

    model = build() if index is None else bm25_index.load_or_build(index, corpus, settings, build)
    order_P = np.empty(len(ids), np.int64)  # a passage's place when ids are sorted: equal scores go by it
    order_P[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))

    find_words, word_at = re.compile(WORD).findall, model.vocab_dict
    # Trap: a slice of a memory map costs more than what is done with it; a plain view of the same bytes does not.
    score_I, place_I, start_W = (np.asarray(model.scores[name]) for name in ("data", "indices", "indptr"))

    def one(query: str, k: int) -> list[Passage]:
        words = find_words(unicodedata.normalize("NFKC", query).lower())  # stop words are in no passage's list
        known = [word_at[word] for word in words if word in word_at]
        lists = [slice(int(start_W[at]), int(start_W[at + 1])) for at in known]
        scores_P = np.zeros(len(ids), np.float32)
        for where in lists:
            np.add.at(scores_P, place_I[where], score_I[where])
        # The k-th best of a few passages bounds the k-th best of all from below: those of the rarest word that has k.
        some = min((place_I[where] for where in lists if where.stop - where.start >= k), key=len, default=None)
        least = 0.0 if some is None or k < 1 else np.partition(scores_P[some], -k)[-k]
        return [_scored(corpus[place], scores_P[place]) for place in best(scores_P, order_P, k, least)]

    return lambda queries, k: [one(query, k) for query in queries]


def best(scores_P: np.ndarray, order_P: np.ndarray, k: int, least: float = 0.0) -> np.ndarray:
    """Places of the k best scores above 0, best first, equal scores by `order_P`; fewer where fewer are above 0.

    `least`: a score that at least k reach, if one is known.
    """
    places = np.flatnonzero(scores_P >= least if least > 0 else scores_P > 0)
    if 0 < k < len(places):
        bound = np.partition(scores_P[places], -k)[-k]
        places = places[scores_P[places] >= bound]
    return places[np.lexsort((order_P[places], -scores_P[places]))][: max(k, 0)]


def _scored(passage: Passage, score: Any) -> Passage:
    return Passage(passage.id, passage.title, passage.text, float(score))
