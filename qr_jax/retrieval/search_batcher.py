"""Search requests of many clients put together: one call of the search function answers all waiting requests."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from qr_jax.records import Passage, SearchFunction
from qr_jax.retrieval.http_server import Refused
from qr_jax.retrieval.server_metrics import ServerMetrics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What a request may ask (Search-R1's has all queries of a rollout's turn), and how requests are put together."""

    body_bytes: int = 32_000_000  # room for `queries` of `query_chars`, most characters taking one or two bytes
    queries: int = 4096
    k: int = 100
    default_k: int = 3
    query_chars: int = 4096  # a longer query is cut: it is searched for, and fails no other query
    waiting: int = 16_384  # queries that wait for their search; further ones are refused with 503
    batch: int = 64  # queries of one search call; a single request may have more
    wait_s: float = 0.003  # how long a request waits for others, when other clients are connected
    search_s: float = 30.0  # after this time a request gets 504


@dataclass
class _Asked:
    """A request that waits for its passages."""

    queries: list[str]
    k: int
    results: asyncio.Future[list[list[Passage]]]


class Batcher:
    """Gives waiting requests of one k to the search function in one call, one call at a time, in a thread."""

    def __init__(self, search: SearchFunction, limits: Limits, metrics: ServerMetrics, connections: Callable[[], int]):
        self._search, self._limits, self._metrics, self._connections = search, limits, metrics, connections
        self._waiting: deque[_Asked] = deque()
        self._came = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "search")
        self.since: float | None = None  # when the running call began

    @property
    def queue(self) -> int:
        return sum(len(request.queries) for request in self._waiting)

    async def ask(self, queries: list[str], k: int) -> list[list[Passage]]:
        """The passages of each query. Refused: 503 where too many queries wait, 504 when the search takes too long."""
        if self.queue + len(queries) > self._limits.waiting:
            raise Refused(503, f"{self.queue} queries wait already; try again", (("Retry-After", "1"),))
        asked = _Asked(queries, k, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        self._came.set()
        try:
            async with asyncio.timeout(self._limits.search_s):
                return await asked.results
        except TimeoutError as error:
            raise Refused(504, f"no result within {self._limits.search_s:g} s") from error

    async def run(self) -> None:
        """Search whatever comes, until cancelled."""
        while True:
            await self._gather()
            requests = self._take()
            if requests:
                await self._answer(requests)

    async def _gather(self) -> None:
        """Wait for a request, and then a moment for more, while somebody is connected who has not asked."""
        while not self._waiting:
            self._came.clear()
            await self._came.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.wait_s):
                while len(self._waiting) < self._connections() and self.queue < self._limits.batch:
                    self._came.clear()
                    await self._came.wait()

    def _take(self) -> list[_Asked]:
        """The oldest request and those after it with its k, up to a batch; those given up are dropped."""
        taken: list[_Asked] = []
        kept: deque[_Asked] = deque()
        count = 0
        for request in self._waiting:
            if request.results.done():
                continue
            if not taken or (request.k == taken[0].k and count + len(request.queries) <= self._limits.batch):
                taken.append(request)
                count += len(request.queries)
            else:
                kept.append(request)
        self._waiting = kept
        return taken

    async def _answer(self, requests: list[_Asked]) -> None:
        """One call for all requests; if it fails, one for each, so that one bad query does not fail the rest."""
        distinct = list(dict.fromkeys(query for request in requests for query in request.queries))
        self.since = begun = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(self._thread, self._call, distinct, requests[0].k)
        except Exception as error:  # whatever a retriever raises is this request's failure, not the server's end
            self._metrics.search_errors += 1
            if len(requests) > 1:
                for request in requests:
                    await self._answer([request])
                return
            log.warning("a search failed: %s: %s", type(error).__name__, error)
            if not requests[0].results.done():
                requests[0].results.set_exception(Refused(500, f"the search failed: {type(error).__name__}"))
            return
        finally:
            self.since = None
        self._metrics.search_seconds.add(time.monotonic() - begun)
        self._metrics.batch_queries.add(len(distinct))
        passages = dict(zip(distinct, results, strict=True))
        for request in requests:
            if not request.results.done():
                request.results.set_result([passages[query] for query in request.queries])

    def _call(self, queries: list[str], k: int) -> list[list[Passage]]:
        results = [list(passages)[:k] for passages in self._search(queries, k)]
        if len(results) != len(queries):
            raise ValueError(f"{len(queries)} queries got {len(results)} lists")
        return results
