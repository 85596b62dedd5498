"""Batch the search requests of many clients: one call of the search function answers queries of several requests."""

import asyncio
import contextlib
import functools
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from qr_jax.errors import UserError
from qr_jax.records import Passage, SearchFunction
from qr_jax.search.limits import RETRY, Limits, Refused
from qr_jax.search.server_metrics import ServerMetrics

log = logging.getLogger(__name__)

Row = tuple[bytes, ...]  # the passages of one query as its answer has them
Write = Callable[[Sequence[Passage]], Row]


class _Asked:
    """A request that waits for its passages; `left` are its distinct queries that no search call has taken yet."""

    def __init__(self, queries: list[str], k: int, write: Write, hold: Callable[[int], None]):
        self.queries, self.k, self.write, self._hold = queries, k, write, hold
        self.left = deque(dict.fromkeys(queries))
        self._missing, self._bytes = len(self.left), 0
        self._found: dict[str, Row] = {}
        self.rows: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()

    def add(self, found: Mapping[str, Row]) -> None:
        """Take the passages that a search call found for some of the queries; after the last query `rows` is ready.

        `hold` is told of all bytes so far. If it refuses them, `rows` raises that refusal.
        """
        if self.rows.done():  # given up
            return
        self._found |= found
        self._missing -= len(found)
        self._bytes += sum(len(text) for row in found.values() for text in row)
        try:
            self._hold(self._bytes)
        except Refused as refused:
            self.rows.set_exception(refused)
        else:
            if not self._missing:
                self.rows.set_result([self._found[query] for query in self.queries])


class Batcher:
    """Passes the queries of waiting requests to the search function, one call at a time, in a thread.

    Requests take turns, a query each, so a small one waits for no large one to end. A call runs the function once for
    each k that its queries have.
    """

    def __init__(self, search: SearchFunction, limits: Limits, metrics: ServerMetrics, connections: Callable[[], int]):
        self._search, self._limits, self._metrics, self._connections = search, limits, metrics, connections
        self._waiting: deque[_Asked] = deque()
        self._came = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "search")
        self.queue = 0  # queries that wait for their search
        self.since: float | None = None  # when the running call began

    async def ask(
        self, queries: list[str], k: int, write: Write, hold: Callable[[int], None] = lambda size: None
    ) -> list[Row]:
        """Return each query's passages as `write` formats them in the search thread; `hold` is told of their bytes.

        Refused: 503 if too many queries wait, 504 if the search takes too long, and whatever `hold` raises.
        """
        if not queries:
            return []
        asked = _Asked(queries, k, write, hold)
        if self.queue + len(asked.left) > self._limits.waiting:
            raise Refused(503, f"{self.queue:,} queries wait already; try again, or ask for less at once", RETRY)
        self.queue += len(asked.left)
        self._waiting.append(asked)
        self._came.set()
        try:
            async with asyncio.timeout(self._limits.search_s):
                return await asked.rows
        except TimeoutError as error:
            raise Refused(504, f"no result within {self._limits.search_s:g} s") from error
        finally:
            self.queue -= len(asked.left)  # of a request that was given up
            asked.left.clear()

    async def run(self) -> None:
        """Search for waiting requests until cancelled."""
        while True:
            await self._gather()
            if call := self._take():
                await self._answer(call)

    async def _gather(self) -> None:
        """Wait for a request, and then briefly for more, while a connected client has not asked yet."""
        while not self._waiting:
            self._came.clear()
            await self._came.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.wait_s):
                while len(self._waiting) < self._connections() and self.queue < self._limits.batch:
                    self._came.clear()
                    await self._came.wait()

    def _take(self) -> dict[_Asked, list[str]]:
        """Take queries until a call is full: one of each request in turn. Equal ones of several requests count once."""
        call: defaultdict[_Asked, list[str]] = defaultdict(list)
        keys: set[tuple[str, int]] = set()
        taken = 0.0
        while self._waiting:
            asked = self._waiting[0]
            if asked.left:
                key = asked.left[0], asked.k
                share = 0.0 if key in keys else self._limits.share(*key)
                if keys and taken + share > 1 + 1e-9:  # 49 times 1 / 49 is more than 1 in floating point
                    break
                keys.add(key)
                taken += share
                call[asked].append(asked.left.popleft())
                self.queue -= 1
            self._waiting.popleft()
            if asked.left:
                self._waiting.append(asked)
        return call

    async def _answer(self, call: Mapping[_Asked, list[str]]) -> None:
        """Search for all in one call; if it fails, in one of each request, so that a bad query fails no other."""
        self.since = begun = time.monotonic()
        try:
            rows = await asyncio.get_running_loop().run_in_executor(self._thread, self._call, call)
        except Exception as error:  # whatever a retriever raises is these requests' failure, not the server's end
            self._metrics.search_errors.inc()
            for asked, queries in call.items():
                if len(call) > 1:
                    await self._answer({asked: queries})
                elif not asked.rows.done():
                    log.warning("a search failed: %s: %s", type(error).__name__, error)
                    asked.rows.set_exception(Refused(500, f"the search failed: {type(error).__name__}"))
            return
        self._metrics.search_seconds.observe(time.monotonic() - begun)
        self._metrics.batch_queries.observe(len({(query, asked.k) for asked in call for query in call[asked]}))
        for asked, found in rows.items():
            asked.add(found)

    def _call(self, call: Mapping[_Asked, list[str]]) -> dict[_Asked, dict[str, Row]]:
        """Return the rows of each request's queries; those that several requests share are written once."""
        wanted: defaultdict[int, dict[str, None]] = defaultdict(dict)
        for asked, queries in call.items():
            wanted[asked.k] |= dict.fromkeys(queries)
        found: dict[tuple[str, int], list[Passage]] = {}
        try:
            for k, queries in wanted.items():
                lists = [list(passages)[:k] for passages in self._search(list(queries), k)]
                if len(lists) != len(queries):
                    raise UserError(f"{len(queries)} queries got {len(lists)} lists")
                found |= {(query, k): passages for query, passages in zip(queries, lists, strict=True)}
            row = functools.cache(lambda query, k, write: write(found[query, k]))
            return {asked: {query: row(query, asked.k, asked.write) for query in call[asked]} for asked in call}
        finally:
            self.since = None  # here, so that it stands while the thread is busy, though the loop has ended
