"""Reciprocal rank fusion: by hand, and of the real retrievers."""

from pathlib import Path

import pytest
from loopback import raw, server

from qr_jax import plugins
from qr_jax.records import Passage
from qr_jax.search.retrievers.hybrid import fuse, hybrid
from qr_jax.settings.settings import Use

BERT = str(Path(__file__).parents[1] / "fixtures" / "bert")
CORPUS = [
    Passage("a", "Dune", "a novel by frank herbert."),
    Passage("b", "Oslo", "the capital of norway"),
    Passage("c", "Paris", "the capital of france"),
]


def passages(names):
    return [Passage(name, "", "") for name in names]


def test_fusion_by_hand():
    found = fuse([passages("abc"), passages("cd")], 4, 60)
    # c: 1/63 + 1/61; a: 1/61; b and d: 1/62 each, so by id
    assert [one.id for one in found] == ["c", "a", "b", "d"]
    assert [one.score for one in found] == pytest.approx([1 / 63 + 1 / 61, 1 / 61, 1 / 62, 1 / 62])
    twice = fuse([passages("aab"), passages("b")], 3, 60)  # a part's second a is none
    assert [one.score for one in twice] == pytest.approx([1 / 62 + 1 / 61, 1 / 61])
    assert [one.id for one in fuse([passages("abc"), passages("cd")], 1)] == ["c"] and fuse([[], []], 3) == []


def test_its_parts_are_named_with_their_settings_in_a_config():
    part = Use("dense", {"model": BERT, "devices": 1})
    search = plugins.bind("retriever", Use("hybrid", {"parts": ("bm25", part)}))(corpus=CORPUS)
    results = search(["Oslo the capital of norway", "zebra", "", "dune"], 2)
    assert results[0][0].id == "b" and results[0][0].score == pytest.approx(2 / 61)  # first in both
    assert len(results[1]) == 2 and results[2] == []
    assert search(["dune"], 0) == [[]]


def test_two_parts_of_host_code_need_no_model():
    lists = hybrid(corpus=CORPUS, parts=(Use("bm25"), Use("bm25", {"b": 0.0})))(["capital of france"], 3)
    assert [one.id for one in lists[0]] == ["c", "b"]


def test_each_part_is_asked_for_depth_passages_or_k_if_that_is_more():
    with server(raw({"result": [[]]})) as (url, asked):
        search = hybrid(corpus=CORPUS, parts=(Use("bm25"), Use("http", {"url": url})), depth=7)
        assert [one.id for one in search(["oslo"], 2)[0]] == ["b"] and search(["zebra"], 9) == [[]]
    assert [body["topk"] for _, body in asked] == [7, 9]


def test_bad_parts_are_refused():
    with pytest.raises(ValueError, match=r"two parts or more.*it has 1 \(bm25\)"):
        hybrid(corpus=CORPUS, parts=(Use("bm25"),))
    with pytest.raises(ValueError, match="no setting 'k2'"):
        hybrid(corpus=CORPUS, parts=(Use("bm25"), Use("bm25", {"k2": 1})))
    with pytest.raises(ValueError, match="takes files of qr_jax/search/retrievers/ as its parts, and has os.system"):
        hybrid(corpus=CORPUS, parts=(Use("bm25"), Use("os.system")))
    with pytest.raises(ValueError, match="depth is 0; wanted at least 1"):
        plugins.bind("retriever", Use("hybrid", {"depth": 0}))
