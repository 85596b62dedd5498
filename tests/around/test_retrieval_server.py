"""The retrieval server on loopback: the peers' requests get their answers, and everything else a clear refusal."""

import asyncio
import contextlib
import http.client
import itertools
import json
import os
import re
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
from loopback import Last, running
from loopback import raw as raw_answer
from loopback import server as loopback_server
from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).resolve().parents[1].parent))  # for benchmarks/

from benchmarks.retrieval_server import ask_all
from qr_jax.cli import cli
from qr_jax.cli.commands import retrieval
from qr_jax.records import Passage
from qr_jax.search import http_app, pages, server
from qr_jax.search.http_app import check_address
from qr_jax.search.limits import Held, Limits, Refused
from qr_jax.search.pages import Pages
from qr_jax.search.protocols import PROTOCOLS
from qr_jax.search.retrievers.bm25 import bm25
from qr_jax.search.retrievers.http import http as over_http
from qr_jax.search.search_batcher import Batcher
from qr_jax.search.server import App
from qr_jax.search.server_metrics import ServerMetrics
from qr_jax.settings import json_text

CORPUS = [
    Passage("1", "Dune", "A novel by Frank Herbert."),
    Passage("2", "Dune Messiah", "The second novel, by Frank Herbert too."),
    Passage("3", "Oslo", "The capital of Norway."),
]
SEARCH = bm25(corpus=CORPUS)
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = "POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
DUNE = {"id": "1", "contents": '"Dune"\nA novel by Frank Herbert.'}


@contextmanager
def serving(search=SEARCH, **settings):
    """Run the server in a thread of its own; yield it and its URL."""
    with running(App(search, **settings)) as (app, url):
        yield app, url


@pytest.fixture(scope="module")
def shared_url():
    """The URL of a server with small limits, for tests that only read its answers."""
    with serving(limits=Limits(body_bytes=100_000, queries=4, query_chars=10)) as (_, url):
        yield url


