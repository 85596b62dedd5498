"""Searches kept on disk: found again by retriever, query and k, shared by processes, and never in a search's way."""

import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qr_jax import plugins
from qr_jax.evaluation import manifest
from qr_jax.interfaces import CONTRACTS
from qr_jax.logging import metrics
from qr_jax.records import Passage
from qr_jax.search.retrievers.cached import cached
from qr_jax.search.search_cache import SearchCache
from qr_jax.settings.settings import use
from qr_jax.step import log
from qr_jax.tools import _of_run

BERT = Path(__file__).parents[1] / "fixtures" / "bert"
CORPUS = [Passage("1", "Dune", "A novel by Frank Herbert."), Passage("2", "Oslo", "The capital of Norway.")]


def counting():
    """A search and the list of what it was asked."""
    calls: list[tuple[list[str], int]] = []

    def search(queries, k):
        calls.append((list(queries), k))
        return [
            [] if query == "nothing" else [Passage(query, "T \ud800", f"{query} 東京", 0.1)] * k for query in queries
        ]

    return search, calls


def test_what_was_asked_before_is_read_and_the_rest_searched_in_one_call(tmp_path):
    search, calls = counting()
    cache = SearchCache(search, tmp_path / "a" / "cache.db", "x")
    first = cache(["a", "b"], 2)
    assert cache(["b", "c", "a"], 2) == [first[1], [Passage("c", "T \ud800", "c 東京", 0.1)] * 2, first[0]]
    assert calls == [(["a", "b"], 2), (["c"], 2)] and (cache.asked, cache.hits) == (5, 2)
    again = SearchCache(search, tmp_path / "a" / "cache.db", "x")
    assert again(["a", "b"], 2) == first and len(calls) == 2 and (again.asked, again.hits) == (2, 2)
    assert cache([], 2) == []


def test_a_cache_that_nobody_has_closes_its_file(tmp_path):
    cache = SearchCache(counting()[0], tmp_path / "c", "x")
    file = cache._file
    del cache
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        file.execute("SELECT 1")


def test_another_k_or_retriever_is_another_search(tmp_path):
    search, calls = counting()
    SearchCache(search, tmp_path / "c", "x")(["a"], 2)
    SearchCache(search, tmp_path / "c", "x")(["a"], 1)
    SearchCache(search, tmp_path / "c", "y")(["a"], 2)
    assert len(calls) == 3


def test_failures_and_empty_results_are_not_kept(tmp_path):
    def fails(queries, k):
        raise ConnectionError("no route")

    with pytest.raises(ConnectionError):
        SearchCache(fails, tmp_path / "c", "x")(["a"], 1)
    with pytest.raises(ValueError, match="1 queries got 0 lists"):
        SearchCache(lambda queries, k: [], tmp_path / "c", "x")(["a"], 1)
    search, calls = counting()
    cache = SearchCache(search, tmp_path / "c", "x")
    assert cache(["nothing"], 1) == cache(["nothing"], 1) == [[]] and len(calls) == 2
    assert len(cache(["a"], 1)[0]) == 1


def test_entries_past_their_age_are_searched_anew(tmp_path):
    search, calls = counting()
    SearchCache(search, tmp_path / "c", "x")(["a"], 1)
    SearchCache(search, tmp_path / "c", "x", max_age_s=1000.0)(["a"], 1)
    assert len(calls) == 1
    SearchCache(search, tmp_path / "c", "x", max_age_s=0.0)(["a"], 1)
    assert len(calls) == 2


def test_the_oldest_entries_go_when_the_file_is_full(tmp_path):
    text = "x" * 1000
    search = lambda queries, k: [[Passage(query, "", text, 1.0)] for query in queries]  # noqa: E731
    cache = SearchCache(search, tmp_path / "c", "x", max_bytes=100_000)
    for n in range(400):
        cache([f"q{n}"], 1)
    assert (tmp_path / "c").stat().st_size < 150_000
    before = cache.hits
    cache([f"q{n}" for n in range(390, 400)], 1)
    assert cache.hits - before == 10
    cache(["q0"], 1)
    assert cache.hits - before == 10
    with pytest.raises(ValueError, match="max_bytes is 10; wanted at least 100000"):
        plugins.bind("retriever", use("cached", of=use("none"), cache="c", max_bytes=10))


def test_threads_and_processes_share_one_file(tmp_path):
    code = (
        "import sys; from qr_jax.records import Passage; from qr_jax.search.search_cache import SearchCache\n"
        "cache = SearchCache(lambda qs, k: [[Passage(q, '', q, 1.0)] for q in qs], sys.argv[1], 'x')\n"
        "for n in range(150): assert cache([f'q{n}'], 1)[0][0].text == f'q{n}'\n"
        "assert not cache._broken"
    )
    path = tmp_path / "c"
    others = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(2)]
    cache = SearchCache(lambda queries, k: [[Passage(query, "", query, 1.0)] for query in queries], path, "x")
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda n: cache([f"q{n % 150}"], 1)[0][0].text == f"q{n % 150}", range(600)))
    assert [other.wait(60) for other in others] == [0, 0]
    before = cache.hits
    cache([f"q{n}" for n in range(150)], 1)
    assert cache.hits - before == 150


