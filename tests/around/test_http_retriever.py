"""The HTTP retrievers against real servers on loopback, also such as hang, lie, redirect or break off."""

import base64
import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
from loopback import Last, raw, server

from qr_jax.records import Passage
from qr_jax.rollout.tools import Fault, run_searches
from qr_jax.search import http_post
from qr_jax.search.check import check
from qr_jax.search.protocols import PROTOCOLS, contents, passage_of, rerank_results
from qr_jax.search.retrievers.http import http
from qr_jax.search.retrievers.serper import pages, serper


def found_for(query: str, k: int) -> list[dict]:
    return [
        {"document": {"id": f"{query}{i}", "contents": f'"T {query}"\nText {i}'}, "score": 1 / i}
        for i in range(1, k + 1)
    ]


def search_r1(head: str, body: dict) -> bytes:
    return raw({"result": [found_for(query, body["topk"]) for query in body["queries"]]})


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def slowly(head: str, body: dict) -> bytes:
    time.sleep(3)
    raise EOFError


def half(head: str, body: dict) -> bytes:
    return Last(raw(b'{"result": [[]]}   ')[:-3])


def once(head: str, body: dict) -> bytes:
    """Answered rightly, and the connection then closed without a word."""
    return Last(search_r1(head, body))


def quick(url: str, **settings):
    return http(url=url, **{"retries": 0, "timeout_s": 2.0, "deadline_s": 2.0} | settings)


def test_one_batch_is_one_request_and_the_title_is_the_first_line():
    with server(search_r1) as (url, asked):
        found = http(url=url)(["a", "b", " "], 2)
        assert found[0] == [Passage("a1", "T a", "Text 1", 1.0), Passage("a2", "T a", "Text 2", 0.5)]
        assert [one.id for one in found[1]] == ["b1", "b2"] and found[2] == []
    assert [body for _, body in asked] == [{"queries": ["a", "b"], "topk": 2, "return_scores": True}]
    assert asked[0][0].startswith("POST /retrieve HTTP/1.1")


def test_queries_beyond_a_batch_go_in_several_requests_and_come_back_in_order():
    with server(search_r1) as (url, asked):
        found = http(url=url, batch=2, at_once=2)([f"q{i}" for i in range(5)], 1)
    assert [some[0].id for some in found] == [f"q{i}1" for i in range(5)]
    assert sorted(len(body["queries"]) for _, body in asked) == [1, 2, 2]


def test_a_connection_that_was_closed_meanwhile_is_no_failure():
    with server(once) as (url, asked):
        search = quick(url, retries=1)  # the end of a connection may come after it was taken for the next request
        assert [search(["a"], 1)[0][0].id for _ in range(3)] == ["a1"] * 3
    assert len(asked) == 3


def test_long_queries_are_cut_and_half_characters_replaced():
    with server(search_r1) as (url, asked):
        quick(url, query_chars=3)(["abcdef", "\ud800"], 1)
    assert asked[0][1]["queries"] == ["abc", "?"]


@pytest.mark.parametrize(
    ("protocol", "path", "answer"),
    [
        ("search_r1", "/retrieve", {"result": [[{"id": 7, "contents": '"T"\nx'}]]}),  # bare documents
        ("search_r1", "/retrieve", {"result": [[{"document": {"id": "7", "contents": '"T"\nx'}}]]}),  # no score
        ("skyrl", "/retrieve", {"result": [[{"document": {"id": "7", "title": "T", "text": "x"}, "score": 0.0}]]}),
        ("flashrag", "/batch_search", [[{"id": "7", "contents": '"T"\nx'}]]),
        ("flashrag", "/batch_search", [[[{"id": "7", "contents": "T\nx"}]], [[0.0]]]),
        ("r1_searcher", "/queries", {"queries": ["a"], "answers": [[{"id": "7", "contents": "T\nx"}]]}),
    ],
)
def test_each_protocol_is_read_as_the_peers_write_it(protocol, path, answer):
    with server(raw(answer)) as (url, asked):
        assert quick(url, protocol=protocol)(["a"], 3) == [[Passage("7", "T", "x", 0.0)]]
    assert asked[0][0].startswith(f"POST {path} ")


