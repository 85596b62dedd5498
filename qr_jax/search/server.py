"""`qr-jax serve-retriever`: a search function behind Search-R1's `POST /retrieve`, and the other peers' paths.

Requests that come together are searched together. It listens on loopback unless a token is set.
"""

import asyncio
import contextlib
import gc
import hmac
import importlib
import ipaddress
import json
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from qr_jax.errors import UserError
from qr_jax.logging import terminal
from qr_jax.records import SearchFunction
from qr_jax.search import openapi
from qr_jax.search.limits import Held, Limits, Refused
from qr_jax.search.pages import Pages
from qr_jax.search.search_batcher import Batcher
from qr_jax.search.search_json import document, read_asked, read_urls, write_answer, write_list, write_row
from qr_jax.search.server_metrics import ServerMetrics

if TYPE_CHECKING:
    import uvicorn
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)

ACCESS = "/access"
PATHS = ("/retrieve", "/search", "/batch_search", "/queries", ACCESS)
OPEN = ("/health", "/metrics", "/openapi.json")
PACKAGES = ("starlette", "uvicorn", "httptools", "prometheus_client")  # of the extra `search`
HEADERS = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")]
FILES = 256  # that a server may have open beside its connections
PIECE_BYTES = 65_536  # of an answer that is sent at a time

Hold = Callable[[int], None]  # says how many bytes a request holds; raises Refused


@dataclass
class App:
    """An ASGI application that answers every route: who may ask, what they may ask, and how passages are written."""

    search: SearchFunction
    limits: Limits = Limits()
    token: str | None = None
    loopback: bool = True  # only then a request's Host must be this machine
    about: Mapping[str, Any] = field(default_factory=dict)
    pages: Pages | None = None  # what /access gives; with it documents have their id as `url` too

    def __post_init__(self):
        limits = self.limits
        self.metrics = ServerMetrics({
            "queue_queries": ("queries that wait for their search", lambda: self.batcher.queue),
            "connections": ("open connections", self.connections),
            "held_bytes": ("of large bodies that come or are answered", lambda: self.bodies.bytes),
            "answers_bytes": ("of large answers that are made or sent", lambda: self.answers.bytes),
        })  # fmt: skip
        bodies, answers, self._unread = map(self.metrics.refused.labels, ("bodies", "answers", "unread"))
        fewer = "send fewer queries at once (--max-body)"
        self.bodies = Held("body", limits.body_bytes, limits.bodies_bytes, fewer, bodies.inc)
        fewer = "ask for fewer queries or passages at once"
        self.answers = Held("answer", limits.answer_bytes, limits.answers_bytes, fewer, answers.inc)
        self.batcher = Batcher(self.search, limits, self.metrics, self.connections)
        self.paths = tuple(path for path in PATHS if path != ACCESS or self.pages is not None)
        self._writes = {paired: partial(write_row, paired=paired, url=bool(self.pages)) for paired in (False, True)}
        self._began = time.monotonic()
        self.server = self._make_server()

    def connections(self) -> int:
        return len(self.server.server_state.connections)

    def _make_server(self) -> "uvicorn.Server":
        import uvicorn
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.routing import Route

        routes = [Route(path, self, methods=["POST"]) for path in self.paths]
        routes += [Route(path, self, methods=["GET"]) for path in OPEN]
        app = Starlette(routes=routes, exception_handlers={HTTPException: self._no_route}, lifespan=self._searching)
        app.router.redirect_slashes = False
        return uvicorn.Server(uvicorn.Config(
            app, http="httptools", ws="none", lifespan="on", log_config=None, log_level="error", access_log=False,
            proxy_headers=False, server_header=False, date_header=False, headers=HEADERS,
            timeout_keep_alive=self.limits.idle_s, timeout_graceful_shutdown=self.limits.grace_s,
            limit_concurrency=self.limits.connections + 1,
        ))  # fmt: skip

    @contextlib.asynccontextmanager
    async def _searching(self, _: Any) -> AsyncIterator[None]:
        """Search while the application runs."""
        searching = asyncio.create_task(self.batcher.run())
        yield
        searching.cancel()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request of a path that is there."""
        from starlette.requests import ClientDisconnect, Request

        begun, path = time.monotonic(), scope["path"]
        with self.bodies.open() as hold_body, self.answers.open() as hold_answer:
            try:
                response = await self._respond(Request(scope, receive), path, hold_body, hold_answer)
            except Refused as refused:
                response = refusal(refused)
            except ClientDisconnect:
                return
            if path in PATHS:
                self.metrics.request_seconds.observe(time.monotonic() - begun)
            self.metrics.requests.labels(path, response.status_code).inc()
            try:
                async with asyncio.timeout(self.limits.idle_s):
                    await response(scope, receive, send)
            except TimeoutError:  # uvicorn closes the connection of an answer that is not whole
                self._unread.inc()

    async def _respond(self, request: "Request", path: str, hold_body: Hold, hold_answer: Hold) -> "Response":
        from starlette.responses import Response

        self._allow(request, path)
        if path == "/health":
            return self._health()
        if path == "/metrics":
            text, kind = self.metrics.text()
            return Response(text, headers={"Content-Type": kind})
        if path == "/openapi.json":
            return as_json(openapi.page(self.limits, access=bool(self.pages), has_token=self.token is not None))
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "wanted Content-Type: application/json")
        body = await self._body(request, hold_body)
        if path == ACCESS and self.pages is not None:
            return send_json(await write_pages(self.pages, read_urls(body, self.limits), hold_answer))
        queries, k, scores, single = read_asked(body, self.limits)
        self.metrics.queries.inc(len(queries))
        rows = await self.batcher.ask(queries, k, self._writes[scores and path == "/retrieve"], hold_answer)
        hold_answer(sum(len(text) for row in rows for text in row))  # before those of equal queries are joined
        answer = write_answer(path, queries, rows, scores=scores, single=single)
        hold_answer(len(answer))
        return send_json(answer)

    async def _body(self, request: "Request", hold: Hold) -> bytes:
        """Read a request's body. Refused: 413 or 503 if there is no room for it, 408 if it does not come in time."""
        hold(int(request.headers.get("content-length", 0)))
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.idle_s):
                async for piece in request.stream():
                    hold(len(body) + len(piece))
                    body += piece
        except TimeoutError as error:
            text = f"{len(body):,} bytes of the body came within {self.limits.idle_s} s, and not its end"
            raise Refused(408, text, {"Connection": "close"}) from error
        return bytes(body)

    def _allow(self, request: "Request", path: str) -> None:
        """Raise Refused: another host's name on loopback (a web page's own name may point here), or no token."""
        if self.loopback:
            name = request.headers.get("host", "localhost").lower()
            if not is_loopback(name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]):
                raise Refused(403, "this server answers to localhost alone")
        if self.token is not None and path != "/health":
            given = request.headers.get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
                raise Refused(401, "wanted Authorization: Bearer and the token", {"WWW-Authenticate": "Bearer"})

    def _health(self) -> "Response":
        """Return 200, or 503 when the search that runs is overdue."""
        since = self.batcher.since
        stuck = since is not None and time.monotonic() - since > self.limits.search_s
        about = {"status": "stuck" if stuck else "ok", "uptime_s": round(time.monotonic() - self._began, 3)}
        return as_json(about | dict(self.about), 503 if stuck else 200)

    def _no_route(self, request: "Request", error: Any) -> "Response":
        """Return 404 with the paths that there are, or 405 with the method that is wanted."""
        path = request.scope["path"] if error.status_code == 405 else "other"
        paths = f"there are {', '.join(self.paths + OPEN)}" + (" (and /access with --access)" * (not self.pages))
        text = paths if path == "other" else f"{path} wants {'POST' if path in PATHS else 'GET'}"
        self.metrics.requests.labels(path, error.status_code).inc()
        return refusal(Refused(error.status_code, text, error.headers))


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Response":
    from starlette.responses import Response

    return Response(json.dumps(value).encode(), status, headers, "application/json")