def metric(app: App, name: str, **labels: str) -> float:
    """Return the value that /metrics tells."""
    families = text_string_to_metric_families(app.metrics.text()[0].decode())
    samples = [sample for family in families for sample in family.samples if sample.name == f"qr_jax_{name}"]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def call(url: str, path: str, body=None, *, method: str | None = None, **headers: str) -> tuple[int, object]:
    """(status, what came) of one request."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=60)
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
def test_a_wrong_body_is_refused_with_the_reason(shared_url, body, status, says):
    found = call(shared_url, "/retrieve", body)
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
    with serving() as (app, url):
        status, said = call(url, "/access", {"urls": []})
        assert status == 404 and said["detail"].startswith("there are /retrieve, /search, /batch_search, /queries, /")
        assert call(url, "/retrieve/", {})[0] == 404
        assert call(url, "/retrieve") == (405, {"detail": "/retrieve wants POST"})
        assert call(url, "/health", {}) == (405, {"detail": "/health wants GET"})
        assert call(url, "/retrieve", {"queries": []}, Content_Type="text/plain")[0] == 415
        assert call(url, "/retrieve", {"queries": []})[1] == {"result": []}
        assert metric(app, "requests_total", path="other", status="404") == 2


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /health HTTP/1.1\r\nHost: evil.example", 403),
        ("GET /health HTTP/1.1\r\nHost: localhost.evil.example", 403),
        ("GET /health HTTP/1.1\r\nHost: [::1]:80", 200),
        ("GET /health HTTP/1.1\r\nHost: 127.0.0.2:8000", 200),
        ("GET /health?x=1 HTTP/1.0", 200),
        (HEAD.format(9_999_999_999).rstrip(), 413),
        (HEAD.format(1).replace("application/json", "text/plain").rstrip(), 415),
        ("nonsense", 400),
    ],
)
def test_on_loopback_a_web_page_s_own_name_for_this_machine_is_refused(shared_url, head, status):
    with connect(shared_url, head.encode() + b"\r\n\r\n") as connection:
        assert connection.recv(4096).startswith(f"HTTP/1.1 {status} ".encode())


def test_requests_one_after_another_share_a_connection_and_may_expect_a_go_ahead():
    body = b'{"queries": ["oslo"]}'
    head = HEAD.format(len(body)).encode().removesuffix(b"\r\n") + b"Expect: 100-continue\r\n\r\n"
    with serving() as (app, url), connect(url) as connection, connection.makefile("rb") as answered:
        for _ in range(2):
            connection.sendall(head)
            assert answered.readline() == b"HTTP/1.1 100 Continue\r\n" and answered.readline() == b"\r\n"
            connection.sendall(body)
            response = http.client.HTTPResponse(connection)
            response.begin()
            assert json.loads(response.read())["result"][0][0]["id"] == "3"
        assert metric(app, "requests_total", path="/retrieve", status="200") == 2 and app.connections() == 1


def test_a_body_in_chunks_is_bounded_as_any_other(shared_url):
    def asked(body: bytes) -> tuple[int, dict]:
        pieces = (body[start : start + 10_000] for start in range(0, len(body), 10_000))
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(shared_url).netloc, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", "/retrieve", pieces, {"Content-Type": "application/json"}, encode_chunked=True)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    body = b'{"queries": ["oslo"]}'
    assert asked(body + b" " * (100_000 - len(body)))[1]["result"][0][0]["id"] == "3"
    status, said = asked(body + b" " * 100_000)
    assert status == 413 and "bytes; at most 100,000 are taken" in said["detail"]


def test_a_token_is_wanted_for_all_but_health():
    with serving(token="lab-token-123") as (_, url):
        assert call(url, "/retrieve", {"queries": []})[0] == 401 and call(url, "/metrics")[0] == 401
        assert call(url, "/retrieve", {"queries": []}, Authorization="Bearer lab-token-12")[0] == 401
        assert call(url, "/retrieve", {"queries": []}, Authorization="Bearer lab-token-123")[0] == 200
        assert call(url, "/retrieve", {"queries": []}, Authorization="bearer  lab-token-123")[0] == 200
        assert call(url, "/retrieve", {"queries": []}, Authorization="Basic lab-token-123")[0] == 401
        assert call(url, "/health")[0] == 200 and call(url, "/openapi.json")[0] == 401


def test_the_body_of_who_may_not_ask_is_not_read():
    with serving(token="lab-token-123") as (app, url), connect(url, HEAD.format(30_000_000).encode()) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")  # no byte of it was sent
        assert metric(app, "requests_total", path="/retrieve", status="401") == 1 and app.bodies.bytes == 0


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
    assert 'qr_jax_request_seconds_bucket{le="+Inf"} 24' in text and "qr_jax_connections 1.0" in text
    for name in ("search_errors_total", "search_seconds_sum", "held_bytes", "answers_bytes", "refused_total"):
        assert f"\nqr_jax_{name}" in text


def test_two_hundred_clients_at_once_all_get_their_own_answer():
    texts = ["dune", "oslo norway", "frank herbert novel", "zebra"]
    right = {text: [one.id for one in found] for text, found in zip(texts, SEARCH(texts, 3), strict=True)}
    with serving() as (app, url):
        sample = asyncio.run(ask_all(url, 200, 1000, right))
    assert (sample["requests"], sample["errors"]) == (1000, 0), sample["first"]
    assert metric(app, "requests_total", path="/retrieve", status="200") == 1000


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
    assert found[0][1] == {"detail": "the search failed: RuntimeError"} and metric(app, "search_errors_total") >= 1


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


# ---- bounds


def connect(url: str, data: bytes = b"") -> socket.socket:
    """Return a connection on which these bytes were sent."""
    parts = urllib.parse.urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=10)
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
    with serving(limits=Limits(body_bytes=size, bodies_bytes=2 * size)) as (app, url), contextlib.ExitStack() as stack:
        before = memory_bytes()
        held = [stack.enter_context(connect(url, half)) for _ in range(2)]
        wait_for(lambda: app.bodies.bytes == 2 * size)
        for _ in range(38):
            with connect(url, half) as connection:
                refused = connection.recv(65536)
            assert refused.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in refused
        assert b"other requests hold 16,000,000 of 16,000,000 bytes, and this body has 8,000,000; try again" in refused
        assert app.bodies.bytes == 2 * size and memory_bytes() - before < 4 * size
        assert call(url, "/retrieve", {"queries": ["oslo"]})[0] == 200  # a small one is taken all the same
        assert 'qr_jax_refused_total{reason="bodies"} 38' in call(url, "/metrics")[1]
        held.pop().close()
        wait_for(lambda: app.bodies.bytes == size)
        assert call(url, "/retrieve", b'{"queries": ["oslo"]}' + b" " * (size - 21))[0] == 200
        held.pop().close()
        wait_for(lambda: app.bodies.bytes == 0)


def test_bytes_are_counted_while_they_are_held():
    refused = []
    held = Held("body", 300_000, 500_000, "send less", lambda: refused.append(1))
    with held.open() as first, held.open() as second:
        first(200_000)
        first(100_000)  # it holds 200,000 already
        second(65_536)  # small ones are not counted
        assert held.bytes == 200_000
        second(300_000)
        with pytest.raises(Refused, match="^the body has 300,001 bytes; at most 300,000 are taken; send less") as why:
            second(300_001)
        assert held.bytes == 500_000 and why.value.status == 413
        with pytest.raises(
            Refused, match="^other requests hold 300,000 of 500,000 bytes, and this body has 200,001"
        ) as why:
            first(200_001)
        assert (why.value.status, why.value.headers) == (503, {"Retry-After": "1"})
    assert held.bytes == 0 and len(refused) == 2


def test_a_body_that_does_not_come_in_time_is_408_and_an_idle_connection_is_closed():
    with (
        serving(limits=Limits(idle_s=1)) as (app, url),
        connect(url, HEALTH) as idle,
        connect(url, HEAD.format(100_000).encode()) as connection,
    ):
        wait_for(lambda: app.bodies.bytes == 100_000)
        connection.sendall(b"x" * 1000)
        found = all_of(connection)
        assert (
            found.startswith(b"HTTP/1.1 408 ") and b"1,000 bytes of the body came within 1 s, and not its end" in found
        )
        assert all_of(idle).startswith(b"HTTP/1.1 200 ")  # and then the end
        wait_for(lambda: app.bodies.bytes == app.connections() == 0)


def test_while_more_connections_are_open_than_allowed_requests_get_503():
    with serving(limits=Limits(connections=2)) as (app, url):
        with connect(url), connect(url, HEALTH) as kept:
            assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
            assert call(url, "/health")[0] == 503
            wait_for(lambda: app.connections() == 2)
            kept.sendall(HEALTH)
            assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
        wait_for(lambda: app.connections() == 0)
        assert call(url, "/health")[0] == 200


@pytest.mark.parametrize("body", [b"[" * 1_000_000, b"[],", b'"",', b'{"":0},', b"0,", b'"\\"",'])
def test_json_of_many_small_items_costs_neither_memory_nor_time(body):
    body = body * (1_000_000 // len(body))
    tracemalloc.start()
    begun = time.process_time()
    try:
        with pytest.raises(json_text.TooMany, match="the body has"):
            json_text.read_bounded(body, 4160)
        seconds, most_bytes = time.process_time() - begun, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds < 0.2 and most_bytes < 4 * len(body)


@pytest.mark.parametrize("text", [",[{" * 1000, '"' * 1000, "\\", '\\"', '\\\\", [', '["a", "b"]', "東京, \U0001f600"])
def test_what_stands_in_a_query_does_not_count_as_an_item(text):
    asked = {"queries": [text, "x", text]}
    for ascii_only in (True, False):
        assert json_text.read_bounded(json.dumps(asked, ensure_ascii=ascii_only).encode(), 4) == asked
    with pytest.raises(json_text.TooMany, match="has 4 commas, lists and objects; at most 3 are taken"):
        json_text.read_bounded(json.dumps(asked).encode(), 3)


def test_items_cannot_hide_in_another_encoding_of_json():
    hidden = '["\u2200",' + "[]," * 1000 + '""]'  # half of the first sign is the byte of a quote
    with pytest.raises(ValueError, match="the body is in utf-16-le; wanted UTF-8"):
        json_text.read_bounded(hidden.encode("utf-16-le"), 10)


def test_a_query_takes_the_share_of_a_call_that_it_costs():
    limits = Limits(batch=64, call_passages=512, call_chars=8192)
    assert limits.share("dune", 3) == limits.share("dune", 8) == 1 / 64
    assert limits.share("dune", 100) == 100 / 512 and limits.share("x" * 4096, 3) == 1 / 2


def asked_one_by_one(limits: Limits, asked):
    """Send these requests in order, the first of which is searched for while the others come.

    Return the calls of the search function, (queries, k), and each request's ids, in order; an id is its query.
    """
    calls: list[tuple[list[str], int]] = []
    all_wait = threading.Event()

    def search(queries, k):
        calls.append((list(queries), k))
        assert all_wait.wait(10)
        return [[Passage(query, "", query, 1.0)] for query in queries]

    with serving(search, limits=limits) as (app, url), ThreadPoolExecutor(len(asked)) as threads:
        waiting, queue = [], -1
        for body in asked:
            waiting.append(threads.submit(call, url, "/retrieve", body))
            wait_for(lambda queue=queue: calls and app.batcher.queue > queue)
            queue = app.batcher.queue
        all_wait.set()
        answers = [one.result()[1]["result"] for one in waiting]
    ids = [[row[0]["document"]["id"] if body.get("return_scores") else row[0]["id"] for row in rows]
           for body, rows in zip(asked, answers, strict=True)]  # fmt: skip
    return calls, ids


def test_large_and_small_requests_take_turns_a_query_each():
    large = [[f"{who} {n}" for n in [*range(160), *range(5)]] for who in "abc"]
    asked = [{"queries": queries, "topk": 1} for queries in [*large, ["small"]]]
    calls, ids = asked_one_by_one(Limits(batch=8), asked)
    assert ids == [*large, ["small"]]  # in order, equal ones too
    queries = [queries for queries, _ in calls]
    assert queries[0] == [f"a {n}" for n in range(8)]
    assert sorted(queries[1]) == ["a 10", "a 8", "a 9", "b 0", "b 1", "c 0", "c 1", "small"]
    assert len(calls) == 61 and max(map(len, queries)) == 8  # 3 x 160 + 1 queries


def test_a_call_has_a_bounded_number_of_passages():
    asked = [{"queries": [f"q{n}"], "topk": 100} for n in range(12)] + [{"queries": ["few"], "topk": 3}]
    calls, _ = asked_one_by_one(Limits(call_passages=400), asked)
    sizes = [(len(queries), k) for queries, k in calls]
    assert sizes == [(1, 100), (4, 100), (4, 100), (3, 100), (1, 3)]  # the last two are one call of both k


def test_a_query_that_many_ask_counts_once_in_a_call():
    asked = [{"queries": [query], "return_scores": query == "b"} for query in ("first", *"abacabd")]
    calls, ids = asked_one_by_one(Limits(batch=3), asked)
    assert [queries for queries, _ in calls] == [["first"], ["a", "b", "c"], ["d"]]
    assert ids == [body["queries"] for body in asked]


def test_more_queries_than_may_wait_are_refused_until_there_is_room():
    release = threading.Event()

    def hang(queries, k):
        release.wait(10)
        return [[] for _ in queries]

    ask = lambda url, count: call(url, "/retrieve", {"queries": [str(n) for n in range(count)]})  # noqa: E731
    with serving(hang, limits=Limits(batch=2, waiting=10)) as (app, url), ThreadPoolExecutor(2) as threads:
        try:
            taken = [threads.submit(ask, url, 8)]
            wait_for(lambda: app.batcher.queue == 6)  # two are searched for
            taken.append(threads.submit(ask, url, 4))
            wait_for(lambda: app.batcher.queue == 10)
            status, said = ask(url, 1)
            assert status == 503 and said["detail"].startswith("10 queries wait already; try again")
        finally:
            release.set()
        assert [one.result()[0] for one in taken] == [200] * 2 and ask(url, 1)[0] == 200


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


class Here(Executor):
    """Does its work where it is submitted."""

    def submit(self, function, /, *arguments, **named):
        done = Future()
        done.set_result(function(*arguments, **named))
        return done


@pytest.mark.parametrize(
    "others", [[(4096, 3), (1, 5)], [(4096, 3), (1, 5), (1, 40), (4096, 100)], [(20, k) for k in range(1, 101)]]
)
@pytest.mark.parametrize("good", [(1, 3), (64, 3), (1, 100), (64, 100)])
def test_nobody_waits_for_ever_beside_clients_that_always_ask(good, others):
    """A request of Q queries waits for one call and Q + 1 rounds, in each of which every client has a query's turn."""
    shares: list[float] = []
    limits = Limits(wait_s=0.0)
    good_at: list[float] = []  # what was searched for before the good one's last query

    def search(queries, k):
        if any(query.startswith("good") for query in queries):
            good_at.append(sum(shares))
        shares.append(sum(limits.share(query, k) for query in queries))
        return [[] for _ in queries]

    async def waited() -> float:
        batcher = Batcher(search, limits, ServerMetrics({}), lambda: 0)
        batcher._thread = Here()  # a call that a thread has but has not begun would be counted late
        write = lambda passages: (b"[]", b"")  # noqa: E731

        async def client(name: int, count: int, k: int) -> None:
            for at in itertools.count():
                await batcher.ask([f"{name} {at} {n}" for n in range(count)], k, write)

        busy = [asyncio.create_task(client(name, *one)) for name, one in enumerate(others)]
        running = asyncio.create_task(batcher.run())
        while len(shares) < 200:
            await asyncio.sleep(0)
        before = sum(shares)
        await batcher.ask([f"good {n}" for n in range(good[0])], good[1], write)
        for task in (*busy, running):
            task.cancel()
        return good_at[-1] - before

    count, k = good
    a_round = sum(limits.share("", k) for _, k in others) + limits.share("", k)
    assert asyncio.run(waited()) <= 1 + (count + 1) * a_round


