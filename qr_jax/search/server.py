"""`qr-jax serve-retriever`: a search function behind Search-R1's `POST /retrieve`, and the other peers' paths.

Requests that come together are searched together. It listens on loopback unless a token is set.
"""

import asyncio
import contextlib
import gc
import hmac
import ipaddress
import json
import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from qr_jax.dialect import encodable
from qr_jax.errors import UserError
from qr_jax.logging import terminal
from qr_jax.records import Passage, SearchFunction
from qr_jax.run import bounded_json
from qr_jax.search.http_server import Bounds, Refused, Request, Response, Server, as_json, new_loop
from qr_jax.search.pages import Pages
from qr_jax.search.protocols import contents
from qr_jax.search.search_batcher import Batcher, Limits
from qr_jax.search.server_metrics import ServerMetrics

log = logging.getLogger(__name__)

ACCESS = "/access"
PATHS = ("/retrieve", "/search", "/batch_search", "/queries", ACCESS)
OPEN = ("/health", "/metrics")
FIELDS = 64  # room for what a request's JSON has beside its queries
FILES = 256  # that a server may have open beside its connections


@dataclass
class App:
    """Requests in, responses out: who may ask, what they may ask, and how the passages are written."""

    search: SearchFunction
    limits: Limits = field(default_factory=Limits)
    token: str | None = None
    loopback: bool = True  # only then a request's Host must be this machine
    about: Mapping[str, Any] = field(default_factory=dict)
    bounds: Bounds | None = None
    pages: Pages | None = None  # what /access gives; with it documents have their id as `url` too

    def __post_init__(self):
        self.metrics = ServerMetrics()
        bounds, most = self.bounds or Bounds(), self.limits.body_bytes
        bounds = replace(bounds, body_bytes=most, held_bytes=max(bounds.held_bytes, most))
        self.server = Server(self.handle, bounds, self.admit)
        self.batcher = Batcher(self.search, self.limits, self.metrics, lambda: self.server.connections)
        url = self.pages is not None
        self._writes = {paired: partial(write_row, paired=paired, url=url) for paired in (False, True)}
        self._began = time.monotonic()

    def admit(self, request: Request) -> None:
        """Raise Refused for a request that is not allowed, before its body, which may be large, is read."""
        try:
            self._allow(request)
        except Refused as refused:
            self.metrics.requests[known(request.path), refused.response.status] += 1
            raise

    async def handle(self, request: Request) -> Response:
        begun, path = time.monotonic(), known(request.path)
        try:
            response = await self._route(request)
        except Refused as refused:
            response = refused.response
        if path in PATHS:
            self.metrics.request_seconds.add(time.monotonic() - begun)
        self.metrics.requests[path, response.status] += 1
        return response

    async def _route(self, request: Request) -> Response:
        if request.path not in PATHS + OPEN or (request.path == ACCESS and self.pages is None):
            paths = [path for path in PATHS + OPEN if path != ACCESS or self.pages is not None]
            raise Refused(404, f"there are {', '.join(paths)}" + (" (and /access with --access)" * (not self.pages)))
        wanted = "POST" if request.path in PATHS else "GET"
        if request.method != wanted:
            raise Refused(405, f"{request.path} wants {wanted}", (("Allow", wanted),))
        if request.path == "/health":
            return self._health()
        if request.path == "/metrics":
            gauges = {"queue_queries": ("queries that wait for their search", float(self.batcher.queue))}
            gauges |= {"connections": ("open connections", float(self.server.connections))}
            gauges |= {"held_bytes": ("of large bodies that come or are answered", float(self.server.held_bytes))}
            gauges |= {
                "answers_bytes": ("of large answers that are made or sent", float(self.server.answers.held_bytes))
            }
            text = (self.metrics.text(gauges, self.server.refused).encode(),)
            return Response(200, text, "text/plain; version=0.0.4")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "wanted Content-Type: application/json")
        if request.path == ACCESS and self.pages is not None:
            passages = map(self.pages.get, read_urls(request.body, self.limits))
            rows = (passage and document(passage, url=True) for passage in passages)
            written = await bounded_json.write_list(rows, before=b'{"result": ', after=b"}", hold=request.hold)
            return Response(200, (written,))
        queries, k, scores, single = read_asked(request.body, self.limits)
        self.metrics.queries += len(queries)
        write = self._writes[scores and request.path == "/retrieve"]
        rows = await self.batcher.ask(queries, k, write, request.hold, request.client)
        echo = await bounded_json.write_list(queries, hold=request.hold) if request.path == "/queries" else b""
        return Response(200, answer(request.path, echo, rows, scores=scores, single=single))

    def _allow(self, request: Request) -> None:
        """Raise Refused: another host's name on loopback (a web page's own name may point here), or no token."""
        if self.loopback:
            name = request.headers.get("host", "localhost").lower()
            if not is_loopback(name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]):
                raise Refused(403, "this server answers to localhost alone")
        if self.token is not None and request.path != "/health":
            given = request.headers.get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
                raise Refused(401, "wanted Authorization: Bearer and the token", (("WWW-Authenticate", "Bearer"),))

    def _health(self) -> Response:
        """200, or 503 when the search that runs is overdue."""
        since = self.batcher.since
        stuck = since is not None and time.monotonic() - since > self.limits.search_s
        about = {"status": "stuck" if stuck else "ok", "uptime_s": round(time.monotonic() - self._began, 3)}
        return as_json(about | dict(self.about), 503 if stuck else 200)


