"""Read a search request as any peer's client writes it, and write its answer as that client reads it: JSON alone."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from qr_jax.dialect import encodable
from qr_jax.records import Passage
from qr_jax.search.limits import Limits, Refused
from qr_jax.search.protocols import contents
from qr_jax.settings import json_text

FIELDS = 64  # room for what a request's JSON has beside its queries


def read_asked(body: bytes, limits: Limits) -> tuple[list[str], int, bool, bool]:
    """Return (queries, k, whether scores are wanted, whether it is one query by itself) of any peer's request.

    It may have `queries` or `query`, a text or a list of texts; `topk`, `k` or `top_n`; `return_scores` or
    `return_score`. A query of too many characters is cut, as our own client cuts it. Refused with 400: anything else.
    """
    asked = _object(body, limits)
    queries = asked.get("queries", asked.get("query"))
    single = isinstance(queries, str)
    queries = [queries] if single else queries
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise Refused(400, "wanted 'queries', a list of texts, or 'query', a text")
    k = next((asked[name] for name in ("topk", "k", "top_n") if asked.get(name) is not None), limits.usual_k)
    if type(k) is not int or not 1 <= k <= limits.k:
        raise Refused(400, f"wanted a whole number from 1 to {limits.k} of passages")
    if len(queries) > limits.queries:
        raise Refused(400, f"{len(queries)} queries; at most {limits.queries} are taken at once (--max-queries)")
    scores = asked.get("return_scores", asked.get("return_score", False))
    if type(scores) is not bool:
        raise Refused(400, "return_scores is true or false")
    return [encodable(query[: limits.query_chars]) for query in queries], k, scores, single


def read_urls(body: bytes, limits: Limits) -> list[str]:
    """Return the ids of the wanted pages. Refused with 400: a request that names none, or too many."""
    urls = _object(body, limits).get("urls")
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls) or len(urls) > limits.queries:
        raise Refused(400, f"wanted 'urls', a list of at most {limits.queries} texts")
    return urls


def _object(body: bytes, limits: Limits) -> dict[str, Any]:
    try:
        asked = json_text.read_bounded(body, limits.queries + FIELDS)
    except json_text.TooMany as error:
        raise Refused(400, f"{error}, which is room for {limits.queries:,} queries (--max-queries)") from error
    except ValueError as error:
        raise Refused(400, str(error)) from error
    if not isinstance(asked, dict):
        raise Refused(400, "the body is no JSON object")
    return asked


def document(passage: Passage, *, url: bool) -> dict[str, str]:
    """Return a passage as the answers have it, with its id as `url` too if asked for."""
    return {"id": passage.id, "contents": contents(passage)} | ({"url": passage.id} if url else {})


def write_row(passages: Sequence[Passage], *, paired: bool, url: bool) -> tuple[bytes, bytes]:
    """Write a query's documents and their scores, each as a list; or, `paired`, one list of both, and nothing."""
    documents = [document(passage, url=url) for passage in passages]
    scores = [float(passage.score) for passage in passages]
    if paired:
        both = zip(documents, scores, strict=True)
        return json.dumps([{"document": text, "score": score} for text, score in both]).encode(), b""
    return json.dumps(documents).encode(), json.dumps(scores).encode()


def write_answer(
    path: str, queries: Sequence[str], rows: Sequence[tuple[bytes, ...]], *, scores: bool, single: bool
) -> bytes:
    """Write the rows of the queries as the path's protocol has them (protocols.py)."""
    documents = write_list(row[0] for row in rows)
    if path == "/queries":
        return b'{"queries": %b, "answers": %b}' % (json.dumps(queries).encode(), documents)
    if path == "/retrieve":
        return b'{"result": %b}' % documents
    if single:
        return write_list(rows[0]) if scores else rows[0][0]
    return write_list((documents, write_list(row[1] for row in rows))) if scores else documents


def write_list(items: Iterable[bytes]) -> bytes:
    """Write a list of what is JSON already."""
    return b"[%b]" % b", ".join(items)
