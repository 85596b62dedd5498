"""The retrieval server on loopback: the peers' requests get their answers, and everything else a clear refusal."""

import asyncio
import contextlib
import http.client
import itertools
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import urllib.parse
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from loopback import Last
from loopback import raw as raw_answer
from loopback import server as loopback_server

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for benchmarks/

from benchmarks.retrieval_server import ask_all
from qr_jax.cli import cli
from qr_jax.cli.commands import retrieval
from qr_jax.records import Passage
from qr_jax.run import bounded_json
from qr_jax.search import http_server, pages, server, stored
from qr_jax.search.connections import SILENT_S, Connection, Connections, Stage
from qr_jax.search.http_server import Bounds
from qr_jax.search.pages import Pages
from qr_jax.search.protocols import PROTOCOLS
from qr_jax.search.retrievers.bm25 import bm25
from qr_jax.search.retrievers.http import http as over_http
from qr_jax.search.search_batcher import Batcher, Limits, cut
from qr_jax.search.server import App, check_address, run
from qr_jax.search.server_metrics import Histogram, ServerMetrics

CORPUS = [
    Passage("1", "Dune", "A novel by Frank Herbert."),
    Passage("2", "Dune Messiah", "The second novel, by Frank Herbert too."),
    Passage("3", "Oslo", "The capital of Norway."),
]
SEARCH = bm25(corpus=CORPUS)
DUNE = {"id": "1", "contents": '"Dune"\nA novel by Frank Herbert.'}


@contextmanager
def serving(search=SEARCH, **settings):
    """The server in a thread of its own; yields it and its URL."""
    app, started, place = App(search, **settings), threading.Event(), {}

    def main() -> None:
        async def whole() -> None:
            place["stop"], place["loop"] = asyncio.Event(), asyncio.get_running_loop()
            await run(app, "127.0.0.1", 0, lambda url: (place.update(url=url), started.set()), place["stop"])

        with asyncio.Runner(loop_factory=http_server.new_loop) as runner:
            runner.run(whole())

    thread = threading.Thread(target=main)
    thread.start()
    assert started.wait(10)
    try:
        yield app, place["url"].removesuffix("/retrieve")
    finally:
        place["loop"].call_soon_threadsafe(place["stop"].set)
        thread.join(10)
        assert not thread.is_alive()