def test_what_an_answer_repeats_counts_for_its_size():
    """4,096 times one query with k 100 were 169 MB; 32 MB of queries that are sent back counted nothing."""
    book = [Passage(str(at), "", "word " * 200) for at in range(100)]
    with serving(lambda queries, k: [book[:k] for _ in queries], limits=Limits(answer_bytes=1_000_000)) as (app, url):
        status, said = call(url, "/retrieve", {"queries": ["x"] * 20, "topk": 100})
        assert status == 413 and "at most 1,000,000 are taken; ask for fewer queries or passages" in said["detail"]
        status, said = call(url, "/queries", {"queries": ["\U0001f600" * 2000] * 100, "topk": 1})
        assert status == 413 and "at most 1,000,000 are taken" in said["detail"]
        assert call(url, "/queries", {"queries": ["x"] * 5, "topk": 100})[0] == 200
        assert metric(app, "refused_total", reason="answers") == 2
        wait_for(lambda: app.answers.bytes == 0)  # given back just after the last byte is sent


def test_an_answer_that_nobody_reads_is_given_up():
    large = [[Passage("1", "", "x" * 30_000_000, 1.0)]]
    body = b'{"queries": ["a"]}'
    with serving(lambda queries, k: large, limits=Limits(idle_s=1)) as (app, url):
        with connect(url, HEAD.format(len(body)).encode() + body) as asked:
            wait_for(lambda: app.answers.bytes > 30_000_000)
            wait_for(lambda: metric(app, "refused_total", reason="unread") == 1)
            assert app.answers.bytes == 0 and len(all_of(asked)) < 20_000_000
        assert len(call(url, "/retrieve", {"queries": ["a"]})[1]["result"][0][0]["contents"]) > 30_000_000


