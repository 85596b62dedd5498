"""Retriever: the web, by Serper's search (https://serper.dev): a title and a snippet of each page found."""

import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

from qr_jax.dialect import encodable
from qr_jax.errors import UserError
from qr_jax.logging.secrecy import redact
from qr_jax.records import Passage, SearchFunction
from qr_jax.search import http_post
from qr_jax.search.protocols import passage_of
from qr_jax.settings.settings import Count


def serper(
    *,
    key_env: str = "SERPER_API_KEY",  # the environment variable with the key
    url: str = "https://google.serper.dev/search",  # Serper's address
    country: str | None = None,  # a country's code, as in us (Serper's gl)
    language: str | None = None,  # a language's code, as in en (Serper's hl)
    at_once: Count = 4,  # requests that run at one time
    query_chars: Count = 400,  # characters of a query; what is longer is cut
    timeout_s: float = 10.0,  # of one try
    deadline_s: float = 25.0,  # of all tries together; keep it below rollout.search_deadline_s
    retries: int = 2,  # further tries, with growing pauses
    pause_after: int = 5,  # failures in a row after which nothing is sent for pause_s
    pause_s: float = 10.0,  # how long nothing is sent then
    response_bytes: int = 2_000_000,  # of an answer; a larger one is refused
) -> SearchFunction:
    """Return a search of the web: a page's address is its passage's id, and 1 / place in the list its score.

    The key comes from the environment variable `key_env`. `country` and `language` are Serper's gl and hl ("us", "en").
    A request has one query, cut to `query_chars` characters; `at_once` run at a time. Blank queries find nothing and
    are not sent. Failures are as for `http`. Each search costs money: `cached` in front of it pays once a query.
    """
    if not url.startswith("https://") and urllib.parse.urlsplit(url).hostname not in http_post.LOOPBACK:
        raise UserError(f"serper has url={url!r}; wanted https://, so that the key stays secret")
    patience = http_post.Patience(timeout_s, deadline_s, retries, pause_after, pause_s, response_bytes)
    endpoint = http_post.Endpoint(url, patience, {"X-API-KEY": http_post.secret(key_env)})
    crew = http_post.Crew(at_once)
    fixed = {name: value for name, value in (("gl", country), ("hl", language)) if value is not None}

    def search(queries: list[str], k: int) -> list[list[Passage]]:
        ends = time.monotonic() + deadline_s

        def passages(query: str) -> list[Passage]:
            if not query.strip() or k < 1:
                return []
            answer = endpoint.post({"q": encodable(query)[:query_chars], "num": k, **fixed}, ends)
            return pages(answer, k)

        return crew.each(passages, queries)

    return search


def pages(answer: Any, k: int) -> list[Passage]:
    """Return the first k pages of Serper's answer in their order; ValueError where it has no list of them."""
    organic = answer.get("organic") if isinstance(answer, Mapping) else None
    if not isinstance(organic, list) or not all(isinstance(page, Mapping) for page in organic):
        fields = ", ".join(map(str, answer)) if isinstance(answer, Mapping) else type(answer).__name__
        raise UserError(redact(f"Serper's answer has no list 'organic' (found: {fields[:200] or 'nothing'})"))
    return [passage_of({"snippet": None} | page).scored(1 / place) for place, page in enumerate(organic[:k], 1)]
