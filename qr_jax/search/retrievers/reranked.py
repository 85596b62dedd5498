"""Retriever: another retriever, its passages put in order by a reranking server (Search-R1's POST /rerank)."""

import time
from collections.abc import Sequence

from qr_jax.dialect import encodable
from qr_jax.errors import UserError
from qr_jax.logging.secrecy import redact
from qr_jax.records import Passage, SearchFunction
from qr_jax.search import http_post, identity, protocols
from qr_jax.settings.settings import Count, Use

EXAMPLE = {"of": "none", "url": "http://127.0.0.1:8000/rerank"}


def reranked(
    *,
    of: Use,  # the retriever whose passages are put in order
    url: str,  # the rerank server's address
    corpus: Sequence[Passage] | None = None,
    depth: Count = 20,  # passages that are put in order
    token_env: str | None = None,  # the environment variable with a bearer token; none: no token is sent
    at_once: Count = 8,  # requests that run at one time
    query_chars: Count = 2000,  # characters of a query; what is longer is cut
    timeout_s: float = 10.0,  # of one try
    deadline_s: float = 25.0,  # of all tries together; keep it below rollout.search_deadline_s
    retries: int = 2,  # further tries, with growing pauses
    pause_after: int = 5,  # failures in a row after which nothing is sent for pause_s
    pause_s: float = 10.0,  # how long nothing is sent then
    response_bytes: int = 16_000_000,  # of an answer; a larger one is refused
) -> SearchFunction:
    """Return a search for the k passages that the server at `url` ranks best among the first `depth` (k, if more) of
    `of`.

    One query goes in a request, `at_once` requests at a time: Search-R1's own server ranks the documents of all queries
    of a request for each query. The server's scores and order stay. Failures and all other settings are as for `http`;
    `deadline_s` is for the reranking alone. ValueError: no corpus where `of` wants one, an `of` that is no file of this
    folder (or a run's config could bring code that nobody allowed), and what `of` refuses.
    """
    headers = {"Authorization": f"Bearer {http_post.secret(token_env)}"} if token_env else None
    patience = http_post.Patience(timeout_s, deadline_s, retries, pause_after, pause_s, response_bytes)
    endpoint = http_post.Endpoint(url, patience, headers, path="/rerank")
    crew = http_post.Crew(at_once)
    first = identity.inside("reranked", of, corpus)

    def search(queries: list[str], k: int) -> list[list[Passage]]:
        if k < 1:
            return [[] for _ in queries]
        pairs = list(zip(queries, first(queries, max(depth, k)), strict=True))
        ends = time.monotonic() + deadline_s

        def rerank(pair: tuple[str, Sequence[Passage]]) -> list[Passage]:
            query, passages = pair
            if not passages:
                return []
            body = protocols.rerank_request(encodable(query)[:query_chars], passages, k)
            try:
                return protocols.rerank_results(endpoint.post(body, ends), passages)[:k]
            except ValueError as error:
                raise UserError(redact(f"{endpoint.url}: {error}")) from error

        return crew.each(rerank, pairs)

    return search
