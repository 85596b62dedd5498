"""A corpus cut over several servers: merged by hand, over HTTP, and beside one index of all passages."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from loopback import raw, server

from qr_jax import config, plugins, trust
from qr_jax.records import Passage
from qr_jax.search.retrievers.bm25 import bm25
from qr_jax.search.retrievers.sharded import merge, sharded
from qr_jax.settings.settings import Use


def scored(**scores):
    return [Passage(name, "", "").scored(score) for name, score in scores.items()]


def answer(*scores):
    rows = [{"document": {"id": name, "contents": f"T\n{name}"}, "score": score} for name, score in scores]
    return {"result": [rows]}


def test_parts_are_merged_by_score_then_by_id():
    found = merge([scored(b=3.0, d=1.0), scored(c=3.0, a=2.0), []], 3)
    assert [(one.id, one.score) for one in found] == [("b", 3.0), ("c", 3.0), ("a", 2.0)]
    assert merge([[], []], 3) == [] and merge([scored(a=1.0), scored(b=2.0)], 0) == []
    assert [one.id for one in merge([scored(a=-4.0), scored(b=-3.0)], 1)] == ["b"]


def test_a_part_that_alone_finds_something_keeps_its_order():
    assert [one.id for one in merge([[], scored(z=0.0, a=0.0, b=0.0)], 2)] == ["z", "a"]


@pytest.mark.parametrize("unscored", [scored(a=0.0), scored(a=0.0, c=0.0)])
def test_passages_without_scores_are_refused_beside_others(unscored):
    with pytest.raises(ValueError, match="part 1 of sharded gave passages without scores"):
        merge([scored(z=-3.0), unscored], 1)


def test_distances_are_no_scores():
    with pytest.raises(ValueError, match=r"part 0 of sharded gave scores that rise along its order, \[0.1, 0.9\]"):
        merge([scored(a=0.1, b=0.9), scored(c=0.2)], 2)


def test_a_passage_of_two_parts_counts_once_and_another_of_its_id_is_refused():
    twice = merge([scored(a=2.0, b=1.0), scored(a=2.5, c=0.5)], 3)
    assert [one.id for one in twice] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="two parts of sharded have other texts under the id 'a'"):
        merge([scored(a=2.0), [Passage("a", "", "another").scored(1.0)]], 2)


def test_searches_of_several_threads_do_not_wait_for_each_other():
    def slow(head, body):
        time.sleep(0.4)
        return raw(answer(("a", 2.0)))

    with server(slow) as (one, _), server(slow) as (other, _):
        search = sharded(parts=(Use("http", {"url": one}), Use("http", {"url": other})))
        begun = time.monotonic()
        with ThreadPoolExecutor(6) as threads:
            assert len([*threads.map(lambda _: search(["x"], 1), range(6))]) == 6
        assert time.monotonic() - begun < 2.0  # one after another takes 2.4


def test_all_servers_are_asked_and_the_best_of_them_come_first():
    with ExitStack() as stack:
        served = [
            stack.enter_context(server(raw(answer(*one))))
            for one in ([("a", 2.0), ("b", 1.0)], [("c", 3.0), ("d", 0.5)])
        ]
        search = sharded(parts=tuple(Use("http", {"url": url}) for url, _ in served))
        assert [one.score for one in search(["x"], 3)[0]] == [3.0, 2.0, 1.0]
    assert [[body["topk"] for _, body in asked] for _, asked in served] == [[3], [3]]


def test_a_part_that_fails_fails_the_search():
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/retrieve"  # nobody listens there any more
    with server(raw(answer(("a", 2.0)))) as (good, _):
        quick = {"retries": 0, "timeout_s": 1.0}
        search = sharded(parts=(Use("http", {"url": good, **quick}), Use("http", {"url": url, **quick})))
        with pytest.raises((OSError, ValueError), match=url):
            search(["x"], 2)


def test_bm25_over_parts_finds_nearly_what_one_index_finds():
    draws = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in draws.zipf(1.3, 30) if word < 5000) for _ in range(2000)]
    corpus = [Passage(f"p{at}", "", text) for at, text in enumerate(texts)]
    queries, k = [" ".join(text.split()[-6:]) for text in texts[:50]], 5
    whole = bm25(corpus=corpus)(queries, k)
    parts = [bm25(corpus=corpus[part::4])(queries, k) for part in range(4)]
    cut = [merge(lists, k) for lists in zip(*parts, strict=True)]
    same = [len({one.id for one in a} & {one.id for one in b}) / k for a, b in zip(whole, cut, strict=True)]
    first = [a[0].id == b[0].id for a, b in zip(whole, cut, strict=True)]
    assert np.mean(same) > 0.7 and np.mean(first) > 0.8


def test_bad_parts_are_refused():
    one = Use("http", {"url": "http://127.0.0.1:1"})
    with pytest.raises(ValueError, match="two parts or more; it has 1"):
        sharded(parts=(one,))
    with pytest.raises(ValueError, match="part 1 of sharded, bm25, searches the run's corpus"):
        sharded(parts=(one, Use("bm25")))
    with pytest.raises(ValueError, match=r"takes files of qr_jax/search/retrievers/ as its parts, and has os\.system"):
        sharded(parts=(Use("os.system"), one))
    with pytest.raises(ValueError, match="the same part twice, parts 0 and 1"):
        sharded(parts=(one, one))


def test_a_stranger_s_hosts_are_found_in_its_parts():
    parts = tuple(Use("http", {"url": f"http://evil{at}.example/retrieve"}) for at in range(2))
    wished = " ".join(trust.asks(config.Config(retriever=Use("sharded", {"parts": parts}))))
    assert "evil0.example" in wished and "evil1.example" in wished
    assert not plugins.wants_corpus(Use("sharded", {"parts": parts}))