def test_protocols_of_one_query_send_one_each():
    with server(lambda head, body: raw({"result": [found_for(body["query"], body["topk"])]})) as (url, asked):
        found = quick(url, protocol="skyrl")(["a", "b", "c"], 1)
    assert [some[0].id for some in found] == ["a1", "b1", "c1"] and len(asked) == 3


def test_two_queries_of_flashrag_are_not_taken_for_documents_and_scores():
    read = PROTOCOLS["flashrag"].results
    one, two = {"id": "1", "contents": "x"}, {"id": "2", "contents": "y"}
    assert [[p.id for p in some] for some in read([[one], [two]], 2, 1)] == [["1"], ["2"]]
    assert [[(p.id, p.score) for p in some] for some in read([[[one], [two]], [[3], [4]]], 2, 1)] == [
        [("1", 3)],
        [("2", 4)],
    ]
    assert read([[], []], 2, 1) == [[], []] and read([[[], []], [[], []]], 2, 1) == [[], []]


def test_a_passage_comes_back_from_what_is_sent_of_it():
    for passage in (Passage("1", "T", "x\ny"), Passage("1", 'The "T"', "x"), Passage("1", "", "x")):
        assert passage_of({"id": "1", "contents": contents(passage)}) == passage
    assert passage_of("only text").text == "only text" and passage_of("only text").id
    assert passage_of({"id": "1", "contents": "one line"}) == Passage("1", "", "one line")


@pytest.mark.parametrize(
    ("document", "passage"),
    [
        ({"id": "1", "title": None, "text": "x"}, Passage("1", "", "x")),
        ({"id": "1", "title": "T", "text": None}, Passage("1", "T", "")),
        ({"id": "1", "title": None, "text": None, "contents": '"T"\nx'}, Passage("1", "T", "x")),
        ({"id": "1", "contents": "x", "metadata": {"title": "T"}}, Passage("1", "T", "x")),
        ({"id": "1", "page_content": "x\ny", "metadata": {"title": "T"}}, Passage("1", "T", "x\ny")),
        ({"id": "1", "text": "x", "metadata": {"title": None}}, Passage("1", "", "x")),
        ({"id": "1", "text": "x", "metadata": None}, Passage("1", "", "x")),
        ({"id": "1", "title": "T", "contents": '"T"\nx'}, Passage("1", "T", "x")),
        ({"document": {"id": 7, "title": "", "text": "x"}, "score": None}, Passage("7", "", "x")),
    ],
)
def test_what_is_null_counts_as_empty(document, passage):
    """A null title made the search a fault, which named the fields that were there."""
    with server(raw({"result": [[document]]})) as (url, _):
        assert quick(url)(["a"], 3) == [[passage]]


@pytest.mark.parametrize("name", [None, ""])
def test_a_passage_without_an_id_is_named_by_its_text(name):
    with server(raw({"result": [[{"id": name, "title": "T", "text": text} for text in "xyx"]]})) as (url, _):
        first, second, third = quick(url)(["a"], 3)[0]
    assert first.id == third.id != second.id and first.id and "None" not in first.id


@pytest.mark.parametrize("field", ["id", "title", "text"])
def test_a_field_that_is_no_text_is_named(field):
    document = {"id": "1", "title": "T", "text": "x"} | {field: [1]}
    says = f"a passage has '{field}' of type list; wanted a text, or null for none"
    with server(raw({"result": [[document]]})) as (url, _), pytest.raises(ValueError, match=says):
        quick(url)(["a"], 3)


@pytest.mark.parametrize("title", [1982, ["T"], {"en": "T"}, True])
def test_a_title_in_the_metadata_that_is_no_text_is_named(title):
    """The passage came without its title, and no word said so."""
    document = {"id": "1", "text": "x", "metadata": {"title": title, "page": 3}}
    says = f"a passage has 'metadata.title' of type {type(title).__name__}; wanted a text, or null .*: title, page"
    with server(raw({"result": [[document]]})) as (url, _), pytest.raises(ValueError, match=says):
        quick(url)(["a"], 3)
    assert passage_of(document | {"title": "T"}).title == "T", "it is not looked at beside a title"


def test_null_titles_and_snippets_of_the_web_and_null_ids_of_a_reranker_count_as_empty():
    (page,) = pages({"organic": [{"link": "http://a.b", "title": None, "snippet": None}]}, 3)
    assert page == Passage("http://a.b", "", "", 1.0)
    passage = Passage("1", "T", "x")
    ranked = rerank_results({"result": [[{"document": {"id": None, "contents": contents(passage)}}]]}, [passage])
    assert ranked == [passage.scored(0.0)]