def refusal(refused: Refused) -> "Response":
    return as_json({"detail": refused.detail}, refused.status, refused.headers)


def send_json(body: bytes) -> "Response":
    """Return the response with this JSON. A large one is sent as fast as its client reads it."""
    from starlette.responses import Response, StreamingResponse

    if len(body) <= PIECE_BYTES:
        return Response(body, media_type="application/json")

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), PIECE_BYTES):
            yield body[start : start + PIECE_BYTES]

    return StreamingResponse(pieces(), headers={"Content-Length": str(len(body))}, media_type="application/json")


async def write_pages(pages: Pages, urls: Sequence[str], hold: Hold) -> bytes:
    """Write the pages as /access gives them, null for one that is not there; other requests have turns meanwhile."""
    rows, size = [], 0
    for url in urls:
        passage = pages.get(url)
        rows.append(json.dumps(passage and document(passage, url=True)).encode())
        hold(size := size + len(rows[-1]))
        await asyncio.sleep(0)
    return b'{"result": %b}' % write_list(rows)


def is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def check_packages() -> None:
    """Raise UserError if a package that the server stands on is missing."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            found = f"serve-retriever needs the package {error.name}, which is not installed"
            raise UserError(f"{found}: pip install 'qr_jax[search]'") from error


def check_address(host: str, token: str | None) -> None:
    """Raise UserError for an address that others can reach, without a token; warn of one with a token."""
    if is_loopback(host):
        return
    if token is None:
        raise UserError(f"--host {host} can be reached by others: set a token (--token-env NAME), or keep 127.0.0.1")
    log.warning("queries, passages and the token go in clear text; put a proxy with TLS in front of %s", host)


def allow_files(connections: int) -> None:
    """Let this process open as many files as its connections need, where it may; else say what is missing."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + FILES
    if 0 <= allowed < wanted:
        allowed = wanted if most < 0 else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    if 0 <= allowed < wanted:
        log.warning("%d files may be open; wanted %d for %d connections (ulimit -n)", allowed, wanted, connections)


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """Return a socket that listens, and the URL of /retrieve there (port 0 asks for a free one)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error
        raise UserError(f"port {port} of {host} cannot be had ({why}); give another with --port") from error
    return listening, f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/retrieve"


def serve(
    search: SearchFunction,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: Limits | None = None,
    about: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = terminal.say,
    pages: Pages | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. UserError: packages are missing, or others can reach the address without a token.

    The first thing said is the URL, the last that it stopped. The server has no TLS, and uvicorn lets half of a
    request's head stay open: put a proxy in front when strangers can reach it.
    """
    check_packages()
    check_address(host, token)
    app = App(search, limits or Limits(), token, is_loopback(host), about or {}, pages)
    allow_files(app.limits.connections)
    listening, url = listen(host, port)
    gc.freeze()  # the corpus stays: without this each full collection goes through it, and holds up all for 0.2 s
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again at its end, which would end us
            stack.callback(signal.signal, number, signal.signal(number, app.server.handle_exit))
        say(url)
        app.server.run(sockets=[listening])
    say("stopped")
    if app.batcher.since is not None:  # nothing can end that search, and its thread would be waited for
        log.warning("a search that still runs is left behind")
        os._exit(0)
