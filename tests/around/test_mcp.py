"""MCP by the official package (mcp 2.3), its real client and server against ours: over stdio and over loopback."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mcp", reason="the package mcp is not installed: pip install 'qr_jax[mcp]'")

from mcp import Client, StdioServerParameters

from qr_jax import trust
from qr_jax.cli import cli
from qr_jax.config import Config, use
from qr_jax.errors import UserError
from qr_jax.records import call_of
from qr_jax.search import mcp_client
from qr_jax.search.retrievers import mcp as retriever
from qr_jax.tools import mcp as tool

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    {"id": "n/1", "title": "Oslo", "text": "Oslo is the capital of Norway."},
    {"id": "n/2", "title": "Bergen", "text": "Bergen is a town in Norway, by the sea."},
    {"id": "s/1", "title": "Stockholm", "text": "Stockholm is the capital of Sweden."},
]
# A server of the package's own, none of ours, with what may go wrong.
OTHER = """
    import os
    import anyio
    from mcp.shared.exceptions import MCPError
    from mcp_types import EmbeddedResource, TextResourceContents
    from mcp.server.mcpserver import MCPServer
    server = MCPServer("other", log_level="ERROR")
    @server.tool()
    def lookup(text: str) -> str:
        return f"All about {text}. " + " ".join(sorted(os.environ))
    @server.tool()
    def large(text: str) -> str:
        return "x" * 5000
    @server.tool()
    async def slow(text: str) -> str:
        await anyio.sleep(30)
    @server.tool()
    def dies(text: str) -> str:
        os._exit(1)
    @server.tool()
    def refuses(text: str) -> str:
        raise MCPError(-32000, "no such record")
    @server.tool()
    def embedded(text: str) -> EmbeddedResource:
        return EmbeddedResource(type="resource", resource=TextResourceContents(uri="a://b", text="inside"))
    @server.tool()
    def fails(text: str) -> str:
        raise ValueError("no such thing")
    server.run("stdio")
"""


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "corpus.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.fixture
def other(tmp_path):
    (tmp_path / "other.py").write_text(textwrap.dedent(OTHER))
    opened = []

    def connected(*allowed, **how):
        opened.append(mcp_client.connect([sys.executable, str(tmp_path / "other.py")], allowed, **how))
        return opened[-1]

    yield connected
    for connection in opened:
        connection.close()


def command(corpus, *more):
    return [sys.executable, "-m", "qr_jax", "serve-retriever", "--corpus", str(corpus), "--access", "--mcp", *more]


@contextlib.contextmanager
def serving(corpus, *more, **variables):
    """`serve-retriever --mcp http` in a process; yields its URL."""
    env = os.environ | {"PYTHONPATH": str(ROOT), **variables}
    words = command(corpus, "http", "--port", "0", *more)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=env) as running:
        try:
            assert running.stderr is not None
            yield next(found[0] for line in running.stderr if (found := re.search(r"http://\S+/mcp", line)))
        finally:
            running.terminate()


def told(result):
    return [part.text for part in result.content]


def test_the_packages_client_searches_and_opens_over_stdio(corpus):
    async def asked():
        first, *words = command(corpus, "stdio", "--max-k", "2")
        server = StdioServerParameters(command=first, args=words, env={"PYTHONPATH": str(ROOT)})
        async with Client(server) as client:
            listed = (await client.list_tools()).tools
            found = await client.call_tool("search", {"query": "capital of Sweden", "k": 2})
            page = await client.call_tool("open", {"id": "n/2"})
            wrong = [
                await client.call_tool("search", {"query": "a", "k": 3}),
                await client.call_tool("open", {"id": "x"}),
            ]
        return listed, found, page, wrong

    listed, found, page, wrong = asyncio.run(asked())
    assert [tool.name for tool in listed] == ["search", "open"]
    assert listed[0].input_schema["properties"]["k"]["maximum"] == 2
    passages = json.loads(told(found)[0])
    assert [passage["id"] for passage in passages] == ["s/1", "n/1"] and passages[0]["score"] > passages[1]["score"]
    assert json.loads(told(page)[0])["text"] == ROWS[1]["text"]
    assert all(result.is_error for result in wrong) and "no passage 'x'" in told(wrong[1])[0]


def test_over_http_our_retriever_finds_what_bm25_finds(corpus):
    """The passages that come back are those of the corpus, in BM25's order, with its scores."""
    from qr_jax.data import readers
    from qr_jax.search.retrievers.bm25 import bm25

    queries = ["the capital of Norway", "a town by the sea", " "]
    with serving(corpus) as url:
        found = retriever.mcp(url=url)(queries, 2)
    assert found == [[*each] for each in bm25(corpus=readers.read_passages(corpus))(queries, 2)]
    assert found[1][0].id == "n/2" and found[2] == []


