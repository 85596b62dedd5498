"""`qr-jax serve-retriever`: a search function behind Search-R1's `POST /retrieve`, and the other peers' paths.

Requests that come together are searched together. It listens on loopback unless a token is set.
"""

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from qr_jax.logging import terminal
from qr_jax.records import SearchFunction
from qr_jax.search import http_app, openapi
from qr_jax.search.http_app import Hold, HttpApp, send_json
from qr_jax.search.limits import Held, Limits
from qr_jax.search.pages import Pages
from qr_jax.search.search_batcher import Batcher
from qr_jax.search.search_json import document, read_asked, read_urls, write_answer, write_list, write_row
from qr_jax.search.server_metrics import ServerMetrics

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)

ACCESS = "/access"
PATHS = ("/retrieve", "/search", "/batch_search", "/queries", ACCESS)


@dataclass
class App(HttpApp):
    """An ASGI application that answers every route: who may ask, what they may ask, and how passages are written."""

    search: SearchFunction
    limits: Limits = Limits()
    token: str | None = None
    loopback: bool = True  # only then a request's Host must be this machine
    about: Mapping[str, Any] = field(default_factory=dict)
    pages: Pages | None = None  # what /access gives; with it documents have their id as `url` too

    def __post_init__(self):
        limits = self.limits
        self.metrics = self.counts = ServerMetrics({
            "queue_queries": ("queries that wait for their search", lambda: self.batcher.queue),
            "connections": ("open connections", self.connections),
            "held_bytes": ("of large bodies that come or are answered", lambda: self.bodies.bytes),
            "answers_bytes": ("of large answers that are made or sent", lambda: self.answers.bytes),
        })  # fmt: skip
        fewer = "ask for fewer queries or passages at once"
        self.answers = Held(
            "answer", limits.answer_bytes, limits.answers_bytes, fewer, self.metrics.refused.labels("answers").inc
        )
        self.batcher = Batcher(self.search, limits, self.counts, self.connections)
        self.posts = tuple(path for path in PATHS if path != ACCESS or self.pages is not None)
        self._writes = {paired: partial(write_row, paired=paired, url=bool(self.pages)) for paired in (False, True)}
        self.hint = "" if self.pages else " (and /access with --access)"
        self.prepare("send fewer queries at once (--max-body)")

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Search while the application runs."""
        searching = asyncio.create_task(self.batcher.run())
        yield
        searching.cancel()

    def page(self) -> dict[str, Any]:
        return openapi.page(self.limits, access=bool(self.pages), has_token=self.token is not None)

    def health(self) -> tuple[str, Mapping[str, Any]]:
        """Return "stuck" when the search that runs is overdue."""
        since = self.batcher.since
        return "stuck" if since is not None and time.monotonic() - since > self.limits.search_s else "ok", self.about

    async def answer(
        self, request: "Request", path: str, hold_body: Hold, until_sent: contextlib.ExitStack
    ) -> "Response":
        body, hold_answer = await self.body(request, hold_body), until_sent.enter_context(self.answers.open())
        if path == ACCESS and self.pages is not None:
            return send_json(await write_pages(self.pages, read_urls(body, self.limits), hold_answer))
        queries, k, scores, single = read_asked(body, self.limits)
        self.counts.queries.inc(len(queries))
        rows = await self.batcher.ask(queries, k, self._writes[scores and path == "/retrieve"], hold_answer)
        hold_answer(sum(len(text) for row in rows for text in row))  # before those of equal queries are joined
        answer = write_answer(path, queries, rows, scores=scores, single=single)
        hold_answer(len(answer))
        return send_json(answer)


async def write_pages(pages: Pages, urls: Sequence[str], hold: Hold) -> bytes:
    """Write the pages as /access gives them, null for one that is not there; other requests have turns meanwhile."""
    rows, size = [], 0
    for url in urls:
        passage = pages.get(url)
        rows.append(json.dumps(passage and document(passage, url=True)).encode())
        hold(size := size + len(rows[-1]))
        await asyncio.sleep(0)
    return b'{"result": %b}' % write_list(rows)


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

    The first thing said is the URL of /retrieve, the last that it stopped.
    """
    http_app.check_packages("serve-retriever")
    http_app.check_address(host, token)
    app = App(search, limits or Limits(), token, http_app.is_loopback(host), about or {}, pages)
    http_app.run(app, host, port, "{}/retrieve", say)
    if app.batcher.since is not None:  # nothing can end that search, and its thread would be waited for
        log.warning("a search that still runs is left behind")
        os._exit(0)
