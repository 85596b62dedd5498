"""Retriever: passages by their meaning, as an encoder has it: exact search by inner products on this host's devices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from qr_jax.data.corpus_hash import corpus_hash
from qr_jax.errors import UserError
from qr_jax.records import Passage, SearchFunction
from qr_jax.search import bm25_index, dense_index, embedder, nearest
from qr_jax.search.embedder import QUERY_SIZES, Embedder
from qr_jax.settings.settings import Count

FIRST_K = 8  # searches of so many passages or fewer compile nothing

DEVICES = SHARED = True


def dense(
    *,
    corpus: Sequence[Passage],
    model: str = "minilm",  # "minilm", or a folder or hub id of a BERT-family encoder
    index: str | None = None,  # the folder where vectors are kept; none: in memory
    query_prefix: str = "",  # put before each query (E5: "query: ")
    passage_prefix: str = "",  # put before each passage (E5: "passage: ")
    pooling: Literal["mean", "cls"] | None = None,  # how a text's vectors become one; none: as the model's files say
    max_tokens: int | None = None,  # of a passage or query; none: the model's own limit
    storage: Literal["float32", "bfloat16", "int8"] = "float32",  # type of the vectors, on disk and on devices
    compute: Literal["float32", "bfloat16"] = "float32",  # type in which the encoder computes
    batch_tokens: Count | None = None,  # embedded at once on a device; none: 1,024 on a CPU, else 32,768
    devices: int | None = None,  # how many of this host's share the search; none: all
) -> SearchFunction:
    """Return a search by the products of a query's vector with those of title + " " + text: best first, equal scores by
    id.

    `model`: "minilm" (`make minilm`), or a folder or hub id of a BERT-family encoder; E5 wants the prefixes "query: "
    and "passage: ". `index` names a folder where vectors are kept piece by piece, so that a process that was killed
    goes on; None keeps them in memory. `storage` is their type there and on the devices; an int8 row has one scale.
    Passages are embedded and searched over the last `devices` of this host's (None: all), each embedding
    `batch_tokens` at once (None: 1,024 on a CPU, where more spills its cache, else 32,768); on GPUs
    `mesh.rollout_devices` are the last too. Every process of a pod searches for itself.

    A blank query finds nothing. All programs are compiled before the search function is returned (k up to 8; a larger k
    compiles one for each power of two); it may be called from several threads. ValueError: an empty corpus, an id
    twice, an index of another corpus, model or setting, an encoder that search/embedder.py cannot read.
    """
    # Rows lie in the order of ids, and equal scores go by row.
    place_P = np.array(bm25_index.by_id([passage.id for passage in corpus], "dense"))
    own = jax.local_devices()
    if devices is not None and not 1 <= devices <= len(own):
        raise UserError(f"dense has devices={devices}; this process has {len(own)} ({own[0].platform})")
    chosen = own if devices is None else own[-devices:]
    encode = Embedder(
        embedder.resolve(model), chosen, pooling=pooling, max_tokens=max_tokens, compute=compute,
        batch_tokens=batch_tokens,
    )  # fmt: skip

    vectors = _vectors(corpus, place_P, encode, passage_prefix, index, storage)
    rows = nearest.lay_out(vectors.read, len(place_P), chosen)
    for query_BD in encode.warm_up():
        nearest.nearest(rows, query_BD, FIRST_K)

    def search_batch(queries: list[str], k: int) -> list[list[Passage]]:
        """Return the passages of at most QUERY_SIZES[-1] queries."""
        query_BD = encode.queries([query_prefix + query for query in queries])
        score_BK, row_BK = nearest.nearest(rows, query_BD, k)
        pairs = zip(score_BK[: len(queries)].tolist(), place_P[row_BK[: len(queries)]].tolist(), strict=True)
        return [[corpus[at].scored(score) for score, at in zip(*pair, strict=True)] for pair in pairs]

    return _in_batches(search_batch)


def _vectors(
    corpus: Sequence[Passage],
    place_P: np.ndarray,
    encode: Embedder,
    prefix: str,
    index: str | None,
    storage: dense_index.Storage,
) -> dense_index.Vectors:
    """Return the vectors of the passages in the order of `place_P`, from the index's folder if there is one."""

    def embed(start: int, stop: int) -> np.ndarray:
        passages = [corpus[int(place)] for place in place_P[start:stop]]
        return encode.passages([f"{prefix}{p.title} {p.text}".strip() for p in passages])

    if index is None:
        return dense_index.in_memory(len(place_P), storage, embed)
    made_of = {"corpus": corpus_hash(corpus), "model": encode.fingerprint, "width": encode.width}
    settings = encode.settings | {"passage_prefix": prefix}
    return dense_index.in_folder(Path(index), len(place_P), storage, embed, **made_of, settings=settings)


def _in_batches(search_batch: SearchFunction) -> SearchFunction:
    """Return a search of any number of queries, blank ones included, by one of at most QUERY_SIZES[-1]."""

    def search(queries: list[str], k: int) -> list[Sequence[Passage]]:
        results: list[Sequence[Passage]] = [[] for _ in queries]
        asked = [at for at, query in enumerate(queries) if query.strip() and k > 0]
        for start in range(0, len(asked), QUERY_SIZES[-1]):
            at_once = asked[start : start + QUERY_SIZES[-1]]
            for at, passages in zip(at_once, search_batch([queries[at] for at in at_once], k), strict=True):
                results[at] = passages
        return results

    return search


def fingerprint(*, model: str = "minilm", **_: Any) -> str:
    """Return the SHA-256 of the encoder's files: another encoder finds other passages (evaluation/manifest.py)."""
    return embedder.fingerprint(embedder.resolve(model))
