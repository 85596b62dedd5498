"""Batch the search requests of many clients: one call of the search function answers parts of several requests.

A large request is cut into parts, and requests take turns: none delays another for longer than a call takes."""

import asyncio
import bisect
import contextlib
import itertools
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from qr_jax.errors import UserError
from qr_jax.records import Passage, SearchFunction
from qr_jax.search.http_server import RETRY, Refused
from qr_jax.search.server_metrics import ServerMetrics

log = logging.getLogger(__name__)

SMALL = 0.25  # of what a search call takes: requests up to it and larger ones take turns
ANSWER_CHARS = 16_000_000  # of a search call's passages, which are written while other clients wait
CLASSES = (8, 32)  # the numbers of passages that take turns: up to the first, up to the second, more

Row = tuple[bytes, ...]  # the passages of one query as its answer has them
Write = Callable[[Sequence[Passage]], Row]


@dataclass(frozen=True)
class Limits:
    """Limits of a request (Search-R1's has all queries of a rollout's turn), and of the batches that are searched."""

    body_bytes: int = 32_000_000  # room for `queries` of `query_chars`, most characters taking one or two bytes
    queries: int = 4096
    k: int = 100
    default_k: int = 3
    query_chars: int = 4096  # a longer query is cut: it is searched for, and fails no other query
    waiting: int = 16_384  # queries of small requests that wait; further ones are refused with 503
    large_calls: int = 512  # search calls that large requests may wait for; then the largest gives way
    batch: int = 64  # queries of one search call
    call_passages: int = 512  # of one search call: queries times k; each call has one query at least
    call_chars: int = 8_192  # of the queries of one search call
    wait_s: float = 0.003  # how long a request waits for others, when other clients are connected
    search_s: float = 30.0  # after this time a request gets 504

    def over(self, largest: Sequence[int]) -> "Limits":
        """Return these limits, tightened for large passages, whose characters `largest` lists, largest first.

        Neither a query's passages nor all those of a search call then have more than ANSWER_CHARS.
        """
        if not (sums := list(itertools.accumulate(largest[: self.k]))):
            return self
        fit = max(bisect.bisect_right(sums, ANSWER_CHARS), 1)
        k = self.k if fit == len(sums) else fit
        most = max(ANSWER_CHARS * fit // max(sums[fit - 1], 1), 1)
        return replace(self, k=k, default_k=min(self.default_k, k), call_passages=min(self.call_passages, most))

    def most_queries(self, k: int) -> int:
        """Return the most queries of one search call."""
        return min(self.batch, max(1, self.call_passages // k))


class _Asked:
    """A request that waits for its passages: `parts` are its distinct queries, cut in parts, not yet taken."""

    def __init__(
        self, queries: list[str], k: int, write: Write, limits: Limits, hold: Callable[[int], None], client: str
    ):
        self.queries, self.k, self.write, self._hold, self.client = queries, k, write, hold, client
        distinct = list(dict.fromkeys(queries))
        self.parts, self.left = deque(cut(distinct, k, limits)), len(distinct)
        many, chars = len(distinct) / limits.most_queries(k), sum(map(len, distinct)) / limits.call_chars
        self.is_large = max(many, chars) > SMALL
        self.kind = self.is_large, sum(k > most for most in CLASSES)
        self.found: dict[str, Row] = {}
        self.results: asyncio.Future[list[Row]] = asyncio.get_running_loop().create_future()

    def take_part(self) -> list[str]:
        part = self.parts.popleft()
        self.left -= len(part)
        return part

    def add(self, found: Mapping[str, Row]) -> None:
        """Add a part's rows; answer the request with the last part, or refuse it if there is no room."""
        if self.results.done():  # given up
            return
        self.found.update(found)
        try:
            self._hold(sum(len(text) for row in found.values() for text in row))
        except Refused as refused:
            self.found.clear()
            self.results.set_exception(refused)
            return
        if not self.left:
            self.results.set_result([self.found[query] for query in self.queries])


def cut(queries: Sequence[str], k: int, limits: Limits) -> list[list[str]]:
    """Cut the queries into parts, each small enough for one search call."""
    parts: list[list[str]] = []
    most, chars = limits.most_queries(k), 0
    for query in queries:
        chars += len(query)
        if not parts or len(parts[-1]) == most or chars > limits.call_chars:
            parts.append([])
            chars = len(query)
        parts[-1].append(query)
    return parts


@dataclass(frozen=True)
class _Part:
    """Queries of one request that are searched in one call."""

    asked: _Asked
    queries: list[str]


class Batcher:
    """Passes parts of waiting requests to the search function, one call at a time, in a thread.

    A call runs the function once for each number of passages that its parts ask for.
    """

    def __init__(self, search: SearchFunction, limits: Limits, metrics: ServerMetrics, connections: Callable[[], int]):
        self._search, self._limits, self._metrics, self._connections = search, limits, metrics, connections
        self._waiting: deque[_Asked] = deque()
        self._large_was_first = False
        self._turn_of: dict[tuple[bool, int], int] = {}  # of each kind of request, when it was first in a call
        self._came = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "search")
        self.since: float | None = None  # when the running call began

    @property
    def queue(self) -> int:
        return sum(request.left for request in self._waiting if not request.results.done())

    async def ask(
        self,
        queries: list[str],
        k: int,
        write: Write,
        hold: Callable[[int], None] = lambda size: None,
        client: str = "",
    ) -> list[Row]:
        """Return each query's passages as `write` formats them; `hold` is told of their bytes as they come.

        They are formatted in the search thread, once for requests with the same `write`: while 400,000 passages waited
        for their answers, each full garbage collection took 0.2 s.

        Refused: 503 if too many queries wait, 504 if the search takes too long, and whatever `hold` raises.
        """
        if not queries:
            return []
        asked = _Asked(queries, k, write, self._limits, hold, client)
        small = sum(request.left for request in self._waiting if not request.is_large)
        if not asked.is_large and small + asked.left > self._limits.waiting:
            raise Refused(503, f"{small} queries wait already; try again", RETRY)
        self._waiting.append(asked)
        self._bound_large()
        self._came.set()
        try:
            async with asyncio.timeout(self._limits.search_s):
                return await asked.results
        except TimeoutError as error:
            raise Refused(504, f"no result within {self._limits.search_s:g} s") from error

    def _bound_large(self) -> None:
        """If large requests wait for too many calls, refuse the largest of the client that waits for most.

        A single request may wait for any number.
        """
        large = [request for request in self._waiting if request.is_large and not request.results.done()]
        of_client: Counter[str] = Counter()
        for request in large:
            of_client[request.client] += len(request.parts)
        while of_client.total() > self._limits.large_calls and len(large) > 1:
            most = max(large, key=lambda request: (of_client[request.client], len(request.parts)))
            large.remove(most)
            of_client[most.client] -= len(most.parts)
            calls = of_client.total()
            text = (
                f"large requests wait for {calls} calls, and this one for {len(most.parts)} more; ask for less at once"
            )
            most.results.set_exception(Refused(503, text, RETRY))

    async def run(self) -> None:
        """Search waiting requests until cancelled."""
        while True:
            await self._gather()
            parts = self._take()
            if parts:
                await self._answer(parts)

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

    def _take(self) -> list[_Part]:
        """Take the first request's next part, and the next parts of others, as many as fit into a call.

        Large and small requests take turns to be first, so that a small one waits for one call of a large one, however
        many there are. Within each kind the values of k take turns, so that many requests for 100 passages do not delay
        one for 3. After its turn a request with more parts goes to the end; one that did not fit keeps its place. A
        query that several requests share counts once.
        """
        taken: list[_Part] = []
        passed: list[_Asked] = []
        queries: set[tuple[str, int]] = set()
        chars = passages = 0
        waiting = [request for request in self._waiting if not request.results.done()]  # the others were given up
        turn = [request for request in waiting if request.is_large != self._large_was_first] or waiting
        first = min(turn, key=lambda request: self._turn_of.get(request.kind, 0), default=None)
        for request in [*([first] if first else ()), *(request for request in waiting if request is not first)]:
            part, k = request.parts[0], request.k
            new = {(query, k) for query in part} - queries
            size = sum(len(query) for query, _ in new)
            fits = passages + len(new) * k <= self._limits.call_passages and chars + size <= self._limits.call_chars
            if taken and not (fits and len(queries) + len(new) <= self._limits.batch):
                passed.append(request)
                continue
            if not taken:
                self._large_was_first = request.is_large
                self._turn_of[request.kind] = max(self._turn_of.values(), default=0) + 1
            taken.append(_Part(request, request.take_part()))
            queries |= new
            chars, passages = chars + size, passages + len(new) * k
        self._waiting = deque([*passed, *(part.asked for part in taken if part.asked.parts)])
        return taken

    async def _answer(self, parts: list[_Part]) -> None:
        """Search all parts in one call; if it fails, in one call each, so that one bad query does not fail the rest."""
        self.since = begun = time.monotonic()
        try:
            rows = await asyncio.get_running_loop().run_in_executor(self._thread, self._call, parts)
        except Exception as error:  # whatever a retriever raises is this request's failure, not the server's end
            self._metrics.search_errors += 1
            if len(parts) > 1:
                for part in parts:
                    await self._answer([part])
                return
            log.warning("a search failed: %s: %s", type(error).__name__, error)
            if not parts[0].asked.results.done():
                parts[0].asked.results.set_exception(Refused(500, f"the search failed: {type(error).__name__}"))
            return
        finally:
            self.since = None
        self._metrics.search_seconds.add(time.monotonic() - begun)
        self._metrics.batch_queries.add(len({(query, part.asked.k) for part in parts for query in part.queries}))
        for part, found in zip(parts, rows, strict=True):
            part.asked.add(found)

    def _call(self, parts: list[_Part]) -> list[dict[str, Row]]:
        """Return each part's rows by query."""
        wanted: defaultdict[int, dict[str, None]] = defaultdict(dict)  # by their k, in order
        for part in parts:
            wanted[part.asked.k] |= dict.fromkeys(part.queries)
        found: dict[tuple[str, int], list[Passage]] = {}
        for k, queries in wanted.items():
            results = [list(passages)[:k] for passages in self._search(list(queries), k)]
            if len(results) != len(queries):
                raise UserError(f"{len(queries)} queries got {len(results)} lists")
            found |= {(query, k): passages for query, passages in zip(queries, results, strict=True)}
        asked = {(query, part.asked.k, part.asked.write) for part in parts for query in part.queries}
        rows = {(query, k, write): write(found[query, k]) for query, k, write in asked}
        return [{query: rows[query, part.asked.k, part.asked.write] for query in part.queries} for part in parts]