def call(url: str, path: str, body=None, *, method: str | None = None, **headers: str) -> tuple[int, object]:
    """(status, what came) of one request."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=10)
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Content-Type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        connection.request(method or ("GET" if body is None else "POST"), path, data, given)
        response = connection.getresponse()
        text = response.read().decode()
        return response.status, json.loads(text) if response.getheader("Content-Type") == "application/json" else text
    finally:
        connection.close()


def raw(url: str, data: bytes) -> bytes:
    """What comes for these bytes, until the server closes."""
    parts = urllib.parse.urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(data)
        found = b""
        while some := connection.recv(65536):
            found += some
        return found


def test_large_passages_bound_what_a_query_and_a_search_call_may_have():
    """A request of 81 bytes for 100 passages of 1.5 million characters took 2.7 GB, and others waited for 23 s."""
    assert Limits().over([500] * 100) == Limits().over([]) == Limits()
    large = Limits().over([1_500_000] * 100)
    assert (large.k, large.default_k, large.call_passages) == (10, 3, 10)
    assert Limits().over([5_000_000] + [500] * 99).call_passages == 316, (
        "one large passage is no reason for small calls"
    )
    assert Limits().over([5_000_000] * 3).k == Limits.k, "there are no more"
    passages = [Passage("i" * 1_500_000, "t", "x")] * 60
    assert Limits().over(stored.largest(passages, Limits.k)).k == 10, "an id is in the answer too"


def test_search_r1_gets_what_its_server_promises():
    with serving() as (_, url):
        status, bare = call(url, "/retrieve", {"queries": ["frank herbert dune"], "topk": 1})
        assert (status, bare) == (200, {"result": [[DUNE]]})
        for queries in (["dune"], ["dune", "oslo"], ["dune", "oslo", "zebra"]):
            asked = {"queries": queries, "topk": 2, "return_scores": True}
            _, scored = call(url, "/retrieve", asked)
            _, bare = call(url, "/retrieve", asked | {"return_scores": False})
            assert [[one["document"] for one in some] for some in scored["result"]] == bare["result"]
            found = [[one["id"] for one in some] for some in bare["result"]]
            assert found == [[one.id for one in some] for some in SEARCH(queries, 2)]
            assert [[one["score"] for one in some] for some in scored["result"]] == [
                [one.score for one in some] for some in SEARCH(queries, 2)
            ]
        assert len(call(url, "/retrieve", {"queries": ["novel capital"], "topk": None})[1]["result"][0]) == 3


def test_the_other_peers_get_theirs():
    with serving() as (_, url):
        assert call(url, "/retrieve", {"query": "oslo"})[1]["result"][0][0]["id"] == "3"
        documents, scores = call(url, "/search", {"query": "dune", "top_n": 1, "return_score": True})[1]
        assert documents == [DUNE] and len(scores) == 1
        assert call(url, "/search", {"query": "dune", "top_n": 1})[1] == [DUNE]
        assert call(url, "/batch_search", {"query": ["dune", "zebra"], "top_n": 1})[1] == [[DUNE], []]
        answers = call(url, "/queries", {"queries": ["dune"], "k": 1})[1]
        assert answers == {"queries": ["dune"], "answers": [[DUNE]]}


@pytest.mark.parametrize("protocol", [name for name, way in PROTOCOLS.items() if not way.get])
def test_our_client_gets_through_it_what_the_search_gives(protocol):
    queries = ["dune", "norway \u200b capital", "", "東京 \U0001f600", "herbert"]
    with serving() as (_, url):
        found = over_http(url=url, protocol=protocol)(queries, 2)
    plain = lambda results: [[(one.id, one.title, one.text) for one in some] for some in results]  # noqa: E731
    assert plain(found) == plain(SEARCH(queries, 2)) and tuple(PROTOCOLS) == retrieval.PROTOCOLS


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "no JSON"),
        (b"[" * 50_000, 400, "50,000 commas, lists and objects; at most 68 are taken, which is room for 4 queries"),
        (b"[" + b"[]," * 33_000, 400, "66,001 commas, lists and objects; at most 68"),
        (b'{"queries": [' + b'"",' * 20_000, 400, "20,001 texts; at most 138 are taken"),
        ([], 400, "no JSON object"),
        ({}, 400, "wanted 'queries'"),
        ({"queries": [1]}, 400, "wanted 'queries'"),
        ({"queries": ["a"], "topk": 0}, 400, "from 1 to 100"),
        ({"queries": ["a"], "topk": True}, 400, "from 1 to 100"),
        ({"queries": ["a"], "topk": 101}, 400, "from 1 to 100"),
        ({"queries": ["a"], "return_scores": "yes"}, 400, "true or false"),
        ({"queries": ["a"] * 5}, 400, "5 queries; at most 4 are taken at once"),
        (b" " * 100_001, 413, "100,001 bytes; at most 100,000"),
    ],
)
def test_a_wrong_body_is_refused_with_the_reason(body, status, says):
    with serving(limits=Limits(body_bytes=100_000, queries=4, query_chars=10)) as (_, url):
        found = call(url, "/retrieve", body)
    assert found[0] == status and says in found[1]["detail"]


def test_asearcher_gets_a_page_by_the_url_that_a_search_named():
    with serving(pages=Pages(CORPUS)) as (app, url):
        (found,) = call(url, "/retrieve", {"queries": ["dune"], "topk": 1})[1]["result"]
        assert found == [DUNE | {"url": "1"}]
        status, answer = call(url, "/access", {"urls": [found[0]["url"], "9", "3"]})
        assert status == 200 and answer["result"][:2] == [DUNE | {"url": "1"}, None]
        assert answer["result"][2]["contents"].startswith('"Oslo"')
        for wrong in ({"urls": "1"}, {"urls": [1]}, {}, {"urls": ["1"] * 4097}):
            assert call(url, "/access", wrong)[0] == 400
    with serving() as (_, url):
        assert "and /access with --access" in call(url, "/access", {"urls": []})[1]["detail"]


def test_pages_are_found_by_their_ids_though_hashes_meet(monkeypatch):
    corpus = [Passage(str(n), "", f"text {n}") for n in range(50)]
    found = Pages(corpus)
    assert [found.get(str(n)) for n in range(50)] == corpus and found.get("50") is None
    monkeypatch.setattr(pages, "hash", lambda name: len(name), raising=False)
    found = Pages(corpus)
    assert [found.get(str(n)) for n in range(50)] == corpus and found.get("50") is None


def test_a_query_that_is_too_long_is_cut_and_fails_no_other():
    asked: list[str] = []

    def search(queries, k):
        asked.extend(queries)
        return SEARCH(queries, k)

    with serving(search, limits=Limits(query_chars=4)) as (_, url):
        status, found = call(url, "/retrieve", {"queries": ["dune messiah", "oslo"], "topk": 1})
    assert (status, asked) == (200, ["dune", "oslo"]) and [some[0]["id"] for some in found["result"]] == ["1", "3"]


def test_a_rollout_s_whole_turn_goes_in_one_request():
    texts = [f"dune {'x' * 4000} {n}" for n in range(4096)]  # Search-R1: 512 prompts, each several times
    with serving(lambda queries, k: [[Passage(query[-9:], "", "x", 1.0)] for query in queries]) as (_, url):
        status, found = call(url, "/retrieve", {"queries": texts, "topk": 1})
        assert status == 200 and [some[0]["id"] for some in found["result"]] == [text[-9:] for text in texts]
        assert call(url, "/retrieve", {"queries": ["a"] * 4097})[0] == 400


def test_wrong_paths_methods_and_types_are_refused():
    with serving() as (_, url):
        assert call(url, "/access", {"urls": []})[0] == 404
        assert call(url, "/retrieve")[0] == 405 and call(url, "/health", {})[0] == 405
        assert call(url, "/retrieve", {"queries": []}, Content_Type="text/plain")[0] == 415
        assert call(url, "/retrieve", {"queries": []})[1] == {"result": []}


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("nonsense", 400),
        ("GET /health HTTP/2.0\r\nHost: localhost", 400),
        ("GET /health HTTP/1.1", 400),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost", 400),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\n folded: x", 400),
        ("GET /health HTTP/1.1\r\nHost : localhost", 400),
        ("POST /retrieve HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked", 411),
        ("POST /retrieve HTTP/1.1\r\nHost: localhost", 411),
        ("POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1", 400),
        ("POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2", 400),
        ("POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999", 413),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nx: " + "y" * 20_000, 431),
        ("GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close", 403),
        ("GET /health HTTP/1.1\r\nHost: localhost.evil.example\r\nConnection: close", 403),
        ("GET /health HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close", 200),
        ("GET /health HTTP/1.1\r\nHost: 127.0.0.2:8000\r\nConnection: close", 200),
        ("GET /health?x=1 HTTP/1.0", 200),
        ("HEAD /health HTTP/1.1\r\nHost: localhost", 405),
        ("DELETE /retrieve HTTP/1.1\r\nHost: localhost\r\nConnection: close", 405),
    ],
)
def test_only_plain_http_for_this_machine_is_understood(head, status):
    with serving() as (_, url):
        found = raw(url, head.encode() + b"\r\n\r\n")
    assert found.startswith(f"HTTP/1.1 {status} ".encode()), found[:200]


def test_requests_one_after_another_share_a_connection_and_may_expect_a_go_ahead():
    body = b'{"queries": ["oslo"]}'
    head = "POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    one = (head % len(body)).encode() + b"Expect: 100-continue\r\n\r\n" + body
    with serving() as (app, url):
        found = raw(url, one + one + b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert [line for line in re.findall(rb"HTTP/1.1 (\d+)", found)] == [b"100", b"200", b"100", b"200", b"200"]
    assert app.metrics.requests["/retrieve", 200] == 2


def test_a_token_is_wanted_for_all_but_health():
    with serving(token="lab-token-123") as (_, url):
        assert call(url, "/retrieve", {"queries": []})[0] == 401 and call(url, "/metrics")[0] == 401
        assert call(url, "/retrieve", {"queries": []}, Authorization="Bearer lab-token-12")[0] == 401
        assert call(url, "/retrieve", {"queries": []}, Authorization="Bearer lab-token-123")[0] == 200
        assert call(url, "/health")[0] == 200


def test_the_body_of_who_may_not_ask_is_not_read():
    head = b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30000000\r\n\r\n"
    with serving(token="lab-token-123") as (app, url):
        assert raw(url, head).startswith(b"HTTP/1.1 401 ")  # no byte of it was sent
    assert app.metrics.requests["/retrieve", 401] == 1


def test_an_address_that_others_reach_needs_a_token():
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(ValueError, match="set a token"):
            check_address(host, None)
        check_address(host, "lab-token-123")
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        check_address(host, None)


def test_requests_that_come_together_are_searched_together_and_each_gets_its_own():
    calls: list[tuple[int, int]] = []

    def slow(queries, k):
        calls.append((len(queries), k))
        time.sleep(0.05)
        return [[Passage(query, "", f"{query} of {k}", 1.0)] for query in queries]

    with serving(slow) as (app, url), ThreadPoolExecutor(24) as threads:
        ask = lambda n: call(url, "/retrieve", {"queries": [f"q{n % 12}"], "topk": 1 + n % 2})[1]  # noqa: E731
        found = list(threads.map(ask, range(24)))
        assert [one["result"][0][0]["contents"] for one in found] == [
            f'""\nq{n % 12} of {1 + n % 2}' for n in range(24)
        ]
        text = call(url, "/metrics")[1]
    assert len(calls) < 12 and max(size for size, _ in calls) > 1  # of two different k, so two calls at least
    counted = re.search(r"qr_jax_batch_queries_count (\d+)", text)
    assert "qr_jax_queries_total 24" in text and counted and 0 < int(counted[1]) <= len(calls)
    assert 'qr_jax_requests_total{path="/retrieve",status="200"} 24' in text and "qr_jax_queue_queries 0" in text
    assert 'qr_jax_request_seconds_bucket{le="+Inf"} 24' in text


def test_two_hundred_clients_at_once_all_get_their_own_answer():
    texts = ["dune", "oslo norway", "frank herbert novel", "zebra"]
    right = {text: [one.id for one in found] for text, found in zip(texts, SEARCH(texts, 3), strict=True)}
    with serving() as (app, url):
        sample = asyncio.run(ask_all(url, 200, 1000, right))
    assert (sample["requests"], sample["errors"]) == (1000, 0), sample["first"]
    assert app.metrics.requests["/retrieve", 200] == 1000


def test_the_benchmark_counts_what_goes_wrong():
    result = lambda name: raw_answer({"result": [[{"document": {"id": name, "contents": "x"}}]]})  # noqa: E731
    with loopback_server(result("1"), result("2"), Last(raw_answer({}, "503 Full"))) as (url, _):
        sample = asyncio.run(ask_all(url, 1, 5, {"dune": ["1"]}))
    assert (sample["requests"], sample["errors"]) == (3, 3)  # another passage, a refusal, a connection that broke
    assert 0 < sample["p50_ms"] <= sample["p95_ms"] <= sample["most_ms"]


def test_one_bad_query_fails_its_own_request_alone():
    def search(queries, k):
        time.sleep(0.02)
        if "bad" in queries:
            raise RuntimeError("secret detail")
        return [[] for _ in queries]

    with serving(search) as (app, url), ThreadPoolExecutor(9) as threads:
        asked = ["bad", *(f"q{n}" for n in range(8))]
        found = list(threads.map(lambda query: call(url, "/retrieve", {"queries": [query]}), asked))
    assert [status for status, _ in found] == [500] + [200] * 8
    assert found[0][1] == {"detail": "the search failed: RuntimeError"} and app.metrics.search_errors >= 1


def test_a_search_that_hangs_is_504_then_too_many_wait_and_health_says_so():
    release = threading.Event()

    def hang(queries, k):
        release.wait(10)
        return [[] for _ in queries]

    with serving(hang, limits=Limits(search_s=0.2, waiting=3), about={"retriever": "hang"}) as (_, url):
        try:
            assert call(url, "/retrieve", {"queries": ["a"]})[0] == 504
            assert call(url, "/retrieve", {"queries": list("abcd")})[0] == 503
            status, health = call(url, "/health")
            assert (status, health["status"], health["retriever"]) == (503, "stuck", "hang")
        finally:
            release.set()
        time.sleep(0.05)
        assert call(url, "/health")[1]["status"] == "ok" and call(url, "/retrieve", {"queries": ["a"]})[0] == 200


def test_a_search_that_breaks_its_contract_is_500():
    with serving(lambda queries, k: []) as (_, url):
        assert call(url, "/retrieve", {"queries": ["a"]})[0] == 500


# ---- hostile clients

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = "POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


def connect(url: str, data: bytes = b"", address: str = "127.0.0.1") -> socket.socket:
    """A connection from that address, on which these bytes are sent."""
    parts = urllib.parse.urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=10, source_address=(address, 0))
    connection.sendall(data)
    return connection


def all_of(connection: socket.socket) -> bytes:
    """What comes until the server closes or resets the connection, which is closed here too."""
    found = b""
    with connection, contextlib.suppress(ConnectionError):
        while some := connection.recv(65536):
            found += some
    return found


def wait_for(condition) -> None:
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends, "it did not come about within 10 s"
        time.sleep(0.01)


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_bodies_of_all_connections_together_are_bounded():
    size = 8_000_000
    half = HEAD.format(size).encode() + b" " * (size // 2)
    bounds, limits = Bounds(held_bytes=2 * size), Limits(body_bytes=size)
    with serving(bounds=bounds, limits=limits) as (app, url), ThreadPoolExecutor(1) as thread:
        before = memory_bytes()
        held = [connect(url, half) for _ in range(2)]
        wait_for(lambda: app.server.held_bytes == 2 * size)
        refused = [all_of(connect(url, half)) for _ in range(38)]
        assert all(found.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1" in found for found in refused)
        assert b"other bodies hold 16,000,000 of 16,000,000 bytes, and this one has 8,000,000" in refused[0]
        assert app.server.held_bytes == 2 * size and memory_bytes() - before < 4 * size
        assert call(url, "/retrieve", {"queries": ["oslo"]})[0] == 200  # a small one is taken all the same
        assert 'qr_jax_refused_total{reason="bodies"} 38' in call(url, "/metrics")[1]
        held.pop().close()
        wait_for(lambda: app.server.held_bytes == size)
        large = thread.submit(call, url, "/retrieve", b'{"queries": ["oslo"]}' + b" " * (size - 21))
        assert large.result()[0] == 200
        held.pop().close()
        wait_for(lambda: app.server.held_bytes == 0)


@pytest.mark.parametrize("body", [b"[" * 1_000_000, b"[],", b'"",', b'{"":0},', b"0,", b'"\\"",'])
def test_json_of_many_small_items_costs_neither_memory_nor_time(body):
    body = body * (1_000_000 // len(body))
    tracemalloc.start()
    begun = time.process_time()
    try:
        with pytest.raises(bounded_json.TooMany, match="the body has"):
            bounded_json.read(body, 4160)
        seconds, most_bytes = time.process_time() - begun, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds < 0.2 and most_bytes < 4 * len(body)


@pytest.mark.parametrize("text", [",[{" * 1000, '"' * 1000, "\\", '\\"', '\\\\", [', '["a", "b"]', "東京, \U0001f600"])
def test_what_stands_in_a_query_does_not_count_as_an_item(text):
    asked = {"queries": [text, "x", text]}
    for ascii_only in (True, False):
        assert bounded_json.read(json.dumps(asked, ensure_ascii=ascii_only).encode(), 4) == asked
    with pytest.raises(bounded_json.TooMany, match="has 4 commas, lists and objects; at most 3 are taken"):
        bounded_json.read(json.dumps(asked).encode(), 3)


def test_items_cannot_hide_in_another_encoding_of_json():
    hidden = '["\u2200",' + "[]," * 1000 + '""]'  # half of the first sign is the byte of a quote
    with pytest.raises(ValueError, match="the body is in utf-16-le; wanted UTF-8"):
        bounded_json.read(hidden.encode("utf-16-le"), 10)


def test_a_long_list_is_written_as_json_while_others_have_their_turns():
    rows = [{"n": n, "text": "x" * 1000} for n in range(2000)]
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def whole() -> bytes:
        task = asyncio.create_task(others())
        text = await bounded_json.write_list(rows)
        task.cancel()
        return bytes(text) + await bounded_json.write_list([], before=b"<", after=b">")

    assert asyncio.run(whole()) == json.dumps(rows).encode() + b"<[]>" and turns >= 7  # 2 MB, in turns of 262,144 bytes


def test_a_request_is_cut_into_calls_of_bounded_size():
    limits = Limits(batch=3, call_passages=20, call_chars=10)
    assert cut(list("abcde"), 1, limits) == [["a", "b", "c"], ["d", "e"]]
    assert cut(list("abcde"), 10, limits) == [["a", "b"], ["c", "d"], ["e"]]
    assert cut(list("ab"), 100, limits) == [["a"], ["b"]]
    assert cut(["a" * 11, "b" * 6, "c" * 4, "d"], 1, limits) == [["a" * 11], ["b" * 6, "c" * 4], ["d"]]
    assert cut([], 1, limits) == []


def test_the_loop_turns_to_few_sockets_at_a_time_and_to_each_before_any_again():
    pairs = [socket.socketpair() for _ in range(40)]
    with contextlib.ExitStack() as stack:
        turns = stack.enter_context(http_server.FewAtOnce())
        for number, (mine, other) in enumerate(pairs):
            stack.enter_context(mine)
            stack.enter_context(other).send(b"x")
            turns.register(mine, selectors.EVENT_READ, number)
        first = [key.data for _ in range(2) for key, _ in turns.select(0)]
        assert len(first) == len(set(first)) == 2 * http_server.EVENTS == 32
        gone, *others = set(range(40)) - set(first)
        turns.unregister(pairs[gone][0])  # it was ready, and closed before its turn
        assert [key.data for key, _ in turns.select(0)] == sorted(others)
        assert len(turns.select(0)) == 16  # nobody has read, so all are ready again


def test_a_small_request_waits_for_one_call_of_large_ones_however_many_there_are():
    calls: list[list[str]] = []
    all_wait = threading.Event()

    def slow(queries, k):
        calls.append(list(queries))
        assert all_wait.wait(10)
        time.sleep(0.02)
        return [[Passage(query, "", query, 1.0)] for query in queries]

    large = [[f"{who} {n}" for n in [*range(160), *range(5)]] for who in "abc"]
    ids = lambda answer: [some[0]["id"] for some in answer[1]["result"]]  # noqa: E731
    with serving(slow, limits=Limits(batch=8)) as (app, url), ThreadPoolExecutor(4) as threads:
        asked = []
        for queries, waiting in zip([*large, ["small"]], (152, 312, 472, 473), strict=True):  # 8 are searched for
            asked.append(threads.submit(call, url, "/retrieve", {"queries": queries, "topk": 1}))
            wait_for(lambda waiting=waiting: app.batcher.queue == waiting)
        all_wait.set()
        assert ids(asked[3].result()) == ["small"] and not any(one.done() for one in asked[:3])
        assert [ids(one.result()) for one in asked[:3]] == large  # in order
    firsts = ["a 0", "small", "a 8", "b 0", "c 0", "a 16", "b 8", "c 8"]
    assert [queries[0] for queries in calls[:8]] == firsts
    assert len(calls) == 61 and max(map(len, calls)) == 8


def test_who_wants_few_passages_waits_for_one_call_of_those_who_want_many():
    calls: list[int] = []
    all_wait = threading.Event()

    def slow(queries, k):
        calls.append(k)
        assert all_wait.wait(10)
        return [[] for _ in queries]

    asked = [(f"q{n}", 100) for n in range(12)] + [("few", 3)]
    with serving(slow, limits=Limits(call_passages=400)) as (app, url), ThreadPoolExecutor(13) as threads:
        waiting = []
        for at, (query, k) in enumerate(asked):  # the first is searched for
            waiting.append(threads.submit(call, url, "/retrieve", {"queries": [query], "topk": k}))
            wait_for(lambda at=at: calls and app.batcher.queue == at)
        all_wait.set()
        assert all(one.result()[0] == 200 for one in waiting)
    assert calls == [100, 3, 100, 100, 100]


def test_a_query_that_many_ask_counts_once_in_a_call():
    calls: list[list[str]] = []
    all_wait = threading.Event()

    def slow(queries, k):
        calls.append(list(queries))
        assert all_wait.wait(10)
        return [[Passage(query, "", query, 1.0)] for query in queries]

    asked = [{"queries": [query], "return_scores": query == "b"} for query in ("first", *"abacabd", "a")]
    with serving(slow, limits=Limits(batch=3)) as (app, url), ThreadPoolExecutor(9) as threads:
        waiting = []
        for at, one in enumerate(asked):
            waiting.append(threads.submit(call, url, "/retrieve", one))
            wait_for(lambda at=at: calls and app.batcher.queue == at)
        all_wait.set()
        found = [one.result()[1]["result"][0][0] for one in waiting]
    assert calls == [["first"], ["a", "b", "c"], ["d"]]
    for one, row in zip(asked, found, strict=True):
        assert (row["document"] if one["return_scores"] else row)["id"] == one["queries"][0]


def test_the_largest_of_too_many_large_requests_gives_way_and_one_alone_does_not():
    release = threading.Event()

    def hang(queries, k):
        release.wait(10)
        return [[] for _ in queries]

    ask = lambda url, count: call(url, "/retrieve", {"queries": [str(n) for n in range(count)]})  # noqa: E731
    with serving(hang, limits=Limits(batch=2, large_calls=10)) as (app, url), ThreadPoolExecutor(4) as threads:
        try:
            alone = threads.submit(ask, url, 60)
            wait_for(lambda: app.batcher.queue == 58)  # 29 calls, and nobody else
            others = [threads.submit(ask, url, 8)]
            assert alone.result() == (
                503,
                {"detail": "large requests wait for 4 calls, and this one for 29 more; ask for less at once"},
            )
            others += [threads.submit(ask, url, count) for count in (6, 4)]
            wait_for(lambda: app.batcher.queue == 18)  # 9 calls
        finally:
            release.set()
        assert [one.result()[0] for one in others] == [200] * 3


def test_a_large_request_that_was_given_up_is_not_searched_for_further():
    calls: list[int] = []

    def slow(queries, k):
        calls.append(len(queries))
        time.sleep(0.05)
        return [[] for _ in queries]

    with serving(slow, limits=Limits(batch=1, search_s=0.2)) as (app, url):
        assert call(url, "/retrieve", {"queries": [str(n) for n in range(50)]})[0] == 504
        assert call(url, "/retrieve", {"queries": ["a"]})[0] == 200 and app.batcher.queue == 0
        before = len(calls)
        time.sleep(0.2)
        assert len(calls) == before < 10


def test_small_requests_have_room_to_wait_whatever_large_ones_hold():
    release = threading.Event()

    def hang(queries, k):
        release.wait(10)
        return [[] for _ in queries]

    ask = lambda url, count: call(url, "/retrieve", {"queries": [str(n) for n in range(count)]})[0]  # noqa: E731
    with (
        serving(hang, limits=Limits(batch=8, waiting=4, large_calls=9)) as (app, url),
        ThreadPoolExecutor(5) as threads,
    ):
        try:
            waiting = [threads.submit(ask, url, 80)]
            wait_for(lambda: app.batcher.queue == 72)  # eight are searched for
            waiting += [threads.submit(ask, url, 2) for _ in range(2)]
            wait_for(lambda: app.batcher.queue == 76)
            assert ask(url, 1) == 503
        finally:
            release.set()
        assert [one.result() for one in waiting] == [200] * 3


class Here(Executor):
    """Does its work where it is submitted."""

    def submit(self, function, /, *arguments, **named):
        done = Future()
        done.set_result(function(*arguments, **named))
        return done


@pytest.mark.parametrize(
    "others",
    [
        [(4096, 3), (1, 5)],  # a large one with the k of the good one, a small one with another
        [(4096, 3), (1, 5), (1, 40), (4096, 100)],
        *([(1, k) for k in range(1, 101)], [(20, k) for k in range(1, 101)]),
    ],
)
@pytest.mark.parametrize(("good", "most"), [((1, 3), 7), ((64, 3), 20), ((1, 100), 60), ((64, 100), 3000)])
def test_nobody_waits_for_ever_beside_clients_that_always_ask(good, most, others):
    """A client of one query with k 3 was never answered beside large ones with k 3 and small ones with k 5."""
    passages: list[int] = []
    good_at: list[int] = []  # the passages that were searched for before the good one's last

    def search(queries, k):
        if any(query.startswith("good") for query in queries):
            good_at.append(sum(passages))
        passages.append(len(queries) * k)
        return [[] for _ in queries]

    async def waited() -> float:
        batcher = Batcher(search, Limits(wait_s=0.0), ServerMetrics(), lambda: 0)
        batcher._thread = Here()  # a call that a thread has but has not begun would be counted late
        write = lambda passages: (b"[]", b"")  # noqa: E731

        async def client(name: int, count: int, k: int) -> None:
            for at in itertools.count():
                await batcher.ask([f"{name} {at} {n}" for n in range(count)], k, write, client=str(name))

        busy = [asyncio.create_task(client(name, *one)) for name, one in enumerate(others)]
        running = asyncio.create_task(batcher.run())
        while len(passages) < 200:
            await asyncio.sleep(0)
        before = sum(passages)
        await batcher.ask([f"good {n}" for n in range(good[0])], good[1], write, client="good")
        for task in (*busy, running):
            task.cancel()
        return (good_at[-1] - before) / Limits.call_passages

    assert asyncio.run(waited()) <= most  # calls


def test_of_too_many_large_requests_those_of_the_client_who_asks_most_give_way():
    release = threading.Event()

    def hang(queries, k):
        release.wait(10)
        return [[] for _ in queries]

    def ask(url: str, address: str, count: int) -> socket.socket:
        body = json.dumps({"queries": [str(n) for n in range(count)]}).encode()
        return connect(url, HEAD.format(len(body)).encode() + body, address=address)

    with serving(hang, limits=Limits(batch=2, large_calls=20)) as (app, url):
        first = ask(url, "127.0.0.3", 2)
        wait_for(lambda: app.batcher.since is not None)
        good = ask(url, "127.0.0.2", 16)  # 8 calls
        wait_for(lambda: app.batcher.queue == 16)
        many = [ask(url, "127.0.0.3", 8) for _ in range(9)]  # 36 calls
        wait_for(lambda: app.metrics.requests["/retrieve", 503] == 6)
        release.set()
        answers = [one.recv(12) for one in (first, good, *many)]
        for one in (first, good, *many):
            one.close()
    assert answers[:2] == [b"HTTP/1.1 200"] * 2
    assert sorted(answers[2:]) == [b"HTTP/1.1 200"] * 3 + [b"HTTP/1.1 503"] * 6


def test_what_an_answer_repeats_counts_for_its_size():
    """4,096 times one query with k 100 were 169 MB; 32 MB of queries that are sent back counted nothing."""
    book = [Passage(str(at), "", "word " * 200) for at in range(100)]
    with serving(lambda queries, k: [book[:k] for _ in queries], bounds=Bounds(answer_bytes=1_000_000)) as (app, url):
        status, said = call(url, "/retrieve", {"queries": ["x"] * 20, "topk": 100})
        assert status == 413 and "bytes; ask for fewer queries or passages at once" in said["detail"]
        status, said = call(url, "/queries", {"queries": ["\U0001f600" * 2000] * 100, "topk": 1})
        assert status == 413 and "more than 1,000,000 bytes" in said["detail"]
        assert call(url, "/queries", {"queries": ["x"] * 5, "topk": 100})[0] == 200
        assert app.server.refused["answers"] == 2
        wait_for(lambda: app.server.answers.held_bytes == 0)  # given back just after the last byte is sent


def test_idle_connections_give_way_to_new_ones_and_the_oldest_first():
    with serving(bounds=Bounds(connections=4)) as (app, url):
        kept = connect(url, HEALTH)
        assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
        wait_for(lambda: app.server.connections == 1)
        slow = [connect(url, b"GET /hea"[:n]) for n in range(3)]
        wait_for(lambda: app.server.connections == 4)
        time.sleep(SILENT_S + 0.05)
        for _ in range(2):
            assert call(url, "/retrieve", {"queries": ["oslo"]})[0] == 200
            slow.append(connect(url))
            wait_for(lambda: app.server.connections == 4)
        assert app.server.refused["dropped"] == 2
        assert [all_of(one) for one in slow[:2]] == [b"", b""]
        kept.sendall(HEALTH)  # one that has asked before stays longest
        assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
        for one in (kept, *slow[2:]):
            one.close()


def test_slow_bodies_of_other_addresses_do_not_drive_out_who_holds_few():
    """With a place an address takes half of, two addresses with slow bodies had driven every kept connection out."""
    with serving(bounds=Bounds(connections=8, address_connections=5)) as (app, url):
        kept = connect(url, HEALTH, address="127.0.0.4")
        assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
        slow = []
        for number in range(12):
            slow.append(connect(url, HEAD.format(5000).encode() + b"{", address=f"127.0.0.{2 + number % 2}"))
            wait_for(lambda: app.server.refused["dropped"] == max(len(slow) - 7, 0))
            wait_for(lambda: len(list(app.server._connections.all(Stage.BODY))) == min(len(slow), 7))
        assert app.server.connections == 8 and app.server.refused["dropped"] == 5
        kept.sendall(HEALTH)
        assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
        for one in (kept, *slow):
            one.close()


def test_who_holds_few_places_keeps_them_whatever_the_others_have_sent():
    """Ten addresses with slow bodies or kept connections; a client of an address of its own has sent no head yet."""
    for stage in (Stage.BODY, Stage.KEPT, Stage.HEAD):
        held = Connections(100, 50)
        for number in range(99):
            held.enter(Connection(f"10.0.0.{number % 10}", None, stage))
        good = Connection("10.0.1.1", None)
        held.enter(good)
        for number in range(40):
            given_way = held.make_room(f"10.0.0.{number % 10}")
            assert given_way is not None and given_way is not good
            held.enter(Connection(f"10.0.0.{number % 10}", None, stage))


def test_many_clients_of_one_address_that_were_answered_keep_their_places():
    """200 clients of one machine hold most places of all; six other addresses send bodies slowly."""
    held = Connections(1000, 500)
    good = [Connection("10.0.0.1", None) for _ in range(200)]
    for one in good:
        held.enter(one)
        held.move(one, Stage.ANSWER)
        held.move(one, Stage.KEPT)
    for number in range(2000):
        gone = held.make_room(f"10.0.1.{number % 6}")
        assert gone not in good and (gone is None) == (number < 800)
        entered(held, f"10.0.1.{number % 6}", 1, Stage.BODY)
    assert all(one.answered for one in good) and not any(one.answered for one in held.all(Stage.BODY))


def entered(held, address, count, stage=Stage.HEAD, answered=False):
    """So many connections of the address, which came two seconds ago."""
    made = [Connection(address, None, stage, answered, time.monotonic() - 2) for _ in range(count)]
    for one in made:
        held.enter(one)
    return made


def test_clients_that_ask_twice_a_second_stay_however_many_new_connections_come():
    """All are of one address: 200 of them asked half a second ago, and places for 40 new ones are left."""
    held = Connections(1024, 240)
    good = entered(held, "10.0.0.1", 200, Stage.KEPT, answered=True)
    for one in good:
        one.since_s = time.monotonic() - 0.5
    for _ in range(600):
        assert held.make_room("10.0.0.1") not in good
        entered(held, "10.0.0.1", 1)[0].since_s = time.monotonic()


def test_a_new_client_of_a_busy_address_does_not_give_way_to_a_flood_of_others():
    """200 clients of its machine are busy, and hold most; six other addresses send new connections."""
    held = Connections(1024, 512)
    good = [Connection("10.0.0.1", None, Stage.KEPT, answered=True) for _ in range(200)]
    good.append(Connection("10.0.0.1", None))
    for one in good:
        held.enter(one)
    for number in range(2000):
        assert held.make_room(f"10.0.1.{number % 6}") not in good
        held.enter(Connection(f"10.0.1.{number % 6}", None))


def test_two_addresses_of_idle_connections_do_not_keep_new_clients_out():
    """Each was answered once, and is silent since; a good client's first bytes take a tenth of a second."""
    held = Connections(1024, 512)
    entered(held, "10.0.0.2", 512, Stage.KEPT, answered=True)
    entered(held, "10.0.0.3", 512, Stage.KEPT, answered=True)
    for _ in range(300):
        assert held.make_room("10.0.0.4").address in ("10.0.0.2", "10.0.0.3")
        held.enter(Connection("10.0.0.4", None))


