"""HTTP protocols of peers' retrieval servers: their requests, and the passages in their answers."""

import base64
import codecs
import hashlib
import itertools
import os
import sys
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qr_jax.dialect import encodable
from qr_jax.errors import UserError
from qr_jax.logging.secrecy import redact
from qr_jax.records import Passage
from qr_jax.search import http_post
from qr_jax.settings import json_text

Lists = list[list[Passage]]
IDS = ("id", "docid", "url", "link", "uri")  # where a document's id may stand
TEXTS = ("text", "contents", "page_content", "content", "snippet", "body", "abstract", "description")  # and its text
WITH_TITLE = ("contents", "page_content")  # of these the first line is the title
CLUEWEB_KEY, CLUEWEB_HOST = "CLUEWEB_API_KEY", "clueweb22.us"
ADDRESS_BYTES = 4000  # of a query in an address: servers refuse long ones, and a character may take 12
URL_SAFE = str.maketrans("-_", "+/")  # base64's other alphabet
DOCUMENT_ITEMS = 10_000  # commas, lists and objects that the JSON of a document may have


@dataclass(frozen=True)
class Protocol:
    """One peer's protocol: a POST of JSON to `path`, or a GET with a key; several queries at once if `batch`.

    `results` reads the answer to a number of queries; ValueError unless it has a list of passages for each query. Of
    each list it takes the first passages, up to a number, and ignores the rest.
    """

    path: str
    batch: bool
    request: Callable[[Sequence[str], int], dict[str, Any]]
    results: Callable[[Any, int, int], Lists]
    get: bool = False

    def ask(self, endpoint: http_post.Endpoint, queries: Sequence[str], k: int, ends: float | None = None) -> Any:
        """Return what the endpoint answers to these queries."""
        return (endpoint.get if self.get else endpoint.post)(self.request(queries, k), ends)

    def headers(self, url: str, token_env: str | None) -> dict[str, str] | None:
        """Return the header with the secret in `token_env`: a bearer token, or the key of a GET.

        clueweb22.us, and no other host, gets the key in CLUEWEB_API_KEY by itself; FineWeb needs none. ValueError for
        a secret that is missing, and for that key over plain HTTP.
        """
        parts = http_post.url_parts(url)
        if token_env is None and self.get and parts.hostname == CLUEWEB_HOST:
            if parts.scheme != "https":
                raise UserError(f"the URL is {redact(url)!r}; wanted https://, so that the key stays secret")
            needed = not parts.path.startswith("/fineweb") or os.environ.get(CLUEWEB_KEY)
            token_env = CLUEWEB_KEY if needed else None
        if token_env is None:
            return None
        value = http_post.secret(token_env)
        return {"X-API-Key": value} if self.get else {"Authorization": f"Bearer {value}"}


def contents(passage: Passage) -> str:
    """Return title and text in one, as in Search-R1's corpus: the title in quotes, on a line of its own."""
    return f'"{" ".join(passage.title.split())}"\n{passage.text}'


def passage_of(item: Any) -> Passage:
    """Read a passage as any server writes it: a document, a document with its score, or a bare text.

    A document has `contents`, or `title` and `text` (or another of TEXTS); its title may stand in its `metadata`. Null
    counts as empty. Without an id, a hash of title and text is its id; without a score, it has 0.
    """
    score = item.get("score") if isinstance(item, Mapping) else None
    document = item["document"] if isinstance(item, Mapping) and "document" in item else item
    document = {"contents": document} if isinstance(document, str) else document
    if not isinstance(document, Mapping):
        raise UserError(f"a passage is a {type(document).__name__}; wanted an object with id and contents")
    there = [name for name in TEXTS if name in document]
    if not there:
        raise UserError(f"a passage has {_fields(document) or 'nothing'}; wanted id and contents, or title and text")
    field = next((name for name in there if document[name] is not None), there[0])
    metadata = document.get("metadata")
    title = _text(document, "title") or (_text(metadata, "title", "metadata.") if isinstance(metadata, Mapping) else "")
    text = _text(document, field)
    if field in WITH_TITLE:
        title, text = _split(text, title)
    named = next((one for one in IDS if document.get(one) not in (None, "")), "id")
    name = document.get(named)
    name = str(name) if isinstance(name, int) and not isinstance(name, bool) else _text(document, named)
    return Passage(encodable(name or _hash(f"{title}\n{text}")), encodable(title), encodable(text), _score(score))


