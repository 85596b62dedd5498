"""A small, strict HTTP/1.1 server for JSON: bounded heads and bodies, kept connections, graceful shutdown.

Bodies come with Content-Length, never in chunks; any other request is refused and its connection closed. Slow senders
are cut off, and idle connections are closed in favour of new ones (connections.py). Why not uvicorn: it lets a
half-sent head stay open for ever (docs/measurements.md)."""

import asyncio
import contextlib
import http
import json
import logging
import os
import re
import selectors
import socket
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from qr_jax.errors import UserError
from qr_jax.search.answers import Answer, Answers, Full
from qr_jax.search.connections import Connection, Connections, Stage

log = logging.getLogger(__name__)

FIRST_LINE = re.compile(r"([A-Z]{1,16}) ([!-~]{1,2048}) HTTP/1\.([01])")
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
ONCE = ("host", "content-length", "content-type", "authorization", "transfer-encoding")
LINGER_S = 1.0  # how long a refused body is still read, so that its sender sees the refusal and no reset
ACCEPTS, BACKLOG = 8, 1024  # connections that are accepted in one go, and those that may wait for it
EVENTS = 16  # sockets that the loop turns to in one go
PIECE_BYTES = 65_536  # of a body that is read or an answer that is sent, at a time
RETRY = (("Retry-After", "1"),)


@dataclass(frozen=True)
class Request:
    """A client's request; header names are in lower case, `path` is without its query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | bytearray = b""
    hold: Callable[[int], None] = lambda size: None  # counts what its answer holds more; raises Refused
    client: str = ""  # its address


@dataclass(frozen=True)
class Response:
    """A response; `body` is in pieces of any sizes."""

    status: int
    body: Sequence[bytes | bytearray]
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Bounds:
    """Limits on what one client, and all clients together, may use.

    All bodies together are at most `held_bytes`, plus `small_bytes` for each connection. `idle_s` is how long a kept
    connection may send nothing, and how long a client may take to read an answer.
    """

    head_bytes: int = 16_384
    body_bytes: int = 1_000_000
    held_bytes: int = 128_000_000  # of large bodies that come or are being answered, by their Content-Length
    small_bytes: int = 65_536  # a body or an answer up to this size is taken whatever the large ones hold
    answers_bytes: int = 256_000_000  # of answers that are made or sent, with the passages they are made of
    answer_bytes: int = 64_000_000  # of one of them
    connections: int = 1024
    address_connections: int = 512  # from one address
    head_s: float = 10.0  # from the connection, or from a head's first byte, to its end
    body_s: float = 5.0  # each such time brings `body_s` of the least rate, or the body's end
    body_bytes_per_s: float = 10_000.0  # the least rate; of a large body it is what brings all of it within `idle_s`
    idle_s: float = 60.0
    grace_s: float = 20.0  # how long the last answers may take when the server ends


class Refused(Exception):
    """A request refused with this status; the text is the response's `detail`."""

    def __init__(self, status: int, text: str, headers: tuple[tuple[str, str], ...] = ()):
        super().__init__(text)
        self.response = as_json({"detail": text}, status, headers)


def as_json(value: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status, (json.dumps(value).encode(),), headers=headers)


class FewAtOnce(selectors.DefaultSelector):
    """A selector that gives the loop at most EVENTS sockets at a time, and each one before any comes again.

    So the loop sends ready answers between the pieces that a thousand clients send.
    """

    def __init__(self) -> None:
        super().__init__()
        self._left: deque[tuple[selectors.SelectorKey, int]] = deque()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not self._left:
            self._left.extend(super().select(timeout))
        few = [self._left.popleft() for _ in range(min(EVENTS, len(self._left)))]
        return [(key, mask) for key, mask in few if self.get_map().get(key.fd) == key]  # not those gone meanwhile


