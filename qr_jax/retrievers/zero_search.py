"""Retriever: a language model plays the search engine, useful or not (ZeroSearch)."""

import re
import time

from qr_jax.dialect import encodable
from qr_jax.records import Passage, SearchFunction
from qr_jax.retrieval import http_post
from qr_jax.retrievers import _noise

EXAMPLE = {"url": "http://127.0.0.1:8000/v1", "model": "engine"}
PROMPT = (
    "You are a search engine. For the query, write {k} short documents that {kind}, each on a line of its own that "
    "begins with 'Doc 1: ', 'Doc 2: ' and so on. Write nothing else.\nQuery: {query}"
)
KINDS = ("are on its subject but do not help to answer it", "hold what is needed to answer it")
DOCUMENT = re.compile(r"^\s*Doc \d+\s*:\s*(.+?)\s*$", re.MULTILINE)


def zero_search(
    *,
    url: str,
    model: str,
    start: float = 0.0,
    end: float = 0.5,
    done: float = 1.0,
    seed: int = 0,
    token_env: str | None = None,
    temperature: float = 0.0,
    max_tokens: int = 512,
    at_once: int = 8,
    query_chars: int = 1000,
    timeout_s: float = 20.0,
    deadline_s: float = 25.0,
    retries: int = 2,
    pause_after: int = 5,
    pause_s: float = 10.0,
    response_bytes: int = 1_000_000,
) -> SearchFunction:
    """A search whose passages the `model` at the OpenAI-compatible `url` writes: useless ones with probability start +
    (4^done - 1) / 3 (end - start), else useful ones.

    exact: the noise and its curriculum (Sun et al. 2025, arXiv:2505.04588; Alibaba-NLP/ZeroSearch: from 0 to .5, 5
    documents). Deviations: the prompt is our own, and the model sees the query alone, not the question and its answer;
    a retriever does not know how far the run is, so `done` stands for the whole run; a query's noise is keyed by its
    words. An answer without a document is a failed search. Failures are as for `http`; `cached` asks once a query.
    """
    chance = _noise.share(start, end, done)
    headers = {"Authorization": f"Bearer {http_post.secret(token_env)}"} if token_env else None
    patience = http_post.Patience(timeout_s, deadline_s, retries, pause_after, pause_s, response_bytes)
    endpoint = http_post.Endpoint(f"{url.rstrip('/')}/chat/completions", patience, headers)

    def search(queries: list[str], k: int) -> list[list[Passage]]:
        ends = time.monotonic() + deadline_s

        def write(query: str) -> list[Passage]:
            if not query.strip() or k < 1:
                return []
            kind = KINDS[bool(_noise.draws(query, 1, seed)[0] >= chance)]
            text = PROMPT.format(k=k, kind=kind, query=encodable(query)[:query_chars])
            body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": temperature}
            documents = DOCUMENT.findall(_content(endpoint.post(body | {"max_tokens": max_tokens}, ends)))
            if not documents:
                raise ValueError(f"{endpoint.url}: the model {model} wrote no line 'Doc 1: ...' for {query!r}")
            return [Passage(f"{query}#{i}", "", document, 1 / i) for i, document in enumerate(documents[:k], 1)]

        return http_post.each(write, queries, at_once)

    return search


def _content(answer: object) -> str:
    """The text of a chat completion; ValueError where it has none."""
    try:
        content = answer["choices"][0]["message"]["content"]  # type: ignore[index]
    except (LookupError, TypeError) as error:
        raise ValueError(f"no chat completion, but {str(answer)[:200]!r}") from error
    return encodable(str(content))
