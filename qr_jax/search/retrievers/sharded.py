"""Retriever: a corpus cut over several servers, each of which searches its own part of the passages."""

from collections.abc import Sequence
from itertools import pairwise

from qr_jax import plugins
from qr_jax.errors import UserError
from qr_jax.records import Passage, SearchFunction
from qr_jax.search import http_post, identity
from qr_jax.settings.settings import Count, Use

EXAMPLE = {
    "parts": (
        {"name": "http", "settings": {"url": "http://127.0.0.1:8000/retrieve"}},
        {"name": "http", "settings": {"url": "http://127.0.0.1:8001/retrieve"}},
    )
}


def sharded(
    *,
    parts: tuple[Use, ...],  # the retrievers, two or more, each with passages of its own, as http has
    at_once: Count = 8,  # searches that run at one time; each asks all parts
) -> SearchFunction:
    """Return a search for the k passages with the highest scores among the best k of every part; equal scores by id.

    Scores of different parts are compared as they are: a dense retriever's are the same wherever a passage lies, BM25's
    nearly so where passages are dealt by chance (each part counts its own words). A passage that two parts have counts
    once. A part that fails fails the search: what would be left is another corpus.

    ValueError: fewer than two parts, the same one twice, one that searches the run's corpus or is no file of this
    folder (or a run's config could bring code that nobody allowed), and what a part refuses. Of a search: passages
    without scores where two parts answer, scores that rise along a part's own order (distances, say), and one id with
    two texts.
    """
    if len(parts) < 2:
        raise UserError(f"sharded needs two parts or more; it has {len(parts)}")
    identity.check_parts("sharded", parts)
    for at, part in enumerate(parts):
        if part in parts[:at]:
            raise UserError(f"sharded has the same part twice, parts {parts.index(part)} and {at}; name each once")
        if plugins.wants_corpus(part):
            wanted = "wanted parts with passages of their own, as http has"
            raise UserError(f"part {at} of sharded, {part.name}, searches the run's corpus; {wanted}")
    searches = [plugins.bind("retriever", part)() for part in parts]
    crew = http_post.Crew(len(searches) * at_once)

    def search(queries: list[str], k: int) -> list[list[Passage]]:
        by_part = crew.each(lambda one: one(queries, k), searches)
        return [merge(lists, k) for lists in zip(*by_part, strict=True)]

    return search


def merge(lists: Sequence[Sequence[Passage]], k: int) -> list[Passage]:
    """Return the k passages of the highest scores, best first, equal ones by id; ValueError as `sharded` has it."""
    found = {part: passages for part, passages in enumerate(lists) if passages}
    if len(found) < 2:
        return [passage for passages in found.values() for passage in passages[:k]]
    by_id: dict[str, Passage] = {}
    for part, passages in found.items():
        scores = [passage.score for passage in passages]
        if not any(scores):
            raise UserError(f"part {part} of sharded gave passages without scores: beside others' nothing orders them")
        if any(before < after for before, after in pairwise(scores)):
            raise UserError(f"part {part} of sharded gave scores that rise along its order, {scores[:5]}: distances?")
        for passage in passages:
            known = by_id.setdefault(passage.id, passage)
            if (known.title, known.text) != (passage.title, passage.text):
                raise UserError(f"two parts of sharded have other texts under the id {passage.id!r}; wanted one an id")
    return sorted(by_id.values(), key=lambda passage: (-passage.score, passage.id))[:k]
