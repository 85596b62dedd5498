"""A connection to an MCP server: its permitted tools' schemas and their calls, with a plain synchronous interface.

The `mcp` package (the official SDK) speaks the protocol, in a thread of its own. A server that is started here gets no
environment variable, so that no key of ours reaches it. What it says is data.
"""

import asyncio
import contextlib
import json
import logging
import math
import re
import shlex
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from qr_jax.errors import UserError
from qr_jax.logging.secrecy import redact
from qr_jax.search import http_post

if TYPE_CHECKING:
    from mcp import Client

INVALID_ARGUMENTS = -32602  # JSON-RPC's
MOST_PAGES = 100  # of a server's list of tools
CLOSING_S = 8.0  # longer than the SDK takes to end a server that does not end by itself


class ToolFailed(OSError):
    """A call of a tool had no result: it failed, was too slow, or its result was too large."""


def connect(
    server: str | Sequence[str],
    allowed: Sequence[str],
    timeout_s: float = 30.0,
    max_bytes: int = 1_000_000,
    token: str | None = None,
) -> "Connection":
    """Return a connection to a server: a URL (streamable HTTP), or a command that starts it (stdio), a text or words.

    It opens at its first use, and anew after a failure. `allowed`: the tools that may be called; `timeout_s` is for the
    opening and for each call; `max_bytes` for a result's text. `token` goes to a URL as its bearer. UserError where the
    package is missing, or nothing is named.
    """
    check_package()
    if not server or not allowed:
        raise UserError("an MCP connection needs a server, a URL or a command, and the names of the tools it may call")
    if isinstance(server, str):
        try:
            shlex.split(server)
        except ValueError as error:
            raise UserError(f"the command {server[:200]!r} cannot be split into words: {error}") from error
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # a line that is no message would be told with a traceback
    return Connection(server, tuple(allowed), timeout_s, max_bytes, token)


def check_server(url: str, command: Any, setting: str) -> None:
    """Raise UserError unless a plug-in's settings give a URL that can be asked or a command, and not both."""
    if bool(url) == bool(command):
        raise UserError(f"mcp needs a url or a command, and not both: {setting}.url=http://HOST:PORT/mcp")
    if url:
        http_post.url_parts(url)


def check_package() -> None:
    """Raise UserError if the package mcp, of version 2 or later, is missing."""
    try:
        from mcp import Client as Client
    except ImportError as error:
        found = f"an MCP server or client needs the package mcp>=2 ({error})"
        raise UserError(f"{found}: pip install 'qr_jax[mcp]'") from error


