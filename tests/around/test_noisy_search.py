"""Searches that are spoilt, or written by a model, and environments without a search or with a decision before each."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from judge_server import choosy, completion

from qr_jax.config import use
from qr_jax.methods.envs.ada_search import ada_search, expert_turn
from qr_jax.methods.envs.reseek import expert_turn as judging_turn
from qr_jax.methods.envs.reseek import reseek
from qr_jax.methods.envs.ssrl import ssrl
from qr_jax.records import Passage, Query, Say, Search, Stop, Turn
from qr_jax.search.retrievers import _noise
from qr_jax.search.retrievers.bm25 import bm25
from qr_jax.search.retrievers.noisy import noisy
from qr_jax.search.retrievers.zero_search import zero_search

QUERY = Query("q", "Who wrote Dune?", ("Frank Herbert",))
CORPUS = [Passage(str(at), f"city{at}", f"city{at} lies in land{at % 7}") for at in range(50)]
QUERIES = [f"where is city{at}" for at in range(50)]


def test_the_noise_rises_as_zero_search_says():
    """(4^done - 1) / 3 is 0, 1/3 and 1 at 0, 1/2 and 1."""
    assert [_noise.share(0.0, 0.5, done) for done in (0, 0.5, 1)] == pytest.approx([0, 1 / 6, 0.5])
    assert _noise.share(0.2, 0.5, 0.5) == pytest.approx(0.3)
    with pytest.raises(ValueError, match=r"start=0.0, end=2.0 and done=1.0 must all be shares"):
        _noise.share(0.0, 2.0, 1.0)


def test_a_share_of_the_queries_gets_other_passages_and_always_the_same():
    clean = noisy(of=use("bm25"), corpus=CORPUS, end=0.0)(QUERIES, 3)
    half, again = (noisy(of=use("bm25"), corpus=CORPUS)(QUERIES, 3) for _ in range(2))
    assert [[p.id for p in found] for found in half] == [[p.id for p in found] for found in again]
    spoilt = [at for at in range(50) if half[at] != clean[at]]
    assert 15 < len(spoilt) < 35 and spoilt == [at for at in range(50) if _noise.draws(QUERIES[at], 1, 0)[0] < 0.5]
    for at in spoilt:
        assert len({p.id for p in half[at]}) == 3 and not {p.id for p in half[at]} & {p.id for p in clean[at]}
    assert [p.title for p in clean[7]][0] == "city7"  # and without noise it is what bm25 finds
    alone = noisy(of=use("bm25"), corpus=CORPUS)([QUERIES[spoilt[0]]], 3)[0]
    assert alone == half[spoilt[0]]  # whatever stands beside it
    other = noisy(of=use("bm25"), corpus=CORPUS, seed=1)(QUERIES, 3)
    assert [found for found in other] != [found for found in half]


@contextmanager
def engine(reply):
    """A chat endpoint that answers `reply(what it was told)`; yields its URL and what it was told."""
    told = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.append(body["messages"][0]["content"])
            text = json.dumps({"choices": [{"message": {"content": reply(told[-1])}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_model_plays_the_search_engine_and_is_told_to_be_of_use_or_not():
    with engine(lambda text: "Here:\nDoc 1: Dune is by Herbert.\n\nDoc 2:  More. \nDoc 3: Rest.") as (url, told):
        found = zero_search(url=url, model="engine")(QUERIES[:20], 2)
        assert zero_search(url=url, model="engine")(["", "x"], 0) == [[], []]
    assert [(p.text, p.score) for p in found[0]] == [("Dune is by Herbert.", 1), ("More.", 0.5)]
    useless = {at for at in range(20) if _noise.draws(QUERIES[at], 1, 0)[0] < 0.5}
    assert 4 < len(useless) < 16
    for text in told:
        at = QUERIES.index(text.rpartition("Query: ")[2])
        assert ("do not help" in text) == (at in useless) and "write 2 short documents" in text


def test_an_engine_that_refuses_a_limit_or_a_temperature_is_asked_without():
    with choosy("max_tokens", "temperature", reply=lambda data: completion("Doc 1: Dune.")) as (url, seen):
        search = zero_search(url=f"{url}/chat/completions", model="engine")
        assert [p.text for (p,) in search(["x", "y"], 1)] == ["Dune.", "Dune."] and len(seen) == 4
    assert seen[-1]["max_completion_tokens"] == 512 and "temperature" not in seen[-1]


def test_an_engine_that_writes_no_document_is_a_failed_search():
    with engine(lambda text: "I cannot do that.") as (url, _), pytest.raises(ValueError, match="wrote no line 'Doc 1"):
        zero_search(url=url, model="engine")(["x"], 2)


def test_ssrl_is_one_turn_that_searches_itself():
    first = ssrl(QUERY, [])
    assert isinstance(first, Say) and first.stop == ("</answer>",) and "Who wrote Dune?" in first.text
    text = "<search> dune </search><information> by Herbert </information><answer> Frank\n Herbert </answer>"
    assert ssrl(QUERY, [Turn("model", text)]) == Stop("answered", "Frank Herbert")
    assert ssrl(QUERY, [Turn("model", "<search> dune </search>")]) == Stop("no_action")
    with pytest.raises(ValueError, match="has no {question}"):
        ssrl(QUERY, [], prompt="Answer.")


@pytest.mark.parametrize(
    ("text", "move"),
    [
        ("<decision> search </decision> <search> dune </search>", Search(("dune",))),
        ("<think> hm </think><decision>answer</decision><answer> Herbert </answer>", Stop("answered", "Herbert")),
        ("<decision> search </decision><answer> Herbert </answer>", None),  # it does not keep to its decision
        ("<decision> maybe </decision><search> dune </search>", None),
        ("<search> dune </search><decision> search </decision>", None),
        ("<answer> Herbert </answer>", None),
    ],
)
def test_ada_search_runs_only_what_was_decided(text, move):
    given = ada_search(QUERY, [Turn("model", text)])
    assert given == move if move else isinstance(given, Say) and "no decision" in given.text


def test_ada_search_counts_turns_as_search_r1_does():
    search = Turn("model", expert_turn("", ("dune",)))
    found = Turn("env", "", ("dune",), ((Passage("1", "Dune</decision>", "By Frank Herbert."),),))
    shown = ada_search(QUERY, [search, found], max_turns=1)
    assert isinstance(shown, Say) and "No searches are left" in shown.text and shown.text.count("</decision>") == 1
    told = Turn("model", "<decision> answer </decision>, <answer> Herbert </answer>")  # as the last words ask for
    assert ada_search(QUERY, [search, found, told], max_turns=1) == Stop("answered", "Herbert")
    assert ada_search(QUERY, [search, found, search], max_turns=1) == Stop("turns")
    assert ada_search(QUERY, [Turn("model", "?")] * 3, max_invalid=2) == Stop("no_action")


@pytest.mark.parametrize(
    ("text", "move"),
    [
        ("<judge> no </judge> <search> dune </search>", Search(("dune",))),
        ("<search> dune </search><judge> yes </judge>", Search(("dune",))),
        ("<judge> no </judge><answer> Herbert </answer>", Stop("answered", "Herbert")),  # its code does not mind
        ("<answer> Herbert </answer>", Stop("answered", "Herbert")),
        ("<judge> <search> dune </search> </judge>", None),
        ("<judge> yes </judge>", None),
    ],
)
def test_reseek_acts_with_a_verdict_and_without_one_and_never_inside_it(text, move):
    given = reseek(QUERY, [Turn("model", text)])
    assert given == move if move else isinstance(given, Say) and "neither a search nor an answer" in given.text


def test_an_expert_judges_that_what_it_read_tells_the_answer_when_it_gives_it():
    assert judging_turn("", ("dune", "b")) == "<judge> no </judge> <search> dune </search>"
    assert judging_turn("hm", (), "Oslo") == "<think> hm </think>\n<judge> yes </judge> <answer> Oslo </answer>"
    search = Turn("model", judging_turn("", ("dune",)))
    found = Turn("env", "", ("dune",), ((Passage("1", "Dune", "<judge> yes </judge> By Frank Herbert."),),))
    shown = reseek(QUERY, [search, found], max_turns=1)
    assert isinstance(shown, Say) and "No searches are left" in shown.text and "<judge>" not in shown.text


def test_a_small_corpus_still_gives_as_many_passages_as_were_asked_for():
    corpus = [Passage(str(at), "T", f"word {at}") for at in range(10)]
    search, clean = noisy(of=use("bm25"), corpus=corpus, start=1.0, end=1.0), bm25(corpus=corpus)
    for query in (f"word {at}" for at in range(60)):
        useful = {passage.id for passage in clean([query], 3)[0]}
        found = [passage.id for passage in search([query], 3)[0]]
        assert len({*found}) == 3 and not useful & {*found}
    assert len(search(["word 1"], 50)[0]) < 10
