"""Retriever: several retrievers' lists merged by reciprocal rank fusion (Cormack et al. 2009, SIGIR)."""

from collections.abc import Sequence

from qr_jax import plugins
from qr_jax.errors import UserError
from qr_jax.records import Passage, SearchFunction
from qr_jax.search import identity
from qr_jax.settings.settings import Count, NotNegative, Use

DEVICES = True


def hybrid(
    *,
    corpus: Sequence[Passage],
    parts: tuple[Use, ...] = (Use("bm25"), Use("dense")),  # the retrievers, two or more
    constant: NotNegative = 60.0,  # c of 1 / (c + rank): the larger, the less the first places count more
    depth: Count = 100,  # passages each part is asked for
) -> SearchFunction:
    """Return a search whose score is the sum of 1 / (constant + rank) over the parts' lists, the first rank being 1.

    `parts` are retrievers with their settings, all over this corpus; each is asked for `depth` passages, or k if that
    is more. Best first, equal scores by id. ValueError: fewer than two parts, a part that is no file of this folder (or
    a run's config could bring code that nobody allowed), and what a part refuses.
    """
    if len(parts) < 2:
        names = ", ".join(part.name for part in parts)
        raise UserError(f"hybrid needs two parts or more; it has {len(parts)} ({names})")
    identity.check_parts("hybrid", parts)
    makes = [plugins.bind("retriever", part) for part in parts]  # checks all before any builds an index
    pairs = zip(makes, parts, strict=True)
    searches = [make(corpus=corpus) if plugins.wants_corpus(part) else make() for make, part in pairs]

    def search(queries: list[str], k: int) -> list[list[Passage]]:
        if k < 1:
            return [[] for _ in queries]
        by_part = [search_part(queries, max(depth, k)) for search_part in searches]
        return [fuse(lists, k, constant) for lists in zip(*by_part, strict=True)]

    return search


def fuse(lists: Sequence[Sequence[Passage]], k: int, constant: float = 60.0) -> list[Passage]:
    """Return the k best of the lists' passages; those of one id are the same passage."""
    scores: dict[str, float] = {}
    passages: dict[str, Passage] = {}
    for ranked in lists:
        for rank, passage in enumerate({passage.id: passage for passage in ranked}.values(), 1):  # each once
            scores[passage.id] = scores.get(passage.id, 0.0) + 1 / (constant + rank)
            passages.setdefault(passage.id, passage)
    order = sorted(scores, key=lambda name: (-scores[name], name))[:k]
    return [passages[name].scored(scores[name]) for name in order]