@pytest.mark.parametrize(
    ("reply", "settings", "says"),
    [
        (raw(b"<html>", "200 OK"), {}, "200: '<html>'; that is no JSON"),
        (raw(b'{"result": [[{"id": "1", "contents": "x", "score": NaN}]]}'), {}, "no JSON"),
        (raw(b"[" * 100_000), {}, "no JSON"),
        (raw({"detail": "topk"}, "422 Unprocessable"), {}, "422: .*topk"),
        (raw({}, "500 Internal Server Error"), {}, "answered 500"),
        (raw(b"", "302 Found", "Location: http://127.0.0.1:1/x"), {}, "redirect to 'http://127.0.0.1:1/x' is not"),
        (raw(b"x" * 2000), {"response_bytes": 1000}, "more than 1,000 bytes"),
        (CHUNKED + b"7d0\r\n" + b"x" * 2000, {"response_bytes": 1000}, "more than 1,000 bytes"),
        (CHUNKED + b"-1\r\n" + b"x" * 2000, {"response_bytes": 1000}, "gave no answer"),
        (half, {}, "gave no answer|half a body"),
        (b"", {"deadline_s": 0.3}, "gave no answer: (timed out|it was too slow)"),
        (b"nonsense\r\n\r\n", {}, "gave no answer"),
        (slowly, {"timeout_s": 0.3}, "gave no answer: (timed out|it was too slow)"),
        (raw({"results": [[]]}), {}, "has no 'result' .fields results."),
        (raw({"result": []}), {}, "a list of 0 for 1 queries"),
        (raw({"result": {}}), {}, "is a dict"),
        (raw({"result": [[3]]}), {}, "a passage is a int"),
        (raw({"result": [[{"id": "1"}]]}), {}, "wanted id and contents"),
        (raw({"result": [[{"document": {"id": "1", "contents": "x"}, "score": "high"}]]}), {}, "the score 'high'"),
        (raw(b'{"result": [[{"id": "1", "contents": "x", "score": %d}]]}' % 10**400), {}, "beyond float64"),
        (raw({"result": [[]]}, "200 OK", "Content-Encoding: gzip"), {}, "compressed"),
    ],
)
def test_what_is_no_right_answer_is_an_error_and_a_fault(reply, settings, says):
    with server(reply) as (url, _):
        with pytest.raises((OSError, ValueError), match=says):
            quick(url, **settings)(["a"], 1)
        done = run_searches(quick(url, **settings), ["a"], 1, deadline_s=5.0, retries=0, passage_chars=1000)
    assert isinstance(done.by_query["a"], Fault) and url in done.by_query["a"].reason


@pytest.mark.parametrize("protocol", ["search_r1", "skyrl", "r1_searcher", "flashrag"])
def test_what_a_server_sends_beyond_k_is_not_looked_at(protocol):
    items = [{"id": "1", "contents": "x"}, {"id": "2", "contents": "y"}, "no id", 3, None]
    key = {"flashrag": None, "r1_searcher": "answers"}.get(protocol, "result")
    with server(raw({key: [items]} if key else [items])) as (url, _):
        search = quick(url, protocol=protocol)
        assert [passage.id for passage in search(["a"], 2)[0]] == ["1", "2"]
        with pytest.raises(ValueError, match="a passage is a int"):
            search(["a"], 4)
    if protocol == "flashrag":
        scored = PROTOCOLS[protocol].results([[items], [[3, 2, "high", None, 1]]], 1, 2)
        assert [(passage.id, passage.score) for passage in scored[0]] == [("1", 3.0), ("2", 2.0)]