def test_over_http_our_search_is_a_tool_too(corpus):
    with serving(corpus) as url:
        (schema,) = tool.schemas(url=url, tools=("search",))
        assert schema["function"]["name"] == "search"
        (passage,) = tool.mcp([call_of("search", {"query": "the capital of Norway"})], url=url, tools=("search",))
    assert "Oslo" in passage.text
    with pytest.raises(ValueError, match="needs a url or a command, and not both"):
        tool.mcp([], url="http://127.0.0.1:1/mcp", command=("x",), tools=("search",))


def test_over_http_nothing_stays_open_after_the_end(corpus, monkeypatch):
    import httpx2

    made, opened = [], httpx2.AsyncClient
    monkeypatch.setattr(httpx2, "AsyncClient", lambda **how: made.append(opened(**how)) or made[-1])
    with serving(corpus) as url:
        connection = mcp_client.connect(url, ("search",))
        assert "Oslo" in connection.call("search", {"query": "the capital of Norway"})
        connection.close()
    assert [client.is_closed for client in made] == [True]


def test_over_http_a_token_is_wanted_where_there_is_one(corpus, monkeypatch):
    monkeypatch.setenv("PARTS_TOKEN", "0123456789abcdef")
    with serving(corpus, "--token-env", "PARTS_TOKEN", PARTS_TOKEN="0123456789abcdef") as url:
        with pytest.raises(OSError, match="gave no answer"):
            retriever.mcp(url=url, timeout_s=10.0)(["Oslo"], 1)
        assert retriever.mcp(url=url, token_env="PARTS_TOKEN")(["Oslo"], 1)[0][0].id == "n/1"


def test_a_permitted_tool_of_another_server_gets_no_variable(other, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "0123456789abcdef")
    connection = other("lookup")
    (schema,) = connection.tools()
    assert schema["function"]["name"] == "lookup" and "text" in schema["function"]["parameters"]["properties"]
    seen = connection.call("lookup", {"text": "Oslo"}).removeprefix("All about Oslo. ").split()
    assert {*seen} <= {"LC_CTYPE"}  # Python sets LC_CTYPE by itself
    with pytest.raises(UserError, match="'large' may not be called; allowed: lookup"):
        connection.call("large", {"text": "a"})


def test_a_tool_that_is_not_there_is_told_by_those_that_are(other):
    with pytest.raises(
        UserError, match="has no tool look; it has: dies, embedded, fails, large, lookup, refuses, slow"
    ):
        other("look").tools()


def test_what_is_too_large_or_fails_is_no_result(other):
    connection = other("large", "fails", max_bytes=4999)
    with pytest.raises(mcp_client.ToolFailed, match="gave 5,000 bytes; wanted at most 4,999"):
        connection.call("large", {"text": "a"})
    with pytest.raises(mcp_client.ToolFailed, match="'fails' failed"):
        connection.call("fails", {"text": "a"})


def test_a_slow_call_ends_and_a_dead_server_is_started_again(other):
    connection = other("slow", "dies", "lookup")
    connection.call("lookup", {"text": "a"})
    connection.timeout_s = 2.0  # of the calls alone: a busy machine takes longer to start a server
    begun = time.monotonic()
    with pytest.raises(mcp_client.ToolFailed, match="no answer"):
        connection.call("slow", {"text": "a"})
    assert time.monotonic() - begun < 20
    connection.timeout_s = 30.0
    with pytest.raises(mcp_client.ToolFailed, match="no answer"):
        connection.call("dies", {"text": "a"})
    assert connection.call("lookup", {"text": "b"}).startswith("All about b.")


