"""Retriever: another retriever, its results kept on disk (search/search_cache.py)."""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any

from qr_jax import plugins
from qr_jax.data.corpus_hash import corpus_hash
from qr_jax.evaluation import manifest
from qr_jax.records import Passage
from qr_jax.search import bm25_build, identity
from qr_jax.search.search_cache import SearchCache
from qr_jax.settings.settings import Use, at_least

EXAMPLE = {"of": "none", "cache": "runs/searches"}
SHARED = True


def cached(
    *,
    of: Use,  # the retriever whose results are kept
    cache: str,  # the file they are kept in
    corpus: Sequence[Passage] | None = None,
    max_bytes: Annotated[int, at_least(100_000)] = 1_000_000_000,  # of the file; the oldest results go first
    max_age_s: float | None = None,  # how long a result counts; none: for ever
) -> SearchCache:
    """Return the search of `of` behind a cache in the file `cache`, as in use("cached", of=use("http", url=...),
    cache=...).

    A result's key is the retriever's name and settings (its URL and protocol, say), the contents of a model it searches
    with, its corpus if it is given one and BM25's rule of words, query and k. The cache cannot see that a server's
    corpus changed: then name another file, or set `max_age_s`. ValueError: no corpus where `of` wants one, an `of` that
    is no file of this folder, and what `of` and the file refuse.
    """
    search = identity.inside("cached", of, corpus)
    about: dict[str, Any] = {"retriever": of.name, "settings": identity.effective(of)}
    if corpus is not None and plugins.wants_corpus(of):
        about |= {"corpus": corpus_hash(corpus), "words": bm25_build.RULE}
    models = manifest.models_of(of)
    if models:  # without models the identity stays what it was: results kept under it may have been paid for
        about["models"] = models
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return SearchCache(search, cache, digest, max_bytes=max_bytes, max_age_s=max_age_s)