def test_answers_together_are_bounded():
    """200 requests of 300 bytes made a server without such a bound hold 6.6 GB."""
    book = [Passage(str(at), "", "word " * 80_000) for at in range(20)]  # more than a system takes for a client
    limits = Limits(answers_bytes=50_000_000, answer_bytes=20_000_000)
    large, too_large = ({"queries": queries, "topk": 20} for queries in (["x"], ["a", "b", "c"]))
    tiny = Passage("t", "", "t")
    search = lambda queries, k: [[tiny] if query == "tiny" else book[:k] for query in queries]  # noqa: E731
    with serving(search, limits=limits) as (app, url), contextlib.ExitStack() as stack:
        status, said = call(url, "/retrieve", too_large)
        assert status == 413 and "at most 20,000,000 are taken; ask for fewer queries or passages" in said["detail"]
        assert call(url, "/retrieve", large)[0] == 200
        wait_for(lambda: app.answers.bytes == 0)
        data = json.dumps(large).encode()
        unread = [stack.enter_context(connect(url, HEAD.format(len(data)).encode() + data)) for _ in range(12)]
        wait_for(lambda: metric(app, "refused_total", reason="answers") > 1)
        wait_for(lambda: app.answers.bytes > limits.answers_bytes // 2)
        assert app.answers.bytes <= limits.answers_bytes
        status, said = call(url, "/retrieve", large)
        assert status == 503 and "of 50,000,000 bytes, and this answer has" in said["detail"]
        assert call(url, "/retrieve", {"queries": ["tiny"], "topk": 1})[0] == 200
        for connection in unread:
            connection.close()
        wait_for(lambda: app.answers.bytes == 0)
        assert call(url, "/retrieve", large)[0] == 200


def test_as_many_files_may_be_open_as_there_are_connections(monkeypatch, caplog):
    limits, given = {"now": (256, 1024)}, []
    monkeypatch.setattr(http_app.resource, "getrlimit", lambda kind: limits["now"])
    monkeypatch.setattr(http_app.resource, "setrlimit", lambda kind, value: given.append(value))
    http_app.allow_files(100)
    assert given == [(356, 1024)] and not caplog.records
    http_app.allow_files(1024)
    assert given[-1] == (1024, 1024) and "1024 files may be open; wanted 1280 for 1024 connections" in caplog.text
    limits["now"] = (-1, -1)
    http_app.allow_files(100_000)
    assert len(given) == 2


# ---- the page


@pytest.mark.parametrize("access", [False, True])
def test_the_openapi_page_has_every_path_with_the_limits_in_force(access):
    limits = Limits(k=7, queries=11)
    with serving(limits=limits, pages=Pages(CORPUS) if access else None, token="lab-token-123") as (app, url):
        status, page = call(url, "/openapi.json", Authorization="Bearer lab-token-123")
        assert status == 200 and page["openapi"] == "3.1.0" and page["security"] == [{"token": []}]
        assert set(page["paths"]) == {*app.posts, *http_app.OPEN} and ("/access" in page["paths"]) == access
        for path, (method, operation) in ((path, *way.items()) for path, way in page["paths"].items()):
            token = {} if operation.get("security") == [] else {"Authorization": "Bearer lab-token-123"}
            body = {"urls": ["1"]} if path == "/access" else {"query": "dune"}
            status, answer = call(url, path, body if method == "post" else None, **token)
            (kind,) = operation["responses"]["200"]["content"]
            assert status == 200 and isinstance(answer, str) == (kind == "text/plain")
        fields = page["paths"]["/retrieve"]["post"]["requestBody"]["content"]["application/json"]["schema"][
            "properties"
        ]
    assert fields["topk"]["maximum"] == 7 and fields["queries"]["oneOf"][1]["maxItems"] == 11
    with serving() as (_, url):
        assert "security" not in call(url, "/openapi.json")[1]


# ---- the end


def test_the_end_waits_for_what_is_being_answered():
    def slow(queries, k):
        time.sleep(0.3)
        return [[] for _ in queries]

    with ThreadPoolExecutor(1) as threads:
        with serving(slow) as (_, url):
            late = threads.submit(call, url, "/retrieve", {"queries": ["a"]})
            time.sleep(0.1)
        assert late.result() == (200, {"result": [[]]})


HANG = """
import threading
from qr_jax.search import server
from qr_jax.search.limits import Limits
say = lambda text: print(text, flush=True)
server.serve(lambda queries, k: threading.Event().wait(), port=0, limits=Limits(grace_s=1), say=say)
"""


def test_a_search_that_never_ends_is_left_behind_at_the_end():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HANG], **pipes) as process, contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        url = process.stdout.readline().strip()
        body = b'{"query": "a"}'
        stack.enter_context(connect(url, HEAD.format(len(body)).encode() + body))
        wait_for(lambda: "qr_jax_queries_total 1.0" in call(url, "/metrics")[1])
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stdout.read() == "stopped\n" and "still runs is left behind" in process.stderr.read()