def test_a_call_that_is_late_or_refused_leaves_its_neighbours_connection(other):
    connection = other("slow", "lookup", "refuses", "embedded")
    connection.call("lookup", {"text": "a"})
    client = connection._client
    connection.timeout_s = 3.0
    with ThreadPoolExecutor() as crew:
        slow = crew.submit(connection.call, "slow", {"text": "a"})
        time.sleep(1.0)
        assert connection.call("lookup", {"text": "b"}).startswith("All about b.")
        with pytest.raises(mcp_client.ToolFailed, match="no answer within 3 s"):
            slow.result()
    assert connection._client is client
    connection.timeout_s = 30.0
    with pytest.raises(mcp_client.ToolFailed, match="gave an error as its answer .MCPError: Internal server error"):
        connection._asked(lambda client: client.get_prompt("none"))
    with pytest.raises(mcp_client.ToolFailed, match="gave an error as its answer .MCPError: no such record"):
        connection.call("refuses", {"text": "a"})
    assert connection.call("embedded", {"text": "a"}) == "inside"
    assert connection._client is client


@pytest.mark.parametrize(
    "text, passages",
    [
        ('[{"id": 1, "title": "A", "text": "b", "score": 2}]', [("1", "A", "b", 2.0)]),
        ('{"results": [{"url": "http://a", "snippet": "b"}]}', [("http://a", "", "b", 0.0)]),
        ('["a b"]', [("23ed01767954bf94", "", "a b", 0.0)]),  # the SHA-256 of no title and its text
        ("a b", [("23ed01767954bf94", "", "a b", 0.0)]),
        ("[]", []),
        (" ", []),
    ],
)
def test_results_of_other_servers_are_read_by_hand(text, passages):
    assert [(p.id, p.title, p.text, p.score) for p in retriever.passages_of(text)] == passages


def test_queries_of_a_batch_are_asked_at_once_and_keep_their_order(monkeypatch):
    under_way, most = set(), []

    def call(tool, arguments):
        under_way.add(query := arguments["query"])
        most.append(len(under_way))
        time.sleep(0.05)
        under_way.discard(query)
        return query

    monkeypatch.setattr(retriever, "connect", lambda *how: SimpleNamespace(call=call))
    queries = [f"q{at}" for at in range(39)] + [" "]
    found = retriever.mcp(command="a server")(queries, 3)
    assert [[passage.text for passage in row] for row in found] == [[query] for query in queries[:39]] + [[]]
    assert 8 <= max(most) <= 16


def test_a_strangers_run_may_not_start_a_command():
    config = Config(retriever=use("mcp", command="rm -r /"))
    with pytest.raises(UserError, match="to start the program 'rm -r /'"):
        trust.check(config, "a run", trusted=False)


def test_the_command_is_played_as_a_retriever(corpus, capsys, tmp_path):
    """`recall` with retriever=mcp, whose server a command starts."""
    questions = tmp_path / "questions.jsonl"
    row = {"id": "q", "question": "the capital of Norway", "answers": ["Oslo"], "supporting": ["n/1"]}
    questions.write_text(json.dumps(row) + "\n")
    served = " ".join(["/usr/bin/env", f"PYTHONPATH={ROOT}", *command(corpus, "stdio")])
    words = ["recall", "--questions", str(questions), "--retriever", "mcp", f"command={served}", "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["recall"] == 1.0


def test_over_http_a_long_query_is_cut_and_one_connection_is_served(corpus):
    with serving(corpus, "--max-chars", "22", "--max-connections", "1") as url:
        (passage,) = retriever.mcp(url=url)(["the capital of Norway" + " nonsense" * 9], 1)[0]
    assert "Oslo" in passage.text