def test_few_idle_connections_of_many_addresses_go_before_those_of_use():
    """200 clients of one machine ask on kept connections; seven others asked once on 118 each, and are silent since."""
    held = Connections(1024, 512)
    good = entered(held, "10.0.0.1", 200, Stage.KEPT, answered=True)
    for number in range(7):
        entered(held, f"10.0.1.{number}", 118, Stage.KEPT, answered=True)
    for one in good:
        held.move(one, Stage.ANSWER)
        held.move(one, Stage.KEPT)
    for number in range(600):
        assert held.make_room(f"10.0.2.{number}") not in good
        held.enter(Connection(f"10.0.2.{number}", None))


def test_new_clients_of_an_address_with_many_idle_connections_stay():
    held = Connections(1024, 512)
    idle = entered(held, "10.0.0.2", 512, Stage.KEPT, answered=True)
    good = [Connection("10.0.0.2", None) for _ in range(200)]
    for one in good:
        assert held.make_room("10.0.0.2") in idle
        held.enter(one)


def test_one_address_cannot_take_all_places():
    release = threading.Event()

    def hang(queries, k):
        release.wait(10)
        return [[] for _ in queries]

    body = b'{"queries": ["a"]}'
    with serving(hang, bounds=Bounds(connections=6, address_connections=3)) as (app, url):
        try:
            idle = [connect(url, address="127.0.0.2") for _ in range(9)]
            wait_for(lambda: app.server.refused["dropped"] == 6)
            busy = [connect(url, HEAD.format(len(body)).encode() + body) for _ in range(3)]
            wait_for(lambda: app.server.connections == 6 and app.server.refused["dropped"] == 6)
            wait_for(lambda: app.metrics.queries == 3)
            found = all_of(connect(url))
            assert found.startswith(b"HTTP/1.1 503 ") and b"all 3 connections of one address wait" in found
            good = connect(url, HEALTH, address="127.0.0.3")
            assert good.recv(65536).startswith(b"HTTP/1.1 200 ")
            assert dict(app.server.refused) | {"dropped": 7, "connections": 1} == dict(app.server.refused)
        finally:
            release.set()
        for one in (good, *busy, *idle):
            one.close()


