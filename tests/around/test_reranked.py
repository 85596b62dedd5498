"""A reranking server on loopback behind a real search: its order and scores, and what it must not answer."""

import pytest
from loopback import raw, server

from qr_jax import plugins
from qr_jax.records import Passage
from qr_jax.search.retrievers.reranked import reranked
from qr_jax.settings.settings import use

CORPUS = [
    Passage("1", "Dune", "novel by Herbert\nold"),
    Passage("2", "", "novel of cats"),
    Passage("3", "Oslo", "city"),
]


def backwards(head: str, body: dict) -> bytes:
    """As Search-R1's server: texts without ids, the last best, scores that may be below 0."""
    (documents,) = body["documents"]
    texts = ["(Title: {}) {}".format(*one["contents"].split("\n", 1)) for one in reversed(documents)]
    found = [{"document": text, "score": 0.5 - at} for at, text in enumerate(texts)]
    return raw({"result": [found[: body["rerank_topk"]]]})


def test_the_server_s_order_and_scores_stay():
    with server(backwards) as (url, asked):
        search = plugins.bind("retriever", use("reranked", of=use("bm25"), url=url, depth=2))(corpus=CORPUS)
        found = search(["novel herbert", "zebra", "city"], 1)
        assert found == [[Passage("2", "", "novel of cats", 0.5)], [], [Passage("3", "Oslo", "city", 0.5)]]
        assert [one.score for one in search(["novel"], 5)[0]] == [0.5, -0.5] and search(["novel"], 0) == [[]]
    bodies = sorted((body for _, body in asked[:2]), key=lambda body: body["queries"])
    assert bodies[1] == {
        "queries": ["novel herbert"],
        "documents": [
            [{"id": "1", "contents": '"Dune"\nnovel by Herbert\nold'}, {"id": "2", "contents": '""\nnovel of cats'}]
        ],
        "rerank_topk": 1,
        "return_scores": True,
    }
    assert asked[0][0].startswith("POST /rerank ") and len(asked) == 3  # what found nothing is not sent


def test_equal_texts_and_ids_are_told_apart():
    corpus = [Passage("a", "", "same"), Passage("b", "", "same")]
    with server(raw({"result": [[{"document": '(Title: "") same', "score": 2}] * 2]})) as (url, _):
        assert [one.id for one in reranked(of=use("bm25"), url=url, corpus=corpus)(["same"], 2)[0]] == ["a", "b"]
    with server(raw({"result": [[{"document": {"id": "b", "contents": "?"}, "score": 2}]]})) as (url, _):
        assert [one.id for one in reranked(of=use("bm25"), url=url, corpus=corpus)(["same"], 2)[0]] == ["b"]


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (raw({"results": []}), "has no 'result'; is this a reranking server"),
        (raw({"result": [[]]}), "ranks none of the 1 documents that were sent"),
        (raw({"result": [[], []]}), "a list of 2 for 1 queries"),
        (raw({"result": [[{"document": "another", "score": 1}]]}), "the document 'another', which it was not sent"),
        (raw({"result": [[{"document": {"id": "3"}, "score": "high"}]]}), "the score 'high'"),
        (raw({}, "500 Oops"), "answered 500"),
    ],
)
def test_what_is_no_right_answer_is_an_error(reply, says):
    with server(reply) as (url, _), pytest.raises((OSError, ValueError), match=says):
        reranked(of=use("bm25"), url=url, corpus=CORPUS, retries=0)(["city"], 1)


def test_it_needs_what_it_reranks():
    with pytest.raises(ValueError, match="'bm25' inside 'reranked' searches a corpus"):
        reranked(of=use("bm25"), url="http://127.0.0.1:1")
    with pytest.raises(ValueError, match="takes a file of qr_jax/search/retrievers/ .* my_lab.search"):
        reranked(of=use("my_lab.search"), url="http://127.0.0.1:1")
    with pytest.raises(ValueError, match="depth"):
        plugins.bind("retriever", use("reranked", of=use("bm25"), url="http://127.0.0.1:1", depth=0))
    assert not plugins.wants_corpus(use("reranked", of=use("http", url="http://a"), url="http://b"))
