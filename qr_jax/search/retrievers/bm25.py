"""Retriever: BM25 by word statistics alone (Lu 2024, arXiv:2407.03618), its index in memory or memory-mapped."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from qr_jax.records import Passage, SearchFunction
from qr_jax.search import bm25_build, bm25_index, kept_index
from qr_jax.search.bm25_build import Method
from qr_jax.search.stored import Stored
from qr_jax.settings.settings import NotNegative, Share

log = logging.getLogger(__name__)


def bm25(
    *,
    corpus: Sequence[Passage],
    method: Method = "lucene",  # the formula
    k1: NotNegative = 1.5,  # how slowly a repeated word saturates
    b: Share = 0.75,  # how much long passages are damped
    stopwords: str | None = "en",  # language of the words that are left out; none: all are kept
) -> SearchFunction:
    """Return a search over title + " " + text of each passage: best first, equal scores by id, score 0 left out.

    If `qr-jax index` stored the corpus, the index beside it is used where it has these settings and this rule of words;
    otherwise `kept_index` gives one, kept in the user's cache from 10,000 passages on. The order is exact, ties at the
    k-th place included. An empty query, or one of unknown words only, finds nothing. ValueError: an empty corpus, an id
    twice, no word in any passage. Several threads may call the function.

    Words are those of `search/words.py`.
    """
    settings = {"method": method, "k1": k1, "b": b, "stopwords": stopwords, "words": bm25_build.RULE}
    lists = _index(corpus, settings)
    score_I, place_I, start_W, order_P = lists.score_I, lists.place_I, lists.start_W, lists.order_P

    def passages(query: str, k: int) -> list[Passage]:
        asked = bm25_build.words(query)
        words = [lists.word_at[word] for word in asked if word in lists.word_at]  # no stop words
        spans = [slice(int(start_W[word]), int(start_W[word + 1])) for word in words]
        scores_P = np.zeros(len(order_P), np.float32)
        for span in spans:
            np.add.at(scores_P, place_I[span], score_I[span])
        # The k-th best of a few passages bounds the k-th best of all from below: those of the rarest word that has k.
        few = min((place_I[span] for span in spans if span.stop - span.start >= k), key=len, default=None)
        least = 0.0 if few is None or k < 1 else np.partition(scores_P[few], -k)[-k]
        places = best(scores_P, order_P, k, least)
        found = zip(places.tolist(), scores_P[places].tolist(), strict=True)
        return [corpus[place].scored(score) for place, score in found]

    return lambda queries, k: [passages(query, k) for query in queries]


def _index(corpus: Sequence[Passage], settings: dict[str, Any]) -> bm25_index.Index:
    """Return the index beside the corpus's passages if it has these settings, else that of the user's cache."""
    if isinstance(corpus, Stored):
        reason = bm25_index.why_not(corpus.folder, {"settings": settings}, files=bm25_index.FILES)
        if reason is None:
            return bm25_index.load(corpus.folder)
        again = "`qr-jax index`, with the same files and folder, builds it again"
        log.warning("%s: its index is not used (%s), and another is made for it; %s", corpus.folder, reason, again)
    return kept_index.load_or_build(corpus, settings)


def best(scores_P: np.ndarray, order_P: np.ndarray, k: int, least: float = 0.0) -> np.ndarray:
    """Return the places of the k best scores above 0, best first, equal scores by `order_P`; fewer where fewer are
    above 0.

    `least`: a score that at least k passages are known to reach.
    """
    places = np.flatnonzero(scores_P >= least if least > 0 else scores_P > 0)
    if 0 < k < len(places):
        bound = np.partition(scores_P[places], -k)[-k]
        places = places[scores_P[places] >= bound]
    return places[np.lexsort((order_P[places], -scores_P[places]))][: max(k, 0)]