def test_places_of_connections_that_ended_are_free_again():
    with serving(bounds=Bounds(connections=4, address_connections=2)) as (app, url):
        for _ in range(5):
            assert raw(url, HEALTH.replace(b"HTTP/1.1", b"HTTP/1.0")).startswith(b"HTTP/1.1 200 ")
            wait_for(lambda: app.server.connections == 0)
        held = [connect(url) for _ in range(2)]
        wait_for(lambda: app.server.connections == 2)
        assert app.server.refused["dropped"] == app.server.refused["connections"] == 0
        for one in held:
            one.close()


def test_slow_heads_and_slow_bodies_are_cut_off_and_kept_connections_are_not():
    bounds = Bounds(head_s=0.2, body_s=0.2, body_bytes_per_s=1000, idle_s=20)
    with serving(bounds=bounds) as (app, url), ThreadPoolExecutor(2) as threads:
        kept = connect(url, HEALTH)
        assert raw(url, b"GET /health HTT") == b"" and raw(url, b"") == b""
        drip = connect(url, HEAD.format(60_000).encode())  # 3,000 bytes a second bring it within idle_s
        come = threads.submit(all_of, drip)
        with contextlib.suppress(OSError):
            while not come.done():
                drip.sendall(b"x")
                time.sleep(0.02)
        found = come.result()
        assert found.startswith(b"HTTP/1.1 408 ") and b"wanted 3,000 bytes a second, over each 0.2 s" in found
        assert dict(app.server.refused) | {"slow heads": 2, "slow bodies": 1} == dict(app.server.refused)
        steady = connect(url, HEAD.format(1200).encode() + b'{"queries": ["oslo"]}')
        for _ in range(9):
            time.sleep(0.06)
            steady.sendall(b" " * 131)
        assert steady.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
        kept.sendall(HEALTH[:9])
        assert all_of(kept) == b"" and app.server.refused["slow heads"] == 3
        steady.close()


