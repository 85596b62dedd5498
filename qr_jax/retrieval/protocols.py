"""How peers' retrieval servers are asked over HTTP, and how passages stand in their answers."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qr_jax.dialect import encodable
from qr_jax.records import Passage

Lists = list[list[Passage]]


@dataclass(frozen=True)
class Protocol:
    """One peer's way of asking: a POST of JSON to `path`, for several queries at once where `batch`.

    `results` reads the answer to so many queries; ValueError where it is anything but a list of passages for each.
    """

    path: str
    batch: bool
    request: Callable[[Sequence[str], int], dict[str, Any]]
    results: Callable[[Any, int], Lists]


def contents(passage: Passage) -> str:
    """Title and text in one, as Search-R1's corpus has them: the title in quotes, on a line of its own."""
    return f'"{" ".join(passage.title.split())}"\n{passage.text}'


def passage_of(item: Any) -> Passage:
    """A passage as any of the peers writes it: a document, a document with its score, or a bare text.

    A document has `contents`, or `title` and `text`. Without an id it gets one of its text's hash, without a score 0.
    """
    score = item.get("score") if isinstance(item, Mapping) else None
    found = item["document"] if isinstance(item, Mapping) and "document" in item else item
    document = {"contents": found} if isinstance(found, str) else found
    if not isinstance(document, Mapping):
        raise ValueError(f"a passage is a {type(found).__name__}; wanted an object with id and contents")
    title, text = document.get("title", ""), document.get("text", document.get("contents"))
    if "text" not in document and isinstance(text, str):
        title, text = _split(text, title)
    name = document.get("id", _hash(f"{title}\n{text}"))
    name = str(name) if isinstance(name, int) and not isinstance(name, bool) else name
    if not (isinstance(name, str) and isinstance(title, str) and isinstance(text, str)):
        raise ValueError(f"a passage has {', '.join(map(str, document)) or 'nothing'}; wanted id and contents as texts")
    return Passage(encodable(name), encodable(title), encodable(text), _score(score))


def _split(whole: str, title: Any) -> tuple[Any, str]:
    """`contents` in two: its first line is the title, quotes taken off, when a text follows."""
    first, _, rest = whole.partition("\n")
    if not rest.strip():
        return title, whole
    return (first[1:-1] if len(first) > 1 and first[0] == first[-1] == '"' else first), rest


def _score(found: Any) -> float:
    if found is None:
        return 0.0
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
        raise ValueError(f"a passage has the score {found!r}; wanted a finite number")
    return float(found)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _lists(found: Any, count: int, name: str) -> list[list[Any]]:
    """The list of so many lists that an answer must be."""
    if not isinstance(found, list) or len(found) != count or not all(isinstance(one, list) for one in found):
        shape = f"a list of {len(found)}" if isinstance(found, list) else f"a {type(found).__name__}"
        raise ValueError(f"{name} is {shape} for {count} queries; wanted a list of {count} lists of passages")
    return found


def _under(key: str) -> Callable[[Any, int], Lists]:
    """Reads an object that has the lists under a key."""

    def read(body: Any, count: int) -> Lists:
        if not isinstance(body, Mapping) or key not in body:
            fields = f"fields {', '.join(map(str, body))}" if isinstance(body, Mapping) else type(body).__name__
            raise ValueError(f"the answer has no {key!r} ({fields or 'nothing in it'}); is this the right protocol?")
        return [[passage_of(one) for one in some] for some in _lists(body[key], count, repr(key))]

    return read


def _flashrag_results(body: Any, count: int) -> Lists:
    """[lists of documents, lists of scores], or the lists of documents alone."""
    pair = isinstance(body, list) and len(body) == 2 and all(isinstance(one, list) for one in body)
    if pair and len(body[0]) == count and all(isinstance(one, list) for one in body[0]):
        documents, scores = body[0], _lists(body[1], count, "the scores")
        if [len(one) for one in documents] != [len(one) for one in scores]:
            raise ValueError("the scores are not as many as the documents")
        rows = zip(documents, scores, strict=True)
        return [[passage_of({"document": one, "score": x}) for one, x in zip(*row, strict=True)] for row in rows]
    return [[passage_of(one) for one in some] for some in _lists(body, count, "the answer")]


# return_scores is always true: Search-R1's own server fails, or loses documents, where it is false.
PROTOCOLS: Mapping[str, Protocol] = {
    "search_r1": Protocol(
        "/retrieve",
        True,
        lambda queries, k: {"queries": list(queries), "topk": k, "return_scores": True},
        _under("result"),
    ),
    "skyrl": Protocol(
        "/retrieve", False, lambda queries, k: {"query": queries[0], "topk": k, "return_scores": True}, _under("result")
    ),
    "flashrag": Protocol(
        "/batch_search",
        True,
        lambda queries, k: {"query": list(queries), "top_n": k, "return_score": True},
        _flashrag_results,
    ),
    "r1_searcher": Protocol("/queries", True, lambda queries, k: {"queries": list(queries), "k": k}, _under("answers")),
}


def rerank_request(query: str, passages: Sequence[Passage], k: int) -> dict[str, Any]:
    """What Search-R1's reranking server takes, of one query."""
    documents = [{"id": one.id, "contents": contents(one)} for one in passages]
    return {"queries": [query], "documents": [documents], "rerank_topk": k, "return_scores": True}


def rerank_results(body: Any, passages: Sequence[Passage]) -> list[Passage]:
    """The passages in the server's order with its scores; ValueError where it names one that it was not sent.

    A document is known by its id or, as Search-R1's server sends it back, by "(Title: FIRST LINE) REST" alone; of equal
    texts the first comes first.
    """
    if not isinstance(body, Mapping) or "result" not in body:
        raise ValueError("the answer has no 'result'; is this a reranking server?")
    found = []
    left = list(passages)
    for item in _lists(body["result"], 1, "'result'")[0]:
        document = item.get("document", item) if isinstance(item, Mapping) else item
        at = next((at for at, one in enumerate(left) if _is(document, one)), None)
        if at is None:
            raise ValueError(f"the answer has the document {str(document)[:80]!r}, which it was not sent")
        one = left.pop(at)
        found.append(Passage(one.id, one.title, one.text, _score(item.get("score") if item is not document else None)))
    return found


def _is(document: Any, passage: Passage) -> bool:
    if isinstance(document, Mapping) and "id" in document:
        return str(document["id"]) == passage.id
    whole = contents(passage)
    first, _, rest = whole.partition("\n")
    text = document.get("contents") if isinstance(document, Mapping) else document
    return text in (whole, f"(Title: {first}) {rest}")