def _text(document: Mapping, field: str, inside: str = "") -> str:
    """Return the field's text, "" where it is null or absent; `inside` stands before its name in an error."""
    value = document.get(field)
    if value is not None and not isinstance(value, str):
        found = f"{inside + field!r} of type {type(value).__name__}"
        raise UserError(f"a passage has {found}; wanted a text, or null for none (its fields: {_fields(document)})")
    return value or ""


def _fields(found: Mapping) -> str:
    """List the first of an object's names, cut: a stranger's object may have many and long ones."""
    names = [str(name)[:40] for name in itertools.islice(found, 8)]
    return ", ".join([*names, "..."] if len(found) > len(names) else names)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _split(whole: str, title: str) -> tuple[str, str]:
    """Split `contents` into title and text: the first line, without quotes, if a text follows and no title is known."""
    first, _, rest = whole.partition("\n")
    first = first[1:-1] if len(first) > 1 and first[0] == first[-1] == '"' else first
    return (first, rest) if rest.strip() and title in ("", first) else (title, whole)


def _score(score: Any) -> float:
    if score is None:
        return 0.0
    number = not isinstance(score, bool) and isinstance(score, (int, float)) and abs(score) <= sys.float_info.max
    if not number:
        said = "a number beyond float64" if isinstance(score, int) else repr(score)[:80]
        raise UserError(f"a passage has the score {said}; wanted a finite number")
    return float(score)


def _lists(value: Any, count: int, name: str) -> list[list[Any]]:
    """Return the value, which must be a list of `count` lists."""
    if not isinstance(value, list) or len(value) != count or not all(isinstance(row, list) for row in value):
        shape = f"a list of {len(value)}" if isinstance(value, list) else f"a {type(value).__name__}"
        raise UserError(f"{name} is {shape} for {count} queries; wanted a list of {count} lists of passages")
    return value


def _under(key: str) -> Callable[[Any, int, int], Lists]:
    """Return a reader of answers that hold the lists under a key of an object."""

    def read(body: Any, count: int, k: int) -> Lists:
        if not isinstance(body, Mapping) or key not in body:
            fields = f"fields {_fields(body)}" if isinstance(body, Mapping) else type(body).__name__
            raise UserError(f"the answer has no {key!r} ({fields or 'nothing in it'}); is this the right protocol?")
        return [[passage_of(item) for item in row[:k]] for row in _lists(body[key], count, repr(key))]

    return read


def _flashrag_results(body: Any, count: int, k: int) -> Lists:
    """Read [lists of documents, lists of scores], or the lists of documents alone."""
    pair = isinstance(body, list) and len(body) == 2 and all(isinstance(part, list) for part in body)
    if pair and len(body[0]) == count and all(isinstance(row, list) for row in body[0]):
        documents, scores = body[0], _lists(body[1], count, "the scores")
        if [len(row) for row in documents] != [len(row) for row in scores]:
            raise UserError("the scores are not as many as the documents")
        rows = [zip(items[:k], scores_of[:k], strict=True) for items, scores_of in zip(documents, scores, strict=True)]
        return [[passage_of({"document": item, "score": score}) for item, score in row] for row in rows]
    return [[passage_of(item) for item in row[:k]] for row in _lists(body, count, "the answer")]


def _in_address(query: str) -> str:
    """Return as much of the query as a URL has room for."""
    ends = itertools.accumulate(len(urllib.parse.quote(character)) for character in query)
    return query[: sum(end <= ADDRESS_BYTES for end in ends)]


def _deepresearchgym_results(body: Any, count: int, k: int) -> Lists:
    """Read a list of documents, each JSON in base64; an empty list is a search without results."""
    rows = body.get("results") if isinstance(body, Mapping) else None
    if not isinstance(rows, list):
        fields = _fields(body) if isinstance(body, Mapping) else type(body).__name__
        raise UserError(f"the answer has no list 'results' ({fields or 'nothing in it'}); is this the right protocol?")
    passages = [_document(row, at) for at, row in enumerate(rows[:k], 1)]
    return [[passage for passage in passages if passage.text.strip()]]  # a page without text shows the policy nothing


