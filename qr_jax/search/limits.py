"""Limits of the servers, and the refusal of a request that is over one of them."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

RETRY = {"Retry-After": "1"}
SMALL_BYTES = 65_536  # a body or an answer up to this size is taken whatever the large ones hold


class Refused(Exception):
    """A request refused with this status; `detail` says why, to the client."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None):
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


@dataclass(frozen=True)
class HttpLimits:
    """Limits of any of our servers; `body_bytes` has room for `Limits.queries` texts of `Limits.query_chars`."""

    body_bytes: int = 32_000_000
    bodies_bytes: int = 128_000_000  # of all large bodies that come or are being answered
    connections: int = 1024  # open at once
    idle_s: int = 60  # how long a kept connection may send nothing, and how long a body or an answer may take
    grace_s: int = 20  # how long the last answers may take when the server ends


@dataclass(frozen=True)
class Limits(HttpLimits):
    """Limits of a request, of search calls and of the server."""

    answer_bytes: int = 64_000_000
    queries: int = 4096
    k: int = 100
    default_k: int = 3
    query_chars: int = 4096  # a longer query is cut: it is searched for, and fails no other query
    waiting: int = 65_536  # queries that wait for their search; further ones are refused with 503
    batch: int = 64  # queries of one search call
    call_passages: int = 512  # of one search call: queries times k; each call has one query at least
    call_chars: int = 8_192  # of the queries of one search call
    wait_s: float = 0.003  # how long a request waits for others, when other clients are connected
    search_s: float = 30.0  # after this time a request gets 504
    answers_bytes: int = 256_000_000  # of all large answers that are made or sent

    @property
    def usual_k(self) -> int:
        """Return the passages of a request that does not say how many."""
        return min(self.default_k, self.k)

    def share(self, query: str, k: int) -> float:
        """Return how much of one search call this query takes."""
        return max(1 / self.batch, k / self.call_passages, len(query) / self.call_chars)


class Held:
    """Bytes that requests hold: at most `each_bytes` of one request and `all_bytes` of all together.

    Up to SMALL_BYTES of a request are not counted, so that small requests are served whatever the large ones hold.
    `advice` tells a client what to do; `count` is called for each request that is refused.
    """

    def __init__(self, name: str, each_bytes: int, all_bytes: int, advice: str, count: Callable[[], None]):
        self._name, self._each, self._all, self._advice, self._count = name, each_bytes, all_bytes, advice, count
        self.bytes = 0

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that raises a request's bytes to a number: Refused with 413 or 503 if over a limit."""
        counted = 0

        def hold(size: int) -> None:
            nonlocal counted
            if size > self._each:
                self._count()
                text = f"the {self._name} has {size:,} bytes; at most {self._each:,} are taken; {self._advice}"
                raise Refused(413, text)
            if size <= max(counted, SMALL_BYTES):
                return
            if self.bytes + size - counted > self._all:
                self._count()
                text = f"other requests hold {self.bytes - counted:,} of {self._all:,} bytes, and this {self._name} has"
                raise Refused(503, f"{text} {size:,}; try again, or {self._advice}", RETRY)
            self.bytes += size - counted
            counted = size

        try:
            yield hold
        finally:
            self.bytes -= counted