def test_an_answer_that_nobody_reads_is_given_up():
    large = [[Passage("1", "", "x" * 30_000_000, 1.0)]]
    body = b'{"queries": ["a"]}'
    with serving(lambda queries, k: large, bounds=Bounds(idle_s=0.3)) as (app, url):
        files = len(os.listdir("/proc/self/fd"))
        asked = connect(url, HEAD.format(len(body)).encode() + body)
        wait_for(lambda: app.metrics.requests["/retrieve", 200] == 1)
        wait_for(lambda: app.server.connections == 0)
        wait_for(lambda: len(os.listdir("/proc/self/fd")) == files + 1)  # the client's
        assert len(all_of(asked)) < 20_000_000


def test_answers_together_are_bounded_and_who_does_not_read_gives_way():
    """200 requests of 300 bytes made the server hold 6.6 GB, and nobody else was answered."""
    book = [Passage(str(at), "", "word " * 80_000) for at in range(20)]  # more than a system takes for a client
    bounds = Bounds(answers_bytes=50_000_000, answer_bytes=20_000_000)
    large, too_large = ({"queries": queries, "topk": 20} for queries in (["x"], ["a", "b", "c"]))
    small = {"queries": ["tiny"], "topk": 1}
    tiny = Passage("t", "", "t")
    search = lambda queries, k: [[tiny] if query == "tiny" else book[:k] for query in queries]  # noqa: E731
    with serving(search, bounds=bounds) as (app, url):
        answers, refused = app.server.answers, app.server.refused
        status, said = call(url, "/retrieve", too_large)
        assert status == 413 and "more than 20,000,000 bytes; ask for fewer queries or passages" in said["detail"]
        assert call(url, "/retrieve", large)[0] == 200
        wait_for(lambda: answers.held_bytes == 0)
        data = json.dumps(large).encode()
        unread = [connect(url, HEAD.format(len(data)).encode() + data) for _ in range(12)]
        wait_for(lambda: refused["answers"] > 1 and answers.held_bytes > bounds.answers_bytes // 2)
        assert answers.held_bytes <= bounds.answers_bytes
        assert call(url, "/retrieve", small)[0] == 200
        wait_for(lambda: call(url, "/retrieve", large)[0] == 200)  # after a second an unread one gives way
        assert refused["unread"]
        for connection in unread:
            connection.close()
        wait_for(lambda: answers.held_bytes == 0)


def test_many_requests_of_one_call_each_do_not_stand_before_a_small_one():
    def search(queries, k):
        calls.append(len(queries))
        time.sleep(0.05)
        return [[] for _ in queries]

    calls = []
    data = json.dumps({"queries": [f"q{at}" for at in range(20)], "topk": 100}).encode()
    with serving(search) as (app, url):
        asked = [connect(url, HEAD.format(len(data)).encode() + data) for _ in range(40)]
        wait_for(lambda: app.batcher.queue > 600)
        began = len(calls)
        assert call(url, "/retrieve", {"queries": ["one"]})[0] == 200
        assert len(calls) - began <= 3
        for connection in asked:
            with connection:
                assert connection.recv(12) == b"HTTP/1.1 200"


def test_as_many_files_may_be_open_as_there_are_connections(monkeypatch, caplog):
    limits, given = {"now": (256, 1024)}, []
    monkeypatch.setattr(server.resource, "getrlimit", lambda kind: limits["now"])
    monkeypatch.setattr(server.resource, "setrlimit", lambda kind, value: given.append(value))
    server.allow_files(100)
    assert given == [(356, 1024)] and not caplog.records
    server.allow_files(1024)
    assert given[-1] == (1024, 1024) and "1024 files may be open; wanted 1280 for 1024 connections" in caplog.text
    limits["now"] = (-1, -1)
    server.allow_files(100_000)
    assert len(given) == 2


def test_the_end_waits_for_what_is_being_answered():
    def slow(queries, k):
        time.sleep(0.3)
        return [[] for _ in queries]

    with ThreadPoolExecutor(1) as threads:
        with serving(slow) as (_, url):
            late = threads.submit(call, url, "/retrieve", {"queries": ["a"]})
            time.sleep(0.1)
        assert late.result() == (200, {"result": [[]]})


def test_a_search_that_never_ends_is_left_behind_at_the_end():
    release = threading.Event()

    def hang(queries, k):
        release.wait(10)
        return [[] for _ in queries]

    async def whole() -> bool:
        stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
        app = App(hang, bounds=Bounds(grace_s=0.1))
        running = asyncio.create_task(run(app, "127.0.0.1", 0, url.set_result, stop))
        port = urllib.parse.urlsplit(await url).port
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b'{"query": "a"}'
        head = f"POST /retrieve HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        while app.batcher.since is None:
            await asyncio.sleep(0.01)
        stop.set()
        left = await running
        writer.close()
        return left

    try:
        assert asyncio.run(whole())
    finally:
        release.set()


def test_a_histogram_counts_up_to_each_bound():
    made = Histogram((1, 2))
    for value in (0.5, 1, 2, 3):
        made.add(value)
    assert made.lines("x") == [
        'x_bucket{le="1"} 2',
        'x_bucket{le="2"} 3',
        'x_bucket{le="+Inf"} 4',
        "x_sum 6.5",
        "x_count 4",
    ]


# ---- the command

COMMAND = "import sys; from qr_jax.cli.cli import main; code = main(); assert 'jax' not in sys.modules; sys.exit(code)"


def command(*words: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip


def test_the_command_serves_a_file_without_jax_and_ends_in_order(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"id": one.id, "title": one.title, "text": one.text}) + "\n" for one in CORPUS)
    )
    with command("serve-retriever", "k1=0.9", "--corpus", str(corpus), "--port", "0", JAX_PLATFORMS="") as process:
        assert process.stderr is not None
        url = next(line.split()[-1] for line in process.stderr if "http://" in line)
        assert call(url.removesuffix("/retrieve"), "/health")[1]["passages"] == 3
        assert call(url, "/retrieve", {"queries": ["dune"], "topk": 1})[1] == {"result": [[DUNE]]}
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, process.stderr.read()
        assert process.stderr.read().endswith("stopped\n")