def known(path: str) -> str:
    """The path's name in the metrics."""
    return path if path in PATHS + OPEN else "other"


def read_asked(body: bytes | bytearray, limits: Limits) -> tuple[list[str], int, bool, bool]:
    """(queries, k, whether scores are wanted, whether it is one query by itself) of any peer's request, or Refused.

    It may have `queries` or `query`, a text or a list of texts; `topk`, `k` or `top_n`; `return_scores` or
    `return_score`. A query of too many characters is cut, as our own client cuts it.
    """
    asked = _object(body, limits)
    queries = asked.get("queries", asked.get("query"))
    single = isinstance(queries, str)
    queries = [queries] if single else queries
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise Refused(400, "wanted 'queries', a list of texts, or 'query', a text")
    k = next((asked[name] for name in ("topk", "k", "top_n") if asked.get(name) is not None), limits.default_k)
    if type(k) is not int or not 1 <= k <= limits.k:
        raise Refused(400, f"wanted a whole number from 1 to {limits.k} of passages")
    if len(queries) > limits.queries:
        raise Refused(400, f"{len(queries)} queries; at most {limits.queries} are taken at once (--max-queries)")
    scores = asked.get("return_scores", asked.get("return_score", False))
    if type(scores) is not bool:
        raise Refused(400, "return_scores is true or false")
    return [encodable(query[: limits.query_chars]) for query in queries], k, scores, single


def read_urls(body: bytes | bytearray, limits: Limits) -> list[str]:
    """The ids of the wanted pages, or Refused."""
    urls = _object(body, limits).get("urls")
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls) or len(urls) > limits.queries:
        raise Refused(400, f"wanted 'urls', a list of at most {limits.queries} texts")
    return urls


def _object(body: bytes | bytearray, limits: Limits) -> dict[str, Any]:
    try:
        asked = bounded_json.read(body, limits.queries + FIELDS)
    except bounded_json.TooMany as error:
        raise Refused(400, f"{error}, which is room for {limits.queries:,} queries (--max-queries)") from error
    except ValueError as error:
        raise Refused(400, str(error)) from error
    if not isinstance(asked, dict):
        raise Refused(400, "the body is no JSON object")
    return asked


def document(passage: Passage, *, url: bool) -> dict[str, str]:
    return {"id": passage.id, "contents": contents(passage)} | ({"url": passage.id} if url else {})


def write_row(passages: Sequence[Passage], *, paired: bool, url: bool) -> tuple[bytes, bytes]:
    """A query's documents and their scores, each a list in JSON; or, `paired`, one list of both, and nothing."""
    documents = [document(passage, url=url) for passage in passages]
    scores = [float(passage.score) for passage in passages]
    if paired:
        both = zip(documents, scores, strict=True)
        return json.dumps([{"document": text, "score": score} for text, score in both]).encode(), b""
    return json.dumps(documents).encode(), json.dumps(scores).encode()


def answer(
    path: str, echo: bytes | bytearray, rows: Sequence[tuple[bytes, ...]], *, scores: bool, single: bool
) -> list[bytes | bytearray]:
    """The response's JSON in pieces: the rows of the queries as the path's protocol has them (protocols.py).

    `echo`: the queries themselves, for the path that repeats them.
    """
    documents: list[bytes | bytearray] = [row[0] for row in rows]
    values = [row[1] for row in rows]
    if path == "/queries":
        return [b'{"queries": ', echo, b', "answers": ', *_list(documents), b"}"]
    if path == "/retrieve":
        return [b'{"result": ', *_list(documents), b"}"]
    if single:
        return _list([*documents, *values]) if scores else documents
    return [b"[", *_list(documents), b", ", *_list(values), b"]"] if scores else _list(documents)


def _list(items: Sequence[bytes | bytearray]) -> list[bytes | bytearray]:
    """A list in JSON, in pieces."""
    return [b"[", *[piece for item in items for piece in (b", ", item)][1:], b"]"]


def is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def check_address(host: str, token: str | None) -> None:
    """ValueError: an address that others can reach, without a token; a warning where it has one."""
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


async def run(app: App, host: str, port: int, say: Callable[[str], None], stop: asyncio.Event) -> bool:
    """Serve until `stop` is set, then finish the answers under way; returns whether a search still runs after that."""
    searching = asyncio.create_task(app.batcher.run())
    try:
        bound = await app.server.start(host, port)
        say(f"http://{f'[{host}]' if ':' in host else host}:{bound}/retrieve")
        await stop.wait()
        await app.server.stop()
        return app.batcher.since is not None
    finally:
        searching.cancel()


def serve(
    search: SearchFunction,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: Limits | None = None,
    bounds: Bounds | None = None,
    about: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = terminal.say,
    pages: Pages | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. ValueError: an address that others can reach, without a token.

    The first thing said is the URL, the last that it stopped. The server has no TLS: beyond loopback, put a proxy with
    TLS in front.
    """
    check_address(host, token)
    bounds = bounds or Bounds()
    allow_files(bounds.connections)
    gc.freeze()  # the corpus stays: without this each full collection goes through it, and holds up all for 0.2 s

    async def main() -> bool:
        app = App(search, limits or Limits(), token, is_loopback(host), about or {}, bounds, pages)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        return await run(app, host, port, say, stop)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        is_stuck = runner.run(main())
    say("stopped")
    if is_stuck:  # nothing can end that search, and its thread would be waited for
        log.warning("a search that still runs is left behind")
        os._exit(0)
