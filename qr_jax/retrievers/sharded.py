"""Retriever: a corpus cut over several servers, each of which searches its own part of the passages."""

from collections.abc import Sequence

from qr_jax.records import Passage, SearchFunction
from qr_jax.retrieval import http_post, identity
from qr_jax.settings import Use

EXAMPLE = {
    "parts": (
        {"name": "http", "settings": {"url": "http://127.0.0.1:8000/retrieve"}},
        {"name": "http", "settings": {"url": "http://127.0.0.1:8001/retrieve"}},
    )
}


def sharded(*, parts: tuple[Use, ...]) -> SearchFunction:
    """A search for the k passages with the highest scores among the best k of every part; equal scores by id.

    `parts` are two or more retrievers that have passages of their own, as `http` does; all are asked at once. Scores of
    different parts are compared as they are: a dense retriever's are the same wherever a passage lies, BM25's nearly so
    where passages are dealt by chance (each part counts its own words). A part that fails fails the search: what would
    be left is another corpus. ValueError: fewer than two parts, a part that searches the run's corpus or is no file of
    this folder (or a run's config could bring code that nobody allowed), what a part refuses, and, of a search,
    passages without scores.
    """
    if len(parts) < 2:
        raise ValueError(f"sharded needs two parts or more; it has {len(parts)}")
    searches = [identity.inside("sharded", part, None) for part in parts]
    crew = http_post.Crew(len(searches))

    def search(queries: list[str], k: int) -> list[list[Passage]]:
        by_part = crew.each(lambda one: one(queries, k), searches)
        return [merge(lists, k) for lists in zip(*by_part, strict=True)]

    return search


def merge(lists: Sequence[Sequence[Passage]], k: int) -> list[Passage]:
    """The k passages of the highest scores, best first, equal ones by id; ValueError where a list has no scores."""
    for part, passages in enumerate(lists):
        if len(passages) > 1 and not any(passage.score for passage in passages):
            raise ValueError(f"part {part} of sharded gave {len(passages)} passages without scores")
    every = (passage for passages in lists for passage in passages)
    return sorted(every, key=lambda passage: (-passage.score, passage.id))[:k]