def new_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop that a Server should run in."""
    return asyncio.SelectorEventLoop(FewAtOnce())


class Server:
    """Answers requests by `handle`, whose exceptions except Refused are a 500; `admit` may refuse one before its body.

    `refused` counts, by reason, what was refused for the sake of other clients.
    """

    def __init__(
        self, handle: Callable[[Request], Awaitable[Response]], bounds: Bounds, admit: Callable[[Request], None]
    ):
        self._handle, self._bounds, self._admit = handle, bounds, admit
        self._connections = Connections(bounds.connections, bounds.address_connections)
        self.held_bytes = 0  # of large bodies that come or are being answered
        reasons = ("connections", "dropped", "slow heads", "slow bodies", "bodies", "answers", "unread")
        self.refused: Counter[str] = Counter(dict.fromkeys(reasons, 0))
        self.answers = Answers(bounds.answers_bytes, bounds.answer_bytes, bounds.small_bytes, self.refused)

    @property
    def connections(self) -> int:
        return len(self._connections)

    async def start(self, host: str, port: int) -> int:
        """Listen and return the port (0 asks for a free one)."""
        most = self._bounds.head_bytes
        try:
            self._server = await asyncio.start_server(self._connection, host, port, limit=most, backlog=ACCEPTS)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else error
            raise UserError(f"port {port} of {host} cannot be had ({why}); give another with --port") from error
        for listening in self._server.sockets:
            with socket.socket(fileno=os.dup(listening.fileno())) as same:
                same.listen(BACKLOG)  # those that wait; asyncio would accept as many of them in one go
        return self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening, finish the answers under way within `grace_s`, and close."""
        self._server.close()
        for connection in self._connections.all(Stage.HEAD, Stage.KEPT):
            connection.task.cancel()
        tasks = [connection.task for connection in self._connections.all(*Stage)]
        if tasks:
            await asyncio.wait(tasks, timeout=self._bounds.grace_s)
        for task in tasks:
            task.cancel()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        writer.transport.max_size = PIECE_BYTES  # pyright: ignore[reportAttributeAccessIssue]  # of one read
        writer.transport.set_write_buffer_limits(0)  # a send ends when nothing is left to be sent
        connection = Connection(str((writer.get_extra_info("peername") or [""])[0]), task)
        try:
            full = self._enter(connection)
            if full is not None:
                await self._send(writer, full.response, False)
                return
            while self._server.is_serving() and await self._exchange(connection, reader, writer):
                self._connections.move(connection, Stage.KEPT)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()  # the client went away or was too slow, or another took its place
        finally:
            self._connections.leave(connection)
            writer.close()

    async def _exchange(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Serve one request; return True if the connection is kept."""
        with contextlib.ExitStack() as held:
            try:
                head = await self._head(connection, reader)
                self._connections.move(connection, Stage.BODY)
                request, length, kept = parse_head(head, self._bounds.body_bytes)
                self._admit(request)
                held.enter_context(self._hold(length))
                if request.headers.get("expect", "").lower() == "100-continue":
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await self._body(reader, length)
            except Refused as refused:  # it is not known where the next request begins
                await self._send(writer, refused.response, False)
                await _linger(reader, writer)
                return False
            self._connections.move(connection, Stage.ANSWER)
            answer = held.enter_context(self.answers.open(connection.task))
            hold = partial(_hold, answer)
            asked = Request(request.method, request.path, request.headers, body, hold, connection.address)
            response = await self._answer(asked)
            kept = kept and self._server.is_serving()
            await self._send(writer, response, kept, answer.taken)
            return kept

    async def _answer(self, request: Request) -> Response:
        try:
            response = await self._handle(request)
            if (size := sum(map(len, response.body))) > self._bounds.answer_bytes:  # what it repeats is held once
                self.refused["answers"] += 1
                raise Refused(413, f"the answer has {size:,} bytes; ask for fewer queries or passages at once")
            return response
        except Refused as refused:
            return refused.response
        except Exception:  # a bug of ours: this request's failure, not the server's end
            log.exception("%s %s failed", request.method, request.path)
            return Refused(500, "this server failed").response

    # ---- the bounds

    def _enter(self, connection: Connection) -> Refused | None:
        """Admit a connection, if need be in place of an idle one; return the refusal if there is no room."""
        try:
            idle = self._connections.make_room(connection.address)
        except ValueError as error:
            self.refused["connections"] += 1
            return Refused(503, str(error), RETRY)
        if idle is not None:
            self.refused["dropped"] += 1
            idle.task.cancel()
        self._connections.enter(connection)
        return None

    @contextlib.contextmanager
    def _hold(self, length: int) -> Iterator[None]:
        """Count a body among those held until it is answered. Refused if all would have too many bytes together."""
        counted = length if length > self._bounds.small_bytes else 0
        if self.held_bytes + counted > self._bounds.held_bytes:
            self.refused["bodies"] += 1
            held = f"other bodies hold {self.held_bytes:,} of {self._bounds.held_bytes:,} bytes"
            raise Refused(503, f"{held}, and this one has {length:,}; try again, or send fewer queries at once", RETRY)
        self.held_bytes += counted
        try:
            yield
        finally:
            self.held_bytes -= counted

    async def _head(self, connection: Connection, reader: asyncio.StreamReader) -> bytes:
        """Read a request's head. TimeoutError if it did not come in time."""
        first = b""
        if connection.stage == Stage.KEPT:
            async with asyncio.timeout(self._bounds.idle_s):
                first = await reader.readexactly(1)
            self._connections.move(connection, Stage.HEAD)
        try:
            async with asyncio.timeout(self._bounds.head_s):
                return first + await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            self.refused["slow heads"] += 1
            raise
        except asyncio.LimitOverrunError as error:
            raise Refused(431, "the request's head is too long") from error

    async def _body(self, reader: asyncio.StreamReader, length: int) -> bytearray:
        """Read a request's body. Refused if it comes more slowly than the least rate."""
        body, read, due, now = bytearray(length), 0, 0.0, asyncio.get_running_loop().time
        rate = max(self._bounds.body_bytes_per_s, length / self._bounds.idle_s)
        try:
            async with asyncio.timeout(None) as limit:
                while read < length:
                    if read >= due:
                        limit.reschedule(now() + self._bounds.body_s)
                        due = read + rate * self._bounds.body_s
                    piece = await reader.read(min(PIECE_BYTES, length - read))
                    if not piece:
                        raise asyncio.IncompleteReadError(b"", length)
                    body[read : read + len(piece)] = piece
                    read += len(piece)
        except TimeoutError as error:
            self.refused["slow bodies"] += 1
            wanted = f"wanted {rate:,.0f} bytes a second, over each {self._bounds.body_s:g} s"
            raise Refused(408, f"{read:,} of the body's {length:,} bytes came, too slowly; {wanted}") from error
        return body

    async def _send(
        self,
        writer: asyncio.StreamWriter,
        response: Response,
        kept: bool,
        taken: Callable[[], None] = lambda: None,
    ) -> None:
        """Send a response; `taken` is called when sending begins, and after each piece that the client read."""
        lines = [
            f"HTTP/1.1 {response.status} {http.HTTPStatus(response.status).phrase}",
            f"Content-Type: {response.kind}",
            f"Content-Length: {sum(map(len, response.body))}",
            f"Connection: {'keep-alive' if kept else 'close'}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            *(f"{name}: {value}" for name, value in response.headers),
        ]
        async with asyncio.timeout(self._bounds.idle_s):
            for piece in _even("\r\n".join([*lines, "", ""]).encode("latin-1"), response.body):
                taken()
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)  # where the system takes all of it at once, `drain` gives others no turn


def _even(head: bytes, body: Sequence[bytes | bytearray]) -> Iterator[bytearray]:
    """Yield the head and the body in pieces of at most PIECE_BYTES, short ones joined."""
    ready = bytearray(head)
    for piece in body:
        for start in range(0, len(piece), PIECE_BYTES):
            part = piece[start : start + PIECE_BYTES]
            if len(ready) + len(part) > PIECE_BYTES:
                yield ready
                ready = bytearray()
            ready += part
    yield ready


def _hold(answer: Answer, size: int) -> None:
    try:
        answer.hold(size)
    except Full as full:
        status, headers = (413, ()) if full.too_large else (503, RETRY)
        raise Refused(status, str(full), headers) from full


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read on for a moment: a connection closed with unread bytes is reset, and the answer lost."""
    with contextlib.suppress(OSError, TimeoutError):
        writer.write_eof()
        async with asyncio.timeout(LINGER_S):
            while await reader.read(65_536):
                pass


def parse_head(head: bytes, body_bytes: int) -> tuple[Request, int, bool]:
    """Return the request without its body, the body's length, and whether to keep the connection; raises Refused."""
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