def test_the_command_s_limits_are_the_server_s(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    served = {}
    monkeypatch.setattr(server, "serve", lambda search, **given: served.update(given))
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"id": "1", "text": "dune"}) + "\n")
    words = [
        "--batch=7",
        "--wait-ms=9",
        "--max-k=5",
        "--max-queries=6",
        "--max-chars=8",
        "--max-body=1000",
        "--search-s=4",
        "--max-connections=30",
    ]
    assert cli.main(["serve-retriever", "--corpus", str(corpus), *words]) == 0
    assert served["limits"] == Limits(batch=7, wait_s=0.009, k=5, queries=6, query_chars=8, body_bytes=1000, search_s=4)
    assert served["bounds"] == Bounds(connections=30, address_connections=15)
    assert cli.main(["serve-retriever", "--corpus", str(corpus)]) == 0
    assert served["limits"] == Limits() and served["bounds"] == Bounds() and served["pages"] is None
    assert cli.main(["serve-retriever", "--corpus", str(corpus), "--access"]) == 0 and served["pages"].get("1")


def test_the_command_refuses_what_is_unsafe_or_missing(monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    for words, says in (
        (("--host", "0.0.0.0"), "set a token"),
        (("--host", "0.0.0.0", "--token-env", "NO_SUCH_TOKEN"), "NO_SUCH_TOKEN is not set"),
        ((), "name its files with --corpus"),
        (("--retriever", "none", "--access"), "--access gives passages of a corpus"),
        (
            ("--retriever", "http", "url=http://127.0.0.1:1", "--corpus", "x"),
            "'http' searches no corpus of files: leave",
        ),
    ):
        assert cli.main(["serve-retriever", *words]) == 2
        assert says in capsys.readouterr().err
