"""An HTTP server on Starlette and uvicorn: who may ask, how large a body may be, the paths of every server, the end.

The retrieval server (search/server.py) and the model's (serve/app.py) stand on it. It listens on loopback unless a
token is set.
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
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from qr_jax.errors import UserError
from qr_jax.search.limits import Held, HttpLimits, Refused
from qr_jax.search.server_metrics import HttpMetrics

if TYPE_CHECKING:
    import uvicorn
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)

OPEN = ("/health", "/metrics", "/openapi.json")
PACKAGES = ("starlette", "uvicorn", "httptools", "prometheus_client")  # of the extra `search`
HEADERS = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")]
FILES = 256  # that a server may have open beside its connections
PIECE_BYTES = 65_536  # of an answer that is sent at a time

Hold = Callable[[int], None]  # says how many bytes a request holds; raises Refused


class HttpApp:
    """An ASGI application: a subclass names its paths and answers their requests (`answer`, `page`, `health`).

    `prepare` is called by its constructor once `metrics` are there; it makes `bodies` and `server`.
    """

    limits: HttpLimits
    token: str | None
    loopback: bool  # only then a request's Host must be this machine
    metrics: HttpMetrics
    posts: tuple[str, ...]  # paths that take a body
    gets: tuple[str, ...] = ()  # beside OPEN
    hint = ""  # what else is said of paths that are not there

    def prepare(self, advice: str) -> None:
        """Make `bodies`, whose refusals give this advice, and `server`."""
        limits, refused = self.limits, self.metrics.refused.labels
        self.bodies = Held("body", limits.body_bytes, limits.bodies_bytes, advice, refused("bodies").inc)
        self._began, self._unread = time.monotonic(), refused("unread")
        self.server = self._make_server()

    def connections(self) -> int:
        return len(self.server.server_state.connections)

    async def answer(
        self, request: "Request", path: str, hold_body: Hold, until_sent: contextlib.ExitStack
    ) -> "Response":
        """Answer a request of one of `posts` or `gets`; Refused says why not. `until_sent` closes with the answer."""
        raise NotImplementedError

    def page(self) -> dict[str, Any]:
        """Return the OpenAPI page."""
        raise NotImplementedError

    def health(self) -> tuple[str, Mapping[str, Any]]:
        """Return "ok", or what is wrong (the status is then 503), and what else /health says."""
        raise NotImplementedError

    def working(self) -> AbstractAsyncContextManager[None]:
        """Return what is open while the application runs."""
        raise NotImplementedError

    def refusal(self, refused: Refused) -> "Response":
        return as_json({"detail": refused.detail}, refused.status, refused.headers)

    async def send(self, response: "Response", scope: Any, receive: Any, send: Any) -> None:
        """Send an answer; TimeoutError for a client that does not take all of it in time."""
        async with asyncio.timeout(self.limits.idle_s):
            await response(scope, receive, send)

    def _make_server(self) -> "uvicorn.Server":
        import uvicorn
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.routing import Route

        routes = [Route(path, self, methods=["POST"]) for path in self.posts]
        routes += [Route(path, self, methods=["GET"]) for path in (*self.gets, *OPEN)]
        lifespan = lambda _: self.working()  # noqa: E731
        app = Starlette(routes=routes, exception_handlers={HTTPException: self._no_route}, lifespan=lifespan)
        app.router.redirect_slashes = False
        return uvicorn.Server(uvicorn.Config(
            app, http="httptools", ws="none", lifespan="on", log_config=None, log_level="error", access_log=False,
            proxy_headers=False, server_header=False, date_header=False, headers=HEADERS,
            timeout_keep_alive=self.limits.idle_s, timeout_graceful_shutdown=self.limits.grace_s,
            limit_concurrency=self.limits.connections + 1,
        ))  # fmt: skip

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request of a path that is there."""
        from starlette.requests import ClientDisconnect, Request

        begun, path = time.monotonic(), scope["path"]
        with self.bodies.open() as hold_body, contextlib.ExitStack() as until_sent:
            try:
                response = await self._respond(Request(scope, receive), path, hold_body, until_sent)
            except Refused as refused:
                response = self.refusal(refused)
            except ClientDisconnect:
                return
            if path in self.posts:
                self.metrics.request_seconds.observe(time.monotonic() - begun)
            self.metrics.requests.labels(path, response.status_code).inc()
            try:
                await self.send(response, scope, receive, send)
            except TimeoutError:  # uvicorn closes the connection of an answer that is not whole
                self._unread.inc()

    async def _respond(
        self, request: "Request", path: str, hold_body: Hold, until_sent: contextlib.ExitStack
    ) -> "Response":
        from starlette.responses import Response

        self._allow(request, path)
        if path == "/health":
            status, about = self.health()
            about = {"status": status, "uptime_s": round(time.monotonic() - self._began, 3), **about}
            return as_json(about, 200 if status == "ok" else 503)
        if path == "/metrics":
            text, kind = self.metrics.text()
            return Response(text, headers={"Content-Type": kind})
        if path == "/openapi.json":
            return as_json(self.page())
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if path in self.posts and kind != "application/json":
            raise Refused(415, "wanted Content-Type: application/json")
        return await self.answer(request, path, hold_body, until_sent)

    async def body(self, request: "Request", hold: Hold) -> bytes:
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
        if self.token is None or path == "/health":
            return
        if not is_token(request.headers.get("authorization", "").encode("latin-1"), self.token):
            raise Refused(401, "wanted Authorization: Bearer and the token", {"WWW-Authenticate": "Bearer"})

    def _no_route(self, request: "Request", error: Any) -> "Response":
        """Return 404 with the paths that there are, or 405 with the method that is wanted."""
        path = request.scope["path"] if error.status_code == 405 else "other"
        paths = f"there are {', '.join(self.posts + self.gets + OPEN)}{self.hint}"
        text = paths if path == "other" else f"{path} wants {'POST' if path in self.posts else 'GET'}"
        self.metrics.requests.labels(path, error.status_code).inc()
        return self.refusal(Refused(error.status_code, text, error.headers))


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Response":
    from starlette.responses import Response

    return Response(json.dumps(value).encode(), status, headers, "application/json")