# ---- the command

COMMAND = "import sys; from qr_jax.cli.cli import main; code = main(); assert 'jax' not in sys.modules; sys.exit(code)"


def command(*words: str, **environment: str) -> subprocess.Popen:
    """Start `qr-jax` with these words, without jax."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_a_file_without_jax_and_ends_in_order(tmp_path, number):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"id": one.id, "title": one.title, "text": one.text}) + "\n" for one in CORPUS)
    )
    with command("serve-retriever", "k1=0.9", "--corpus", str(corpus), "--port", "0", JAX_PLATFORMS="") as process:
        assert process.stderr is not None
        url = next(line.split()[-1] for line in process.stderr if "http://" in line)
        assert call(url.removesuffix("/retrieve"), "/health")[1]["passages"] == 3
        assert call(url, "/retrieve", {"queries": ["dune"], "topk": 1})[1] == {"result": [[DUNE]]}
        process.send_signal(number)
        assert process.wait(20) == 0, process.stderr.read()
        assert process.stderr.read().endswith("stopped\n")


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ValueError, match="cannot be had .*--port"):
        http_app.listen("127.0.0.1", taken.getsockname()[1])


def test_without_its_packages_the_command_says_what_to_install(monkeypatch, capsys):
    for name in http_app.PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
        assert cli.main(["serve-retriever", "--corpus", "x"]) == 2
        said = capsys.readouterr().err
        assert f"needs the package {name}" in said and "pip install 'qr_jax[search]'" in said
        monkeypatch.undo()


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
    given = {"batch": 7, "wait_s": 0.009, "k": 5, "queries": 6, "query_chars": 8, "body_bytes": 1000, "search_s": 4}
    assert served["limits"] == Limits(**given, connections=30)
    assert cli.main(["serve-retriever", "--corpus", str(corpus)]) == 0
    assert served["limits"] == Limits() and served["pages"] is None
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
