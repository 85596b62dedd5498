"""Retriever: a language model plays the search engine, useful or not (ZeroSearch)."""

import re
import time

from qr_jax.dialect import encodable
from qr_jax.errors import UserError
from qr_jax.records import Passage, SearchFunction
from qr_jax.search import http_post
from qr_jax.search.chat_endpoint import ChatEndpoint, reply_text
from qr_jax.search.retrievers import _noise
from qr_jax.settings.settings import Count

EXAMPLE = {"url": "http://127.0.0.1:8000/v1", "model": "engine"}
PROMPT = (
    "You are a search engine. For the query, write {k} short documents that {kind}, each on a line of its own that "
    "begins with 'Doc 1: ', 'Doc 2: ' and so on. Write nothing else.\nQuery: {query}"
)
KINDS = ("are on its subject but do not help to answer it", "hold what is needed to answer it")
DOCUMENT = re.compile(r"^\s*Doc \d+\s*:\s*(.+?)\s*$", re.MULTILINE)


def zero_search(
    *,
    url: str,  # the endpoint that plays the search engine (OpenAI-compatible)
    model: str,  # its name there
    start: float = 0.0,  # the chance of useless passages at the beginning
    end: float = 0.5,  # that chance at the end
    done: float = 1.0,  # the share of the run that this run stands for; 1: the end's chance
    seed: int = 0,  # of the coins
    token_env: str | None = None,  # the environment variable with the server's key; none: no key is sent
    temperature: float = 0.0,  # of its sampling
    max_tokens: int = 512,  # of one of its replies
    at_once: Count = 8,  # calls that run at one time
    query_chars: Count = 1000,  # characters of a query; what is longer is cut
    timeout_s: float = 20.0,  # of one try
    deadline_s: float = 25.0,  # of all tries together; keep it below rollout.search_deadline_s
    retries: int = 2,  # further tries, with growing pauses
    pause_after: int = 5,  # failures in a row after which nothing is sent for pause_s
    pause_s: float = 10.0,  # how long nothing is sent then
    response_bytes: int = 1_000_000,  # of an answer; a larger one is refused
) -> SearchFunction:
    """Return a search whose passages the `model` at the OpenAI-compatible `url` writes: useless ones with probability
    start + (4^done - 1) / 3 (end - start), else useful ones.

    exact: the noise and its curriculum (Sun et al. 2025, arXiv:2505.04588; Alibaba-NLP/ZeroSearch: from 0 to .5, 5
    documents). Deviations: the prompt is our own, and the model sees the query alone, not the question and its answer;
    a retriever does not know how far the run is, so `done` stands for the whole run; a query's noise is keyed by its
    words. An answer without a document is a failed search. Failures are as for `http`; `cached` asks once a query.
    """
    chance = _noise.share(start, end, done)
    headers = {"Authorization": f"Bearer {http_post.secret(token_env)}"} if token_env else None
    patience = http_post.Patience(timeout_s, deadline_s, retries, pause_after, pause_s, response_bytes)
    endpoint = ChatEndpoint(url, patience, headers, key_env=token_env or "")
    crew = http_post.Crew(at_once)

    def search(queries: list[str], k: int) -> list[list[Passage]]:
        ends = time.monotonic() + deadline_s

        def write(query: str) -> list[Passage]:
            if not query.strip() or k < 1:
                return []
            kind = KINDS[bool(_noise.draws(query, 1, seed)[0] >= chance)]
            text = PROMPT.format(k=k, kind=kind, query=encodable(query)[:query_chars])
            body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": temperature}
            reply = reply_text(endpoint.post(body | {"max_tokens": max_tokens}, ends))
            documents = DOCUMENT.findall(encodable(reply))
            if not documents:
                raise UserError(f"{endpoint.url}: the model {model} wrote no line 'Doc 1: ...' for {query!r}")
            return [Passage(f"{query}#{i}", "", document, 1 / i) for i, document in enumerate(documents[:k], 1)]

        return crew.each(write, queries)

    return search