def test_a_file_of_something_else_is_refused_and_left(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine, " * 1000)
    with pytest.raises(ValueError, match="thesis.txt cannot be used as a cache"):
        SearchCache(counting()[0], tmp_path / "thesis.txt", "x")
    assert (tmp_path / "thesis.txt").read_text() == "mine, " * 1000
    with pytest.raises(ValueError, match="cannot be used as a cache"):
        SearchCache(counting()[0], tmp_path, "x")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE precious (x)")
    other.close()
    with pytest.raises(ValueError, match="other.db is a database of something else"):
        SearchCache(counting()[0], tmp_path / "other.db", "x")


def test_a_cache_that_breaks_is_passed_by_and_said_once(tmp_path, caplog):
    search, calls = counting()
    cache = SearchCache(search, tmp_path / "c", "x")
    cache(["a"], 1)
    harm = sqlite3.connect(tmp_path / "c")
    harm.execute("UPDATE searches SET found = '[[1'")
    harm.commit()
    assert cache(["a"], 1)[0][0].id == "a" and len(calls) == 2
    harm.execute("DROP TABLE searches")
    harm.close()
    for _ in range(2):
        assert cache(["a"], 1)[0][0].id == "a"
    assert len(calls) == 4 and caplog.text.count("is not used") == 1


def test_the_hit_rate_is_a_metric_of_runs_with_a_cache(tmp_path):
    cache = SearchCache(counting()[0], tmp_path / "c", "x")
    assert log.cache_figures(cache) == log.cache_figures(counting()[0]) == {}
    for _ in range(4):
        cache(["a"], 1)
    as_a_run_has_it = plugins.checked("retriever", "cached", cache, CONTRACTS["retriever"].made)
    beside_tools = _of_run.answering([use("calculator")], {"search": as_a_run_has_it, "corpus": None, "k": 1})
    for search in (cache, as_a_run_has_it, beside_tools):
        assert log.cache_figures(search) == {"perf/search_cache_hit_rate": 0.75}
    assert "perf/search_cache_hit_rate" in metrics.NAMES


def test_cached_stands_before_another_retriever(tmp_path):
    file = str(tmp_path / "c")
    search = cached(of=use("bm25", k1=0.9), cache=file, corpus=CORPUS)
    first = search(["capital"], 3)
    assert [one.id for one in first[0]] == ["2"] and search(["capital"], 3) == first and search.hits == 1
    again = cached(of=use("bm25", k1=0.9), cache=file, corpus=list(CORPUS))
    assert again(["capital"], 3) == first and again.hits == 1
    for other in (
        cached(of=use("bm25"), cache=file, corpus=CORPUS),
        cached(of=use("bm25", k1=0.9), cache=file, corpus=CORPUS[1:]),
    ):
        assert other(["capital"], 3) != first and other.hits == 0


@pytest.mark.thorough
def test_another_model_in_the_same_folder_is_another_search(tmp_path):
    folder, file = tmp_path / "bert", str(tmp_path / "c")
    shutil.copytree(BERT, folder)
    for of in (
        use("dense", model=str(folder), devices=1),
        use("hybrid", parts=(use("bm25"), use("dense", model=str(folder)))),
    ):
        search = cached(of=of, cache=file, corpus=CORPUS)
        search(["capital"], 1)
        again = cached(of=of, cache=file, corpus=CORPUS)
        assert again(["capital"], 1) and again.hits == 1
        (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
        other = cached(of=of, cache=file, corpus=CORPUS)
        assert other(["capital"], 1) and other.hits == 0


def test_models_are_those_of_a_retriever_and_all_inside_it(tmp_path):
    dense = use("dense", model=str(BERT))
    (one,) = manifest.models_of(dense)
    assert manifest.models_of(use("bm25")) == [] and len(one) == 64
    assert (
        manifest.models_of(use("cached", of=use("hybrid", parts=(dense, use("bm25"), dense)), cache="c")) == [one] * 2
    )
    try:
        minilm = manifest.models_of(use("dense"))
    except ValueError as error:  # not installed here
        assert "make minilm" in str(error)
    else:
        assert manifest.models_of(use("hybrid")) == minilm != [one]  # its default parts have one


def test_how_a_server_is_asked_does_not_decide_what_is_found(tmp_path):
    file, url = str(tmp_path / "c"), "http://127.0.0.1:1"
    put = cached(of=use("http", url=url), cache=file)
    put._write({put._key("a", 1): [CORPUS[0]]})
    assert cached(of=use("http", url=url, retries=0, deadline_s=1.0), cache=file)(["a"], 1) == [[CORPUS[0]]]
    others = use("http", url=url, protocol="skyrl", retries=0), use("http", url="http://127.0.0.1:2", retries=0)
    for other in others:
        with pytest.raises(OSError, match="gave no answer"):
            cached(of=other, cache=file)(["a"], 1)


def test_cached_needs_what_it_stands_before(tmp_path):
    with pytest.raises(ValueError, match="'bm25' inside 'cached' searches a corpus"):
        cached(of=use("bm25"), cache=str(tmp_path / "c"))
    with pytest.raises(ValueError, match="there is no retriever 'bm52'"):
        cached(of=use("bm52"), cache=str(tmp_path / "c"))


def test_code_from_elsewhere_is_refused(tmp_path):
    with pytest.raises(ValueError, match="takes a file of qr_jax/search/retrievers/ .* my_lab.search"):
        cached(of=use("my_lab.search"), cache=str(tmp_path / "found"))