def send_json(body: bytes) -> "Response":
    """Return the response with this JSON. A large one is sent as fast as its client reads it."""
    from starlette.responses import Response, StreamingResponse

    if len(body) <= PIECE_BYTES:
        return Response(body, media_type="application/json")

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), PIECE_BYTES):
            yield body[start : start + PIECE_BYTES]

    return StreamingResponse(pieces(), headers={"Content-Length": str(len(body))}, media_type="application/json")


def is_token(authorization: bytes, token: str) -> bool:
    """Return True if a request's header Authorization has the token: the scheme's case does not matter (RFC 9110)."""
    scheme, _, given = authorization.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.lstrip(b" "), token.encode())


def is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def check_packages(command: str) -> None:
    """Raise UserError if a package that the command's server stands on is missing."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            found = f"{command} needs the package {error.name}, which is not installed"
            raise UserError(f"{found}: pip install 'qr_jax[search]'") from error


def check_address(host: str, token: str | None) -> None:
    """Raise UserError for an address that others can reach, without a token; warn of one with a token."""
    if is_loopback(host):
        return
    if token is None:
        raise UserError(f"--host {host} can be reached by others: set a token (--token-env NAME), or keep 127.0.0.1")
    log.warning("what is asked, the answers and the token go in clear text; put a proxy with TLS in front of %s", host)


def check_port(host: str, port: int) -> None:
    """Raise OSError if a server could not listen there, before anything large is loaded."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise OSError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); name another with --port"
        ) from error


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
    """Return a socket that listens, and its URL (port 0 asks for a free one)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error
        raise UserError(f"port {port} of {host} cannot be had ({why}); give another with --port") from error
    return listening, f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


def run(app: HttpApp, host: str, port: int, told: str, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. The first thing said is `told`, with the URL in it; the last that it stopped.

    The server has no TLS, and uvicorn lets half of a request's head stay open: put a proxy in front when strangers can
    reach it.
    """
    allow_files(app.limits.connections)
    listening, url = listen(host, port)
    gc.freeze()  # what is loaded stays: without this each full collection goes through it, and holds up all for 0.2 s
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again at its end, which would end us
            stack.callback(signal.signal, number, signal.signal(number, app.server.handle_exit))
        say(told.format(url))
        app.server.run(sockets=[listening])
    say("stopped")