def _document(row: Any, place: int) -> Passage:
    """Read a document of ClueWeb22, or of FineWeb (lower-case names); its score is 1 / its place in the list.

    Its base64 may be of either alphabet, without padding, and begin with a byte order mark.
    """
    name = f"document {place}"
    if not isinstance(row, str):
        raise UserError(f"{name} is a {type(row).__name__}; wanted a text in base64")
    text = "".join(row.split()).translate(URL_SAFE).rstrip("=")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True).removeprefix(codecs.BOM_UTF8)
    except ValueError as error:
        raise UserError(f"{name} is no base64: {row[:40]!r}") from error
    try:
        json_text.check_items(data, DOCUMENT_ITEMS, name)
        document = json_text.parse(redact(data.decode()))  # what echoes the key here was not seen in base64
    except json_text.TooMany:
        raise
    except ValueError as error:
        raise UserError(f"{name} is base64 of {data[:40]!r}, which is no JSON") from error
    field = next((field for field in ("Clean-Text", "text") if isinstance(document, Mapping) and field in document), "")
    if not field:
        found = _fields(document) if isinstance(document, Mapping) else f"a {type(document).__name__}"
        raise UserError(f"{name} has {found or 'nothing'}; wanted Clean-Text (ClueWeb22) or text (FineWeb)")
    text = _text(document, field)
    ids = (_text(document, field) for field in ("ClueWeb22-ID", "id", "URL-hash", "URL", "url"))
    return Passage(encodable(next(filter(None, ids), "") or _hash(text)), "", encodable(text), 1 / place)


# return_scores is always true: Search-R1's own server fails, or loses documents, where it is false.
PROTOCOLS: Mapping[str, Protocol] = {
    name: Protocol(path, batch, request, results)
    for name, path, batch, results, request in (
        ("search_r1", "/retrieve", True, _under("result"),
         lambda queries, k: {"queries": list(queries), "topk": k, "return_scores": True}),
        ("skyrl", "/retrieve", False, _under("result"),
         lambda queries, k: {"query": queries[0], "topk": k, "return_scores": True}),
        ("flashrag", "/batch_search", True, _flashrag_results,
         lambda queries, k: {"query": list(queries), "top_n": k, "return_score": True}),
        ("r1_searcher", "/queries", True, _under("answers"), lambda queries, k: {"queries": list(queries), "k": k}),
    )
} | {
    "deepresearchgym": Protocol("/search", False, lambda queries, k: {"query": _in_address(queries[0]), "k": k},
                                _deepresearchgym_results, get=True),
}  # fmt: skip


def rerank_request(query: str, passages: Sequence[Passage], k: int) -> dict[str, Any]:
    """Return the request to Search-R1's reranking server for one query."""
    documents = [{"id": passage.id, "contents": contents(passage)} for passage in passages]
    return {"queries": [query], "documents": [documents], "rerank_topk": k, "return_scores": True}


def rerank_results(body: Any, passages: Sequence[Passage]) -> list[Passage]:
    """Return the passages in the server's order with its scores; ValueError for no result or an unknown document.

    A document is recognised by its id or, as Search-R1's server sends it, by "(Title: FIRST LINE) REST"; equals in
    order.
    """
    if not isinstance(body, Mapping) or "result" not in body:
        raise UserError("the answer has no 'result'; is this a reranking server?")
    ranked = []
    left = list(passages)
    for item in _lists(body["result"], 1, "'result'")[0]:
        document = item.get("document", item) if isinstance(item, Mapping) else item
        at = next((at for at, passage in enumerate(left) if _is_of(document, passage)), None)
        if at is None:
            raise UserError(f"the answer has the document {str(document)[:80]!r}, which it was not sent")
        score = _score(item.get("score") if item is not document else None)
        ranked.append(left.pop(at).scored(score))
    if passages and not ranked:
        raise UserError(f"the answer ranks none of the {len(passages)} documents that were sent")
    return ranked


def _is_of(document: Any, passage: Passage) -> bool:
    if isinstance(document, Mapping) and document.get("id") is not None:
        return str(document["id"]) == passage.id
    whole = contents(passage)
    first, _, rest = whole.partition("\n")
    text = document.get("contents") if isinstance(document, Mapping) else document
    return text in (whole, f"(Title: {first}) {rest}")
