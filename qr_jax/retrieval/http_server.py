"""A small, strict HTTP/1.1 server for JSON: bounded heads and bodies, kept connections, an orderly end.

Bodies come with Content-Length, never in chunks; any other request is refused and its connection closed.
"""

import asyncio
import contextlib
import http
import json
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)

FIRST_LINE = re.compile(r"([A-Z]{1,16}) ([!-~]{1,2048}) HTTP/1\.([01])")
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
ONCE = ("host", "content-length", "content-type", "authorization", "transfer-encoding")
LINGER_S = 1.0  # how long a refused body is still read, so that its sender sees the refusal and no reset


@dataclass(frozen=True)
class Request:
    """A client's request; the names of headers are in lower case, `path` is without its query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Bounds:
    """`idle_s` is how long a connection may take to send a request's head, or its body, or to read an answer."""

    head_bytes: int = 16_384
    body_bytes: int = 1_000_000
    connections: int = 1024
    idle_s: float = 60.0
    grace_s: float = 20.0  # how long the last answers may take when the server ends


class Refused(Exception):
    """A request that gets this status and the text as its `detail`."""

    def __init__(self, status: int, text: str, headers: tuple[tuple[str, str], ...] = ()):
        super().__init__(text)
        self.response = as_json({"detail": text}, status, headers)


def as_json(value: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status, json.dumps(value).encode(), headers=headers)


class Server:
    """Answers requests by `handle`, whose exceptions but Refused are a 500; `admit` may refuse one before its body."""

    def __init__(
        self, handle: Callable[[Request], Awaitable[Response]], bounds: Bounds, admit: Callable[[Request], None]
    ):
        self._handle, self._bounds, self._admit = handle, bounds, admit
        self._busy: dict[asyncio.Task[Any], bool] = {}  # of each connection: whether it is being answered

    @property
    def connections(self) -> int:
        return len(self._busy)

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port (a free one for 0)."""
        most = self._bounds.head_bytes
        self._server = await asyncio.start_server(self._connection, host, port, limit=most, backlog=1024)
        return self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listen no more, finish the answers under way within `grace_s`, and close."""
        self._server.close()
        for task, busy in list(self._busy.items()):
            if not busy:
                task.cancel()
        if self._busy:
            await asyncio.wait(list(self._busy), timeout=self._bounds.grace_s)
        for task in list(self._busy):
            task.cancel()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._busy[task] = False
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if len(self._busy) > self._bounds.connections:
                full = Refused(503, f"all {self._bounds.connections} connections are taken", (("Retry-After", "1"),))
                await self._send(writer, full.response, False)
                return
            while self._server.is_serving() and await self._exchange(task, reader, writer):
                self._busy[task] = False
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away or was too slow, or the server ends
        finally:
            del self._busy[task]
            writer.close()

    async def _exchange(self, task: asyncio.Task, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection is kept."""
        try:
            async with asyncio.timeout(self._bounds.idle_s):
                head = await _head(reader)
            self._busy[task] = True
            request, length, kept = parse_head(head, self._bounds.body_bytes)
            self._admit(request)
            if request.headers.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            async with asyncio.timeout(self._bounds.idle_s):
                body = await reader.readexactly(length)
        except Refused as refused:  # it is not known where the next request begins
            await self._send(writer, refused.response, False)
            await _linger(reader, writer)
            return False
        try:
            response = await self._handle(Request(request.method, request.path, request.headers, body))
        except Refused as refused:
            response = refused.response
        except Exception:  # a bug of ours: this request's failure, not the server's end
            log.exception("%s %s failed", request.method, request.path)
            response = Refused(500, "this server failed").response
        kept = kept and self._server.is_serving()
        await self._send(writer, response, kept)
        return kept

    async def _send(self, writer: asyncio.StreamWriter, response: Response, kept: bool) -> None:
        lines = [
            f"HTTP/1.1 {response.status} {http.HTTPStatus(response.status).phrase}",
            f"Content-Type: {response.kind}",
            f"Content-Length: {len(response.body)}",
            f"Connection: {'keep-alive' if kept else 'close'}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            *(f"{name}: {value}" for name, value in response.headers),
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + response.body)
        async with asyncio.timeout(self._bounds.idle_s):
            await writer.drain()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise Refused(431, "the request's head is too long") from error


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read on for a moment: a connection closed with unread bytes is reset, and the answer lost."""
    with contextlib.suppress(OSError, TimeoutError):
        writer.write_eof()
        async with asyncio.timeout(LINGER_S):
            while await reader.read(65_536):
                pass


def parse_head(head: bytes, body_bytes: int) -> tuple[Request, int, bool]:
    """The request without its body, the body's length, and whether the connection is to be kept; raises Refused."""
    first, *rest = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    asked = FIRST_LINE.fullmatch(first)
    if not asked:
        raise Refused(400, "the first line is no HTTP/1.1 request")
    headers: dict[str, str] = {}
    for line in rest:
        header = HEADER.fullmatch(line)
        if not header or (header[1].lower() in ONCE and header[1].lower() in headers):
            raise Refused(400, "a header is malformed, or is there twice")
        headers[header[1].lower()] = header[2].rstrip(" \t")
    if asked[3] == "1" and "host" not in headers:
        raise Refused(400, "there is no Host header")
    if asked[1] == "HEAD":  # its answer would have no body
        raise Refused(405, "HEAD is not known here")
    length = headers.get("content-length", "" if asked[1] == "POST" else "0")
    if "transfer-encoding" in headers or not length:
        raise Refused(411, "a body must come with its Content-Length, not in chunks")
    if not re.fullmatch("[0-9]{1,18}", length):
        raise Refused(400, "Content-Length is no number")
    if int(length) > body_bytes:
        raise Refused(413, f"the body has {int(length):,} bytes; at most {body_bytes:,} are taken (--max-body)")
    wish = headers.get("connection", "").lower()
    kept = "close" not in wish if asked[3] == "1" else "keep-alive" in wish
    return Request(asked[1], asked[2].partition("?")[0], headers), int(length), kept