RESPONSE_BYTES = 4_000_000
FULL = RESPONSE_BYTES - 100
ANSWERS_OF_THE_ALLOWED_SIZE = {
    "texts": (b'"a",' * (FULL // 4) + b'"a"', "texts; at most 125,002 are taken"),
    "objects": (b"{}," * (FULL // 3) + b"{}", "commas, lists and objects; at most 62,500 are taken"),
    "keys": (b'{"0":0' + b"".join(b',"%d":0' % at for at in range(FULL // 12)) + b"}", "texts; at most 125,002"),
    "keys that are allowed": (b'{"0":0' + b"".join(b',"%d":0' % at for at in range(62_000)) + b"}", "wanted id and"),
    "one text": (b'"' + b"a" * FULL + b'"', ""),
    "one text of two bytes a character": (('"東' + "a" * FULL + '"').encode(), ""),
}


@pytest.mark.parametrize("name", ANSWERS_OF_THE_ALLOWED_SIZE)
def test_an_answer_of_the_allowed_size_takes_less_than_8_times_that(name):
    items, says = ANSWERS_OF_THE_ALLOWED_SIZE[name]
    reply = raw(b'{"result": [[' + items + b"]]}")
    with server(reply) as (url, _):
        search = quick(url, response_bytes=RESPONSE_BYTES, timeout_s=20.0, deadline_s=20.0)
        tracemalloc.start()
        try:
            if says:
                with pytest.raises((OSError, ValueError), match=says):
                    search(["a"], 3)
            else:
                assert len(search(["a"], 3)[0]) == 1
            assert tracemalloc.get_traced_memory()[1] < 8 * RESPONSE_BYTES
        finally:
            tracemalloc.stop()


def test_the_thread_of_a_search_ends_soon_after_a_lying_answer():
    with server(raw(b'{"result": [[' + b'"a",' * 3_900_000 + b'"a"]]}')) as (url, _):
        begun = time.monotonic()
        done = run_searches(quick(url), ["a", "b"], 3, deadline_s=2.0, retries=0, passage_chars=1000)
        while any(thread.name == "search" for thread in threading.enumerate()):
            time.sleep(0.01)
        assert time.monotonic() - begun < 4
    assert isinstance(done.by_query["a"], Fault) and "texts; at most" in done.by_query["a"].reason


def test_bytes_that_drip_do_not_outlast_the_deadline():
    listening = socket.create_server(("127.0.0.1", 0))

    def dripping() -> None:
        connection, _ = listening.accept()
        with connection:
            try:
                for _ in range(100):
                    connection.sendall(b"H")
                    time.sleep(0.05)
            except OSError:
                pass

    threading.Thread(target=dripping, daemon=True).start()
    begun = time.monotonic()
    with listening, pytest.raises(OSError, match="too slow|timed out"):
        quick(f"http://127.0.0.1:{listening.getsockname()[1]}", deadline_s=0.4)(["a"], 1)
    assert time.monotonic() - begun < 2


def test_nobody_there_is_said_with_the_url():
    with pytest.raises(OSError, match=r"http://127.0.0.1:1/retrieve gave no answer: .*is the server running"):
        quick("http://127.0.0.1:1")(["a"], 1)


def test_a_passing_failure_is_tried_again_and_a_refusal_is_not():
    failing = raw({}, "503 Service Unavailable", "Retry-After: 0")
    with server(failing, half, search_r1) as (url, asked):
        assert quick(url, retries=2, deadline_s=5.0)(["a"], 1)[0][0].id == "a1"
    assert len(asked) == 3
    with server(raw({}, "404 Not Found")) as (url, asked), pytest.raises(OSError, match="404"):
        quick(url, retries=5)(["a"], 1)
    assert len(asked) == 1


def test_a_server_that_asks_to_wait_is_waited_for():
    begun = time.monotonic()
    with server(raw({}, "503 Service Unavailable", "Retry-After: 1"), search_r1) as (url, _):
        assert quick(url, retries=1, deadline_s=5.0)(["a"], 1)[0][0].id == "a1"
    assert 1.0 <= time.monotonic() - begun < 3.0


def test_a_server_that_asks_to_wait_longer_than_there_is_time_is_not_waited_for():
    begun = time.monotonic()
    with server(raw({}, "429 Too Many Requests", "Retry-After: 60")) as (url, _), pytest.raises(OSError, match="429"):
        quick(url, retries=5, deadline_s=2.0)(["a"], 1)
    assert time.monotonic() - begun < 1.5


def test_a_server_that_keeps_failing_is_left_alone_and_then_asked_again():
    with server(raw({}, "500 Oops"), raw({}, "500 Oops"), search_r1) as (url, asked):
        search = quick(url, pause_after=2, pause_s=0.6, deadline_s=0.5)
        for _ in range(2):
            with pytest.raises(OSError, match="500"):
                search(["a"], 1)
        with pytest.raises(OSError, match="failed 2 times in a row and is left alone.*500"):
            search(["a"], 1)  # the pause is longer than its deadline
        assert len(asked) == 2
        time.sleep(0.15)
        begun = time.monotonic()
        assert search(["a"], 1)[0][0].id == "a1"  # waits for the rest of the pause
        assert 0.1 < time.monotonic() - begun < 0.6


def test_one_bad_query_does_not_fault_the_rest_of_a_rollout():
    def reply(head: str, body: dict) -> bytes:
        return raw({}, "400 Bad Request") if "bad" in body["queries"] else search_r1(head, body)

    with server(reply) as (url, _):
        done = run_searches(quick(url), ["a", "bad", "b"], 1, deadline_s=10.0, retries=1, passage_chars=1000)
    assert isinstance(done.by_query["bad"], Fault) and done.failed == 1
    assert [one.id for one in done.by_query["a"]] == ["a1"]  # type: ignore[union-attr]


def test_a_token_comes_from_the_environment_and_is_in_no_message(monkeypatch):
    monkeypatch.setenv("LAB_TOKEN", "s3cr3t-0f-the-lab")
    echo = lambda head, body: raw(head.encode(), "500 Oops")  # noqa: E731
    with server(echo) as (url, asked), pytest.raises(OSError) as error:
        quick(url, token_env="LAB_TOKEN")(["a"], 1)
    assert "Authorization: Bearer s3cr3t-0f-the-lab" in asked[0][0]
    assert "s3cr3t" not in str(error.value) and "POST" in str(error.value)
    token = "s3cr3t-0f-the-lab"
    cut = raw(b"x" * 185 + token.encode(), "401 Unauthorized")
    for reply in (raw({token: 1}), raw({"result": [[{token: 1}]]}), cut):
        with server(reply) as (url, _), pytest.raises((ValueError, OSError)) as error:
            quick(url, token_env="LAB_TOKEN")(["a"], 1)
        assert "s3cr3t" not in str(error.value) and ("[redacted]" in str(error.value) or reply is cut)
    for name, value in (("LAB_TOKEN", "x"), ("LAB_TOKEN", "with a\nbreak"), ("LAB_TOKEN", ""), ("LAB", "s3cr3t-0f")):
        monkeypatch.setenv(name, value)
        with pytest.raises(ValueError) as refused:
            http(url="http://127.0.0.1:1", token_env=name)
        assert value == "" or value not in str(refused.value).replace("LAB_TOKEN", "") or len(value) == 1


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "127.0.0.1:8000",
        "http://",
        "http://u:p@host/",
        "http://host/?api_key=abcdef",
        "http://h:x",
        "http://[::1",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_before_a_call(url):
    with pytest.raises(ValueError, match="wanted http://") as error:
        http(url=url)
    assert "abcdef" not in str(error.value) and "u:p" not in str(error.value)
    with pytest.raises(ValueError, match="timeout_s is 0"):
        http(url="http://host", timeout_s=0.0)


@pytest.mark.parametrize("url", ["http://sök.example/", "http://host/?q=ö"])
def test_a_url_s_letters_are_those_that_a_request_can_hold(url):
    with pytest.raises(ValueError, match="letters that are not ASCII; wanted a host as DNS has it"):
        http(url=url)


# ---- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A file with a key and its own certificate, for 127.0.0.1 and search.test."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make a certificate with")
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test -addext"
    names = "subjectAltName=IP:127.0.0.1,DNS:search.test"
    made = ["openssl", *words.split(), names, "-keyout", str(file), "-out", str(file.with_suffix(".crt"))]
    subprocess.run(made, check=True, capture_output=True)
    file.write_text(file.read_text() + file.with_suffix(".crt").read_text())
    return file


def test_over_tls_only_a_certificate_that_is_trusted_will_do(certificate, monkeypatch):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with server(search_r1, tls=tls) as (url, _):
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            quick(url)(["a"], 1)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_suffix(".crt")))
        search = quick(url)
        assert [search(["a"], 1)[0][0].id for _ in range(2)] == ["a1"] * 2
    with server(slowly, tls=tls) as (url, _), pytest.raises(OSError, match="timed out|too slow"):
        quick(url, timeout_s=0.3)(["a"], 1)


def test_beyond_this_machine_tls_goes_through_the_environments_proxy(certificate, monkeypatch):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    wishes: list[bytes] = []
    with server(search_r1, tls=tls) as (url, _), socket.create_server(("127.0.0.1", 0)) as listening:

        def proxy() -> None:
            here, _ = listening.accept()
            with here, socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as there:
                wishes.append(here.recv(65536))
                here.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=pass_on, args=(there, here), daemon=True)
                back.start()
                pass_on(here, there)
                back.join(5)

        threading.Thread(target=proxy, daemon=True).start()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_suffix(".crt")))
        monkeypatch.setenv("https_proxy", f"http://me:pass@127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert quick("https://search.test")(["a"], 1)[0][0].id == "a1"
        assert quick(url)(["a"], 1)[0][0].id == "a1"  # loopback takes no proxy: this one would not answer twice
    assert wishes[0].startswith(b"CONNECT search.test:443 HTTP/1.") and b"Basic bWU6cGFzcw==" in wishes[0]


def pass_on(here: socket.socket, there: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := here.recv(65536):
            there.sendall(data)
        there.shutdown(socket.SHUT_WR)


# ---- DeepResearchGym

CLUEWEB = {"URL": "https://e.org/1", "URL-hash": "AB", "ClueWeb22-ID": "clueweb22-en0001", "Clean-Text": "A b.\nC"}
FINEWEB = {"id": "<urn:uuid:1>", "url": "https://e.org/2", "text": "D e."}


def packed(*documents: object) -> bytes:
    texts = [document if isinstance(document, bytes) else json.dumps(document).encode() for document in documents]
    return raw({"results": [base64.b64encode(text).decode() for text in texts]})


def gym(url: str, **settings):
    return quick(url, protocol="deepresearchgym", **settings)


def test_deepresearchgym_is_asked_by_get_with_its_key_in_a_header(monkeypatch):
    monkeypatch.setenv("CLUEWEB_API_KEY", "k3y-of-clueweb")
    other = {"Clean-Text": "D", "URL": "https://e.org/3"}
    with server(packed(CLUEWEB, {"Clean-Text": None, "URL": "https://e.org/2"}, other, CLUEWEB)) as (url, asked):
        found = gym(url, token_env="CLUEWEB_API_KEY")(["who & where?", " "], 3)
    shown = [Passage("clueweb22-en0001", "", "A b.\nC", 1.0), Passage("https://e.org/3", "", "D", 1 / 3)]
    assert found == [shown, []]  # a document without text is none
    (head, body), *more = asked
    assert head.startswith("GET /search?query=who%20%26%20where%3F&k=3 HTTP/1.1\n") and not body and not more
    assert "X-API-Key: k3y-of-clueweb\n" in head


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_documents_of_deepresearchgym_in_another_base64_or_with_a_byte_order_mark_are_read(mark):
    """Three question marks and tildes make / and + in the usual alphabet, _ and - in that of addresses."""
    text = "~~~???>>>ÿ b"
    written = (mark + json.dumps({"Clean-Text": text, "URL": "u"}, ensure_ascii=False)).encode()
    usual, other = base64.b64encode(written).decode(), base64.urlsafe_b64encode(written).decode()
    assert usual != other and {"-", "_"} & {*other}
    for row in (usual, other, usual.rstrip("="), other.rstrip("="), f"{other[:9]}\n{other[9:]}"):
        with server(raw({"results": [row]})) as (url, _):
            assert gym(url)(["a"], 1) == [[Passage("u", "", text, 1.0)]]


def test_fineweb_of_deepresearchgym_has_a_path_and_names_of_its_own():
    with server(packed(FINEWEB)) as (url, asked):
        assert gym(f"{url}/fineweb/search")(["a"], 3) == [[Passage("<urn:uuid:1>", "", "D e.", 1.0)]]
    assert asked[0][0].startswith("GET /fineweb/search?query=a&k=3 ") and "x-api-key" not in asked[0][0].lower()


def test_a_missing_key_of_deepresearchgym_is_said_before_any_request(monkeypatch):
    monkeypatch.delenv("CLUEWEB_API_KEY", raising=False)
    with pytest.raises(ValueError, match="CLUEWEB_API_KEY is not set"):
        gym("https://clueweb22.us")
    gym("https://clueweb22.us/fineweb/search")
    monkeypatch.setenv("CLUEWEB_API_KEY", "k3y-of-clueweb")
    with pytest.raises(ValueError, match="wanted https://, so that the key stays secret"):
        gym("http://clueweb22.us")
    for url in ("https://clueweb22.us", "https://clueweb22.us/fineweb/search", "https://CLUEWEB22.us:443/search"):
        assert PROTOCOLS["deepresearchgym"].headers(url, None) == {"X-API-Key": "k3y-of-clueweb"}
    for url in ("https://clueweb22.us.evil.example", "http://127.0.0.1:8000"):
        assert PROTOCOLS["deepresearchgym"].headers(url, None) is None
    assert PROTOCOLS["search_r1"].headers("https://clueweb22.us", None) is None
    with pytest.raises(ValueError, match="wanted http://HOST"):
        gym("http://[")


@pytest.mark.parametrize(
    ("reply", "settings", "says"),
    [
        (raw({"results": ["a!b"]}), {}, "document 1 is no base64: 'a!b'"),
        (raw({"results": ["YQa=b"]}), {}, "document 1 is no base64"),
        (raw({"results": ["YQabc"]}), {}, "document 1 is no base64"),  # no number of bytes has five signs
        (raw({"results": ["!" + base64.b64encode(b"{}").decode()]}), {}, "document 1 is no base64: '!e30='"),
        (raw({"results": [3]}), {}, "document 1 is a int; wanted a text in base64"),
        (packed(CLUEWEB, b"<html>"), {}, "document 2 is base64 of b'<html>', which is no JSON"),
        (packed(b"[" * 5000), {}, "which is no JSON"),
        (packed(b"[" + b"[]," * 20_000), {}, "document 1 has 40,001 commas, lists and objects; at most 10,000"),
        (packed([CLUEWEB]), {}, "document 1 has a list; wanted Clean-Text"),
        (packed({"URL": "u", "title": "t"}), {}, "document 1 has URL, title; wanted Clean-Text"),
        (packed({"Clean-Text": 7}), {}, "'Clean-Text' of type int"),
        (raw({"result": []}), {}, "has no list 'results' .result."),
        (raw({"results": {}}), {}, "has no list 'results'"),
        (raw([]), {}, "has no list 'results' .list."),
        (raw(b"<html>"), {}, "200: '<html>'; that is no JSON"),
        (raw({"detail": "bad key"}, "403 Forbidden"), {}, "answered 403: .*bad key"),
        (raw({}, "429 Too Many Requests", "Retry-After: 60"), {"retries": 5}, "answered 429"),
        (raw({}, "502 Bad Gateway"), {}, "answered 502"),
        (raw(b"", "301 Moved", "Location: https://e.org/search"), {}, "redirect to 'https://e.org/search' is not"),
        (packed({"Clean-Text": "x" * 2000}), {"response_bytes": 1000}, "more than 1,000 bytes"),
    ],
)
def test_an_odd_answer_of_deepresearchgym_is_an_error_and_a_fault(reply, settings, says):
    with server(reply) as (url, asked):
        with pytest.raises((OSError, ValueError), match=says):
            gym(url, **settings)(["a"], 3)
        assert len(asked) == 1
        how = {"deadline_s": 5.0, "retries": 0, "passage_chars": 1000}
        done = run_searches(gym(url, **settings), ["a"], 3, **how)
    assert isinstance(done.by_query["a"], Fault) and url in done.by_query["a"].reason


def test_an_empty_answer_of_deepresearchgym_finds_nothing():
    with server(raw({"results": []})) as (url, _):
        assert gym(url)(["a"], 3) == [[]]


def test_deepresearchgym_is_asked_again_after_the_seconds_it_names():
    begun = time.monotonic()
    with server(raw({}, "429 Too Many Requests", "Retry-After: 1"), packed(CLUEWEB)) as (url, asked):
        (found,) = gym(url, retries=1, deadline_s=5.0)(["a"], 1)
    assert [passage.id for passage in found] == ["clueweb22-en0001"] and len(asked) == 2
    assert 1.0 <= time.monotonic() - begun < 4.0


def test_a_key_that_deepresearchgym_echoes_in_base64_is_in_no_passage_and_no_error(monkeypatch):
    monkeypatch.setenv("CLUEWEB_API_KEY", "k3y-of-clueweb")
    with server(packed({"Clean-Text": "you sent k3y-of-clueweb", "id": "1"})) as (url, _):
        assert gym(url, token_env="CLUEWEB_API_KEY")(["a"], 1)[0][0].text == "you sent [redacted]"
    with server(packed(b"k3y-of-clueweb")) as (url, _), pytest.raises(ValueError, match="no JSON") as told:
        gym(url, token_env="CLUEWEB_API_KEY")(["a"], 1)
    assert "k3y" not in str(told.value)


def test_a_query_is_cut_to_what_an_address_has_room_for():
    with server(packed(CLUEWEB)) as (url, asked):
        gym(url)(["\u6771" * 2000, "a" * 2000], 1)
    sent = sorted(len(head.split("query=")[1].split("&")[0]) for head, _ in asked)
    assert sent == [2000, 9 * (4000 // 9)]


def test_retriever_check_asks_deepresearchgym(monkeypatch):
    monkeypatch.setenv("CLUEWEB_API_KEY", "k3y-of-clueweb")
    with server(packed(*({"ClueWeb22-ID": f"c{at}", "Clean-Text": "x y"} for at in range(3)))) as (url, asked):
        found = check(url, "deepresearchgym", k=3, calls=3, token_env="CLUEWEB_API_KEY")
    assert all("X-API-Key: k3y-of-clueweb" in head and head.startswith("GET ") for head, _ in asked)
    assert not [problem for problem in found["problems"] if not problem.startswith("k:")]


# ---- Serper


def test_serper_sends_its_key_and_reads_pages(monkeypatch):
    monkeypatch.setenv("SERPER_API_KEY", "k3y-of-serper")
    pages = [{"title": "T", "link": "https://e.org/1", "snippet": "S", "position": 1}, {"link": "https://e.org/2"}]
    with server(raw({"organic": pages})) as (url, asked):
        found = serper(url=url, country="us")(["a", ""], 5)
    assert found == [[Passage("https://e.org/1", "T", "S", 1.0), Passage("https://e.org/2", "", "", 0.5)], []]
    assert asked[0][1] == {"q": "a", "num": 5, "gl": "us"} and "X-API-KEY: k3y-of-serper" in asked[0][0]


def test_serper_without_a_key_or_over_plain_http_is_refused(monkeypatch):
    monkeypatch.delenv("SERPER_API_KEY", raising=False)
    with pytest.raises(ValueError, match="SERPER_API_KEY is not set"):
        serper()
    monkeypatch.setenv("SERPER_API_KEY", "k3y-of-serper")
    with pytest.raises(ValueError, match="wanted https"):
        serper(url="http://google.serper.dev/search")
    refusal = raw({"message": "no credits for k3y-of-serper"}, "403 Forbidden")
    with server(refusal) as (url, _), pytest.raises(OSError, match="403.*no credits for .redacted."):
        serper(url=url)(["a"], 1)
    with server(raw({"organic": [{"title": 1}]})) as (url, _), pytest.raises(ValueError, match="'title' of type int"):
        serper(url=url)(["a"], 1)
    with server(raw({"error": 1})) as (url, _), pytest.raises(ValueError, match="found: error"):
        serper(url=url)(["a"], 1)
    with server(raw({"k" * 100_000: 1})) as (url, _), pytest.raises(ValueError, match=r"found: k{200}\)"):
        serper(url=url)(["a"], 1)


def test_loopback_needs_no_proxy(monkeypatch):
    monkeypatch.setitem(os.environ, "http_proxy", "http://127.0.0.1:1")
    with server(search_r1) as (url, _):
        assert quick(url)(["a"], 1)[0][0].id == "a1"


def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(ValueError, match=r"'https://\[redacted\]@host/retrieve'; wanted .* without a key") as refused:
        http(url="https://ada:hunter2@host/retrieve")
    assert "hunter2" not in str(refused.value)


def test_calls_share_the_threads_that_earlier_ones_used():
    """A thread's place in the heap keeps what its largest answer took."""
    crew = http_post.Crew(4)
    used = {ident for _ in range(20) for ident in crew.each(lambda _: threading.get_ident(), [0])}
    assert len(used) == 1 and used <= {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
    together = threading.Barrier(4, timeout=10)
    assert len(set(crew.each(lambda _: together.wait(), range(4)))) == 4
    with pytest.raises(ZeroDivisionError):
        crew.each(lambda item: 1 // item, [1, 0])
