"""Retriever: another retriever that for a share of the queries gives passages of no use."""

from collections.abc import Sequence

from qr_jax.errors import UserError
from qr_jax.records import Passage, SearchFunction
from qr_jax.search import identity
from qr_jax.search.retrievers import _noise
from qr_jax.settings.settings import Use

EXAMPLE = {"of": "bm25"}


def noisy(
    *,
    of: Use,  # the retriever whose passages are replaced
    corpus: Sequence[Passage],
    start: float = 0.0,  # the chance of useless passages at the beginning
    end: float = 0.5,  # that chance at the end
    done: float = 1.0,  # the share of the run that this run stands for; 1: the end's chance
    seed: int = 0,  # of the coins
) -> SearchFunction:
    """Return a search that, with probability start + (4^done - 1) / 3 (end - start), gives a query not what `of` finds
    but k other passages drawn from the corpus (all others, if fewer).

    exact: ZeroSearch's noise and its curriculum (Sun et al. 2025, arXiv:2505.04588; Alibaba-NLP/ZeroSearch, from 0 to
    .5), where a model writes the useless documents; here they are real ones. Deviations: a retriever does not know how
    far the run is, so `done` stands for the whole run (a curriculum is several runs, each from the last by train.init),
    and a query that is asked again gets the same passages. Evaluations search through the same noise (`qr-jax eval RUN
    --retriever bm25` does not). ValueError: an empty corpus, and what `of` refuses.
    """
    chance, clean = _noise.share(start, end, done), identity.inside("noisy", of, corpus)
    if not len(corpus):
        raise UserError("noisy has an empty corpus; it wants passages to draw from")

    def spoilt(query: str, found: Sequence[Passage], k: int) -> list[Passage]:
        useful, count = {passage.id for passage in found}, k + len(found)
        while True:
            places = (_noise.draws(query, count + 1, seed)[1:] * len(corpus)).astype(int)
            drawn = [corpus[place] for place in dict.fromkeys(places.tolist())]
            others = [passage for passage in drawn if passage.id not in useful]
            if len(others) >= k or len(drawn) == len(corpus):
                return others[:k]
            count *= 2  # some were drawn twice

    def search(queries: list[str], k: int) -> list[Sequence[Passage]]:
        pairs = zip(queries, clean(queries, k), strict=True)
        return [spoilt(q, found, k) if _noise.draws(q, 1, seed)[0] < chance else found for q, found in pairs]

    return search
