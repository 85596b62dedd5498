"""Tool: the named tools of an MCP server (Model Context Protocol, by the official package).

The server is a program of the user's own config, or a URL. A program gets none of this process's environment variables;
only the tools that are named can be called; what it sends is data (search/mcp_client.py).
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from qr_jax.errors import UserError
from qr_jax.records import Call, Passage
from qr_jax.search import http_post, mcp_client
from qr_jax.settings.settings import Count, Positive
from qr_jax.tools._of_run import schema_of

EXAMPLE = {"command": ("an-mcp-server",), "tools": ("add",)}
CREW = http_post.Crew(16)  # calls at once
TIMEOUT_S, MAX_BYTES = 20.0, 1_000_000  # a call and the schemas share a server where these are the same
SERVERS: dict[tuple[Any, ...], mcp_client.Connection] = {}  # for the run's environment and its searches
LOCK = threading.Lock()


def mcp(
    calls: Sequence[Call],
    *,
    tools: tuple[str, ...],  # that may be called
    command: tuple[str, ...] = (),  # the server's program and its arguments; it speaks over its input and output
    url: str = "",  # of a server over streamable HTTP, in place of a command
    token_env: str | None = None,  # the environment variable with a bearer token for the URL; none: none is sent
    prefix: str = "",  # of their names, where another tool has the same
    chars: Count = 4000,  # of one result; the rest is cut
    timeout_s: Positive = TIMEOUT_S,  # of one call, and of the server's start
    max_bytes: Count = MAX_BYTES,  # of one result's text; a longer one is a fault
) -> list[Passage]:
    """Return each call's text. A tool's own error is a text for the model; a server that fails is a fault: OSError."""
    server = _server(command, tools, timeout_s, max_bytes, url, token_env)

    def text(call: Call) -> str:
        name = call.tool.removeprefix(prefix)
        if name not in tools:
            return f"error: there is no tool {call.tool[:64]!r}"
        said, failed = server.result(name, call.given())
        return f"error: {said}" if failed else said

    return [Passage("", "", said[:chars]) for said in CREW.each(text, calls)]


def schemas(
    *,
    tools: tuple[str, ...],
    command: tuple[str, ...] = (),
    url: str = "",
    token_env: str | None = None,
    prefix: str = "",
    chars: int = 0,
    timeout_s: float = TIMEOUT_S,
    max_bytes: int = MAX_BYTES,
) -> list[Mapping[str, Any]]:
    """Return the schemas of the tools that may be called; ValueError if the server lacks one, or fails."""
    try:
        found = [tool["function"] for tool in _server(command, tools, timeout_s, max_bytes, url, token_env).tools()]
    except mcp_client.ToolFailed as error:
        raise UserError(f"the MCP server {(url or ' '.join(command))[:200]!r} lists no tools: {error}") from error
    return [
        schema_of(prefix + one["name"], one["description"], {"type": "object", **one["parameters"]}) for one in found
    ]


def _server(
    command: tuple[str, ...], tools: tuple[str, ...], timeout_s: float, max_bytes: int, url: str, token_env: str | None
) -> mcp_client.Connection:
    mcp_client.check_server(url, command, "tools.mcp")
    with LOCK:
        if (key := (url or command, tools, timeout_s, max_bytes, token_env)) not in SERVERS:
            token = http_post.secret(token_env) if token_env else None
            SERVERS[key] = mcp_client.connect(url or command, tools, timeout_s, max_bytes, token)
        return SERVERS[key]