class Connection:
    """An open server; several threads may call. `close` ends a server that was started here."""

    def __init__(
        self, server: str | Sequence[str], allowed: tuple[str, ...], timeout_s: float, max_bytes: int, token: str | None
    ):
        self.allowed, self.timeout_s, self.max_bytes = allowed, timeout_s, max_bytes
        self._server, self._token = server, token
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="mcp", daemon=True).start()
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._answered = -math.inf  # when the server last answered, of time.monotonic
        self._closing: asyncio.Event | None = None
        self._held: Future[None] | None = None
        self._ended = threading.Event()

    def tools(self) -> list[dict[str, Any]]:
        """Return the permitted tools as chat templates and endpoints take them; UserError if one is not there."""
        there = {tool.name: tool for tool in self._asked(_listed)}
        if lacking := [name for name in self.allowed if name not in there]:
            raise UserError(f"the MCP server has no tool {', '.join(lacking)}; it has: {', '.join(sorted(there))}")
        return [
            {
                "type": "function",
                "function": {
                    "name": name,
                    "description": there[name].description or "",
                    "parameters": there[name].input_schema,
                },
            }
            for name in self.allowed
        ]

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        """Return the text of a tool's result. ToolFailed, an OSError: none came; UserError: the tool is not allowed."""
        text, failed = self.result(name, arguments)
        if failed:
            raise ToolFailed(f"the MCP tool {name!r} failed: {redact(text)[:200]!r}")
        return text

    def result(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        """Return the text of a result, and whether it tells of a failure or of wrong arguments; else as `call`."""
        if name not in self.allowed:
            raise UserError(f"the MCP tool {name!r} may not be called; allowed: {', '.join(self.allowed)}")
        result = self._asked(lambda client: _called(client, name, arguments))
        if isinstance(result, str):
            return result, True
        parts = [_text(part) for part in result.content]
        if not parts and result.structured_content is not None:
            parts = [json.dumps(result.structured_content, ensure_ascii=False)]
        text = "\n".join(parts)
        if (size := len(text.encode("utf-8", "replace"))) > self.max_bytes:
            raise ToolFailed(f"the MCP tool {name!r} gave {size:,} bytes; wanted at most {self.max_bytes:,}")
        return text, bool(result.is_error)

    def close(self) -> None:
        """End the connection, and the server if it was started here."""
        with self._lock:
            held, closing, ended = self._held, self._closing, self._ended
            is_open = self._client is not None
            self._client = self._closing = self._held = None
        if held is None or closing is None:
            return
        if is_open:
            self._loop.call_soon_threadsafe(closing.set)
        else:  # it still opens, and looks at nothing
            held.cancel()
        if not ended.wait(CLOSING_S):  # a server that does not end by then is left behind
            held.cancel()

    def _asked(self, ask: Any) -> Any:
        """Return the answer to a request, or raise ToolFailed or UserError.

        A failure closes the connection, for the next request to open another, unless the server has answered something
        since the request began: others may be waiting for its answers.
        """
        began, waiting = time.monotonic(), None
        try:
            client = self._opened()
            waiting = asyncio.run_coroutine_threadsafe(ask(client), self._loop)
            answer = waiting.result(self.timeout_s)
            self._answered = time.monotonic()
            return answer
        except Exception as error:  # the SDK's own, of a group of tasks, or of a pipe: for us no answer came
            if waiting is not None:
                waiting.cancel()
            is_late = isinstance(error, TimeoutError)
            is_answer = waiting is not None and not is_late and not _is_broken(error)
            if is_answer:
                self._answered = time.monotonic()
            elif waiting is not None and (not is_late or self._answered < began):
                self.close()
            if isinstance(error, UserError):
                raise
            why = f"within {self.timeout_s:g} s" if is_late else f"({_first(error)})"
            raise ToolFailed(f"the MCP server gave {'an error as its' if is_answer else 'no'} answer {why}") from error

    def _opened(self) -> "Client":
        with self._lock:
            if self._client is None:
                ready: Future[Client] = Future()
                self._closing, self._ended = asyncio.Event(), threading.Event()
                self._held = asyncio.run_coroutine_threadsafe(self._hold(ready, self._closing, self._ended), self._loop)
                try:
                    self._client = ready.result(self.timeout_s)
                except BaseException:  # while the lock is held: the next caller opens another
                    self._held.cancel()
                    self._held = self._closing = None
                    raise
            return self._client

    async def _hold(self, ready: "Future[Client]", closing: asyncio.Event, ended: threading.Event) -> None:
        """Hold the client open in one task, as the SDK wants it, until it is to be closed."""
        try:
            async with contextlib.AsyncExitStack() as closed_at_the_end, await self._made(closed_at_the_end) as client:
                ready.set_result(client)
                await closing.wait()
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)
        finally:
            ended.set()

    async def _made(self, closed_at_the_end: contextlib.AsyncExitStack) -> "Client":
        from mcp import Client, StdioServerParameters
        from mcp.client.streamable_http import streamable_http_client

        if isinstance(self._server, str) and self._server.startswith(("http://", "https://")):
            import httpx2

            headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
            http = httpx2.AsyncClient(headers=headers, timeout=self.timeout_s)
            await closed_at_the_end.enter_async_context(http)  # the SDK closes only a client that it made
            made: Any = streamable_http_client(self._server, http_client=http, max_sse_event_size=2 * self.max_bytes)
        else:
            words = shlex.split(self._server) if isinstance(self._server, str) else [*self._server]
            program, empty = shutil.which(words[0]), shutil.which("env")
            if program is None or empty is None:
                raise UserError(f"there is no program {words[0]!r}: install it, or give its whole path")
            # the SDK alone would pass HOME, USER and others on
            made = StdioServerParameters(command=empty, args=["-i", program, *words[1:]])
        return Client(made, read_timeout_seconds=self.timeout_s)


async def _listed(client: "Client") -> list[Any]:
    """Return all tools of a server, which lists them in pages."""
    found, cursor = [], None
    for _ in range(MOST_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        if not (cursor := page.next_cursor):
            break
    return found


async def _called(client: "Client", name: str, arguments: dict[str, Any]) -> Any:
    """Return the result of a call; what the server said where the arguments were wrong."""
    from mcp.shared.exceptions import MCPError

    try:
        return await client.call_tool(name, arguments)
    except MCPError as error:
        if error.code != INVALID_ARGUMENTS:
            raise
        return error.message


def _text(part: Any) -> str:
    """Return the text of a part of a result, or of the resource that it holds."""
    text = getattr(part, "text", None) or getattr(getattr(part, "resource", None), "text", None)
    return text if isinstance(text, str) else f"({part.type}: not shown)"


def _is_broken(error: Exception) -> bool:
    """Return True for an error of the connection, not one that the server answered.

    Servers give errors of their own the SDK's code for a closed connection, so its words tell.
    """
    from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
    from mcp.shared.exceptions import MCPError

    if isinstance(error, MCPError):
        return error.message == "Connection closed" or bool(re.fullmatch("Request .* timed out", error.message))
    return isinstance(error, OSError | BrokenResourceError | ClosedResourceError | EndOfStream | BaseExceptionGroup)


def _first(error: BaseException) -> str:
    """Return the message of an error, of a group the first one's."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return redact(f"{type(error).__name__}: {error}")[:200]
