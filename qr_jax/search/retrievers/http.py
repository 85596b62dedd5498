"""Retriever: a retrieval server of ours or a peer's, asked over HTTP (search/protocols.py)."""

import time
from typing import Literal

from qr_jax.dialect import encodable
from qr_jax.errors import UserError
from qr_jax.logging.secrecy import redact
from qr_jax.records import Passage, SearchFunction
from qr_jax.search import http_post
from qr_jax.search.protocols import PROTOCOLS
from qr_jax.settings.settings import Count

EXAMPLE = {"url": "http://127.0.0.1:8000/retrieve"}


def http(
    *,
    url: str,  # the server's address; without a path the protocol's is taken
    protocol: Literal[
        "search_r1", "skyrl", "flashrag", "r1_searcher", "deepresearchgym"
    ] = "search_r1",  # how the server is asked
    token_env: str | None = None,  # the environment variable with a bearer token or a key; none: none is sent
    batch: Count = 64,  # queries of one request
    at_once: Count = 8,  # requests that run at one time
    query_chars: Count = 2000,  # characters of a query; what is longer is cut
    timeout_s: float = 10.0,  # of one try
    deadline_s: float = 25.0,  # of all tries together; keep it below rollout.search_deadline_s
    retries: int = 2,  # further tries, with growing pauses
    pause_after: int = 5,  # failures in a row after which nothing is sent for pause_s
    pause_s: float = 10.0,  # how long nothing is sent then
    response_bytes: int = 16_000_000,  # of an answer; a larger one is refused
) -> SearchFunction:
    """Return a search that asks the server at `url`; the protocol's path is added to a URL without one.

    `batch` queries go in one request (one query, if the protocol takes no more), `at_once` requests at a time. A blank
    query finds nothing and is not sent; a query of more than `query_chars` characters is cut. `token_env` names the
    environment variable with a bearer token, or with DeepResearchGym's key (CLUEWEB_API_KEY, if its own server
    clueweb22.us is asked). The server's order stays; what comes after k passages is not looked at.

    If the server gives no right answer, a call raises OSError or ValueError and never returns an empty list: after
    `retries` further tries with growing pauses, within `deadline_s` for all of it (keep it below
    rollout.search_deadline_s). After `pause_after` failures in a row no request is sent for `pause_s`. Redirects are
    not followed. The function may be called from several threads.
    """
    way = PROTOCOLS[protocol]
    patience = http_post.Patience(timeout_s, deadline_s, retries, pause_after, pause_s, response_bytes)
    endpoint = http_post.Endpoint(url, patience, way.headers(url, token_env), path=way.path)
    endpoint.key_env = token_env or ""
    crew = http_post.Crew(at_once)
    size = batch if way.batch else 1

    def search(queries: list[str], k: int) -> list[list[Passage]]:
        ends = time.monotonic() + deadline_s
        results: list[list[Passage]] = [[] for _ in queries]
        asked = [at for at, query in enumerate(queries) if query.strip() and k > 0]
        parts = [asked[start : start + size] for start in range(0, len(asked), size)]

        def ask(part: list[int]) -> list[list[Passage]]:
            texts = [encodable(queries[at])[:query_chars] for at in part]
            answer = way.ask(endpoint, texts, k, ends)
            try:
                return way.results(answer, len(part), k)
            except ValueError as error:
                raise UserError(redact(f"{endpoint.url} (protocol {protocol}): {error}")) from error

        for part, answers in zip(parts, crew.each(ask, parts), strict=True):
            for at, passages in zip(part, answers, strict=True):
                results[at] = passages
        return results

    return search
