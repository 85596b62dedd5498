"""Retriever: a search tool of an MCP server, which is started here or asked over HTTP (search/mcp_client.py)."""

from collections.abc import Mapping

from qr_jax.data import limits
from qr_jax.dialect import encodable
from qr_jax.records import Passage, SearchFunction
from qr_jax.search import http_post
from qr_jax.search.mcp_client import check_server, connect
from qr_jax.search.protocols import passage_of
from qr_jax.settings import json_text

EXAMPLE = {"url": "http://127.0.0.1:8000/mcp"}
MOST_AT_ONCE = 16  # calls of a batch
LISTS = ("results", "result", "passages", "documents", "items", "hits")  # under which an object has its passages


def mcp(
    *,
    url: str = "",  # a server over streamable HTTP; or give a command
    command: str = "",  # starts a server that speaks over stdin and stdout; it gets none of our environment variables
    tool: str = "search",  # the tool that searches; no other is called
    query_name: str = "query",  # its argument for the query
    k_name: str = "k",  # its argument for the number of passages; empty: it has none
    token_env: str | None = None,  # the environment variable with a bearer token for the URL; none: none is sent
    query_chars: int = 2000,  # characters of a query; what is longer is cut
    timeout_s: float = 20.0,  # of a call, and of the server's start; keep it below rollout.search_deadline_s
    max_bytes: int = 1_000_000,  # of a result; a larger one is a fault
) -> SearchFunction:
    """Return a search by one tool of an MCP server, a call a query, and at most 16 at once.

    A result of JSON is read as passages: a list, or an object with one under "results", "documents" or the like, of
    texts or of objects with "text", "content" or "snippet", "title" and "id" or "url". Any other text is one passage.
    A call that fails, or whose result is too large, raises OSError, and is never an empty list.
    """
    check_server(url, command, "retriever")
    token = http_post.secret(token_env) if token_env else None
    connection, crew = connect(url or command, (tool,), timeout_s, max_bytes, token), http_post.Crew(MOST_AT_ONCE)

    def search(queries: list[str], k: int) -> list[list[Passage]]:
        more = {k_name: k} if k_name else {}

        def ask(query: str) -> list[Passage]:
            if not query.strip() or k <= 0:
                return []
            return passages_of(connection.call(tool, {query_name: encodable(query)[:query_chars], **more}))[:k]

        return crew.each(ask, queries)

    return search


def passages_of(text: str) -> list[Passage]:
    """Read a result as passages, its own order kept; a text that is no JSON list of passages is one passage."""
    try:
        value = json_text.read_bounded(text.encode("utf-8", "replace"), limits.MOST_ROW_ITEMS)
        if isinstance(value, Mapping):
            value = next((value[name] for name in LISTS if isinstance(value.get(name), list)), value)
        if isinstance(value, list):
            return [passage_of(item) for item in value]
    except ValueError:
        pass
    return [passage_of(text)] if text.strip() else []
