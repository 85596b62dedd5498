"""JSON over HTTP, by POST or GET: retried within a deadline, bounded in size, never redirected.

After repeated failures a server gets no request for a while, and callers wait meanwhile. No message holds a secret. Why
not a library: tenacity and stamina neither give a try the seconds that are left nor share a circuit breaker among
calls, and httpx2 takes no network backend of ours, without which a slowly dripping head outlives every deadline
(httpcore2, which it is built on, takes one)."""

import heapq
import json
import logging
import math
import os
import random
import re
import ssl
import string
import threading
import time
import urllib.parse
import urllib.request
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import httpcore2

from qr_jax.errors import UserError
from qr_jax.logging.secrecy import SHORTEST, looks_secret, redact, without
from qr_jax.run.kept_thread import KeptThread
from qr_jax.settings import json_text

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1  # before the first retry; it doubles with each, and half of it or more is waited, at random
LONGEST_PAUSE_S = 30.0  # that it comes to
ITEM_BYTES = 64  # an answer may have an item for so many bytes of the limit: passages have one for 100 and more
FEWEST_ITEMS = 10_000  # that an answer may have under any limit
PASSING = (408, 425, 429)  # and 500 and above: another try may do better
# What to look at after a refusal; a key's variable is named where it is known.
PATH_WRONG = "is the URL's path right, and the model's name, where one is asked for?"
KEY_WRONG = "is the key{known} right, and may it ask for this?"
LOOK_AT = {401: KEY_WRONG, 403: KEY_WRONG, 404: PATH_WRONG, 405: PATH_WRONG, 429: "its rate limit is reached"}
SERVER_FAILED = "the server itself failed, and its log says why"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
FAILURES = (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError, httpcore2.ProxyError, OSError)


class Failed(OSError):
    """No usable answer came. `passing`: a retry may get one, `pause_s` from now at the earliest.

    `status` and `reply` are of the HTTP answer, 0 and "" without one. A message never shows the whole `reply`.
    """

    def __init__(self, text: str, *, passing: bool = True, pause_s: float = 0.0, status: int = 0, reply: str = ""):
        super().__init__(redact(text))
        self.passing, self.pause_s, self.status, self.reply = passing, pause_s, status, reply


class LeftAlone(Failed):
    """No request was sent, because the server has failed too often just now."""


@dataclass(frozen=True)
class Patience:
    """Timeouts and retries of a call: `timeout_s` is for one try, `deadline_s` for all tries of a call.

    After `pause_after` failures in a row no request is sent for `pause_s`. An answer has at most `response_bytes`, and
    a list, an object or a comma for each `ITEM_BYTES` of them. Reading it takes less than 8 times `response_bytes` of
    memory, or 16 times if it has a character beyond U+FFFF, for then Python takes 4 bytes for every character.
    """

    timeout_s: float = 10.0
    deadline_s: float = 25.0
    retries: int = 2
    pause_after: int = 5
    pause_s: float = 10.0
    response_bytes: int = 16_000_000

    def __post_init__(self):
        bad = [name for name, value in vars(self).items() if value < (0 if name == "retries" else 1e-9)]
        if bad:
            wanted = "0 or more" if bad[0] == "retries" else "more than 0"
            raise UserError(f"{bad[0]} is {getattr(self, bad[0])}; wanted {wanted}")


def secret(name: str) -> str:
    """Return the secret in an environment variable. ValueError, without showing it, if it is missing or too short.

    A name that does not look like a secret's is a ValueError too: its value would not be redacted (secrecy.py).
    """
    if not looks_secret(name):
        raise UserError(f"{name} does not look like a secret's name; call the variable ..._KEY or ..._TOKEN")
    value = os.environ.get(name, "").strip()
    if len(value) < SHORTEST or not re.fullmatch(r"[!#-\[\]-~]+", value):
        problem = f"has {len(value)} characters" if value else "is not set"
        wanted = f"a secret of {SHORTEST} or more plain characters, without blanks or quotes"
        raise UserError(f"the environment variable {name} {problem}; wanted {wanted}")
    return value


class Endpoint:
    """A URL that takes JSON, with `path` if it has none; connections are kept, and several threads may call."""

    key_env = ""  # the variable that a key is wanted in, for messages

    def __init__(self, url: str, patience: Patience, headers: Mapping[str, str] | None = None, *, path: str = "/"):
        parts = url_parts(url)
        parts = parts if parts.path.strip("/") else parts._replace(path=path)
        self.url, self.patience = parts.geturl(), patience
        self._clock = _Clock()
        self._pool = _pool(parts, _Network(self._clock))
        weakref.finalize(self, self._pool.close)
        self._address = parts._replace(path=urllib.parse.quote(parts.path, safe="/%:@!$&'()*+,;=~")).geturl()
        fixed = {"Host": parts.netloc, "Content-Type": "application/json", "Accept-Encoding": "identity"}
        self._headers = [*fixed.items(), *(headers or {}).items()]
        self._secrets = [value.removeprefix("Bearer ") for value in (headers or {}).values()]
        if parts.scheme == "http" and headers and parts.hostname not in LOOPBACK:
            log.warning("%s: the token goes over the network in clear text; https:// would hide it", redact(url))
        self._lock = threading.Lock()
        self._failures, self._paused_until, self._last = 0, 0.0, ""

    def post(self, body: Any, ends: float | None = None) -> Any:
        """Post JSON and return the JSON of the answer; raise Failed if none has come by `ends` (of time.monotonic).

        Failures that may pass (no connection, a timeout, half a body, 408, 425, 429, 5xx, no JSON) are retried after
        growing pauses with jitter, or after the server's own Retry-After.
        """
        return self._answer(("POST", self._address, json.dumps(body).encode()), ends)

    def get(self, query: Mapping[str, Any], ends: float | None = None) -> Any:
        """Return the JSON that the URL answers to this query by GET; all else is as for `post`."""
        between = "&" if "?" in self._address else "?"
        words = urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
        return self._answer(("GET", f"{self._address}{between}{words}", None), ends)

    def _answer(self, request: tuple[str, str, bytes | None], ends: float | None) -> Any:
        ends = time.monotonic() + self.patience.deadline_s if ends is None else ends
        attempt = 0
        while True:
            self._wait(ends)
            try:
                answer = self._once(request, min(ends, time.monotonic() + self.patience.timeout_s))
            except Failed as error:
                self._count(error)
                pause_s = max(min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S) * random.uniform(0.5, 1), error.pause_s)
                attempt += 1
                if not error.passing or attempt > self.patience.retries or time.monotonic() + pause_s >= ends:
                    raise
                time.sleep(pause_s)
            else:
                self._count(None)
                return answer

    # ---- a server that keeps failing

    def _wait(self, ends: float) -> None:
        """Wait while the server is paused after failures; raise Failed at once if that lasts beyond `ends`."""
        with self._lock:
            failures, until, last = self._failures, self._paused_until, self._last
        if until >= ends:
            raise LeftAlone(f"{self.url} failed {failures} times in a row and is left alone for a while; last: {last}")
        time.sleep(max(0.0, until - time.monotonic()))
        if time.monotonic() >= ends:
            raise Failed(f"{self.url}: no time is left for a call")

    def _count(self, error: Failed | None) -> None:
        with self._lock:
            if error is None:
                self._failures = 0
            elif error.passing:  # a refused request says nothing about the server's health
                self._failures, self._last = self._failures + 1, str(error)
                if self._failures >= self.patience.pause_after:
                    if self._paused_until < time.monotonic():  # calls that ran at one time fail together
                        log.warning("%s; no call for %g s", error, self.patience.pause_s)
                    self._paused_until = time.monotonic() + self.patience.pause_s

    # ---- one try

    def _once(self, request: tuple[str, str, bytes | None], ends: float) -> Any:
        self._clock.ends = ends
        method, address, data = request
        try:
            with self._pool.stream(method, address, headers=self._headers, content=data) as response:
                body = _begin(response, self.patience.response_bytes + 1)
        except FAILURES as error:
            why = str(error) or type(error).__name__
            raise Failed(f"{self.url} gave no answer: {why}; is the server running, and is this its URL?") from error
        return self._read(response, body)

    def _read(self, response: httpcore2.Response, body: bytes | bytearray) -> Any:
        if len(body) > self.patience.response_bytes:
            raise Failed(f"{self.url} sent more than {self.patience.response_bytes:,} bytes", passing=False)
        body = self._without_secrets(body)
        headers = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
        text = body.replace(b"\0", b"").decode("utf-8", "replace")  # of UTF-16, too, what can be read
        said = f"{self.url} answered {response.status}: {redact(text)[:200]!r}"
        if 300 <= response.status < 400:
            where = redact(headers.get("location", ""))[:200]
            raise Failed(f"{said}; a redirect to {where!r} is not followed: name the URL that answers", passing=False)
        if response.status != 200:
            passing = response.status in PASSING or response.status >= 500
            after = headers.get("retry-after", "")
            pause_s = float(after) if after.isdecimal() and len(after) < 6 else 0.0
            look_at = SERVER_FAILED if response.status >= 500 else LOOK_AT.get(response.status, "wanted 200 and JSON")
            look_at = look_at.format(known=f" ({self.key_env})" if self.key_env else "")
            raise Failed(f"{said}; {look_at}", passing=passing, pause_s=pause_s, status=response.status, reply=text)
        if headers.get("content-encoding", "identity") != "identity":
            raise Failed(f"{self.url} sent a compressed body, which was not asked for", passing=False)
        try:
            json_text.check_items(body, max(FEWEST_ITEMS, self.patience.response_bytes // ITEM_BYTES), "the answer")
            return json_text.parse(body, parse_constant=_no_number)
        except json_text.TooMany as error:
            raise Failed(f"{self.url}: {error}", passing=False) from error
        except ValueError as error:
            raise Failed(f"{said}; that is no JSON. Is this the right URL?") from error

    def _without_secrets(self, body: bytes | bytearray) -> bytes | bytearray:
        """Remove this endpoint's secrets from an answer: they must not reach passages, verdicts or journals."""
        try:
            return without(body.decode(), self._secrets).encode() if self._secrets else body
        except UnicodeDecodeError:  # and so no JSON that is taken
            return body


def fetch(url: str, timeout_s: float, most_bytes: int) -> tuple[int, dict[str, str], bytes]:
    """Return the status, the headers (lower case) and the first bytes of what a URL answers to GET.

    There are no redirects, cookies, keys or proxies. Failed, an OSError, if it is not all there within `timeout_s`.
    """
    clock = _Clock()
    clock.ends = time.monotonic() + timeout_s
    parts = url_parts(url)
    address = urllib.parse.quote(parts.geturl(), safe=string.printable.strip())
    headers = {"Host": parts.netloc, "User-Agent": "qr_jax", "Accept-Encoding": "identity"}
    try:
        pool = httpcore2.ConnectionPool(network_backend=_Network(clock))
        with pool, pool.stream("GET", address, headers=[*headers.items()]) as response:
            body = _begin(response, most_bytes)
    except FAILURES as error:
        raise Failed(f"{url[:100]} gave no answer: {str(error) or type(error).__name__}") from error
    there = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
    return response.status, there, bytes(body[:most_bytes])


def _begin(response: httpcore2.Response, enough: int) -> bytearray:
    """Read the body until it ends, or until `enough` bytes are there."""
    body = bytearray()
    for part in response.iter_stream():
        body += part
        if len(body) >= enough:
            break
    return body


class _Clock(threading.local):
    """The deadline of the call that this thread makes."""

    ends = math.inf

    def left(self, seconds: float | None) -> float:
        left_s = self.ends - time.monotonic()
        if left_s <= 0:
            raise httpcore2.TimeoutException("it was too slow")
        return left_s if seconds is None else min(left_s, seconds)


class _Network(httpcore2.NetworkBackend):
    """Connections whose every wait ends at the call's deadline, however slowly bytes come."""

    def __init__(self, clock: _Clock):
        self._clock, self._sockets = clock, httpcore2.SyncBackend()

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        stream = self._sockets.connect_tcp(host, port, self._clock.left(timeout), local_address, socket_options)
        return _Stream(self._clock, stream)

    def sleep(self, seconds: float) -> None:
        time.sleep(self._clock.left(seconds))


class _Stream(httpcore2.NetworkStream):
    def __init__(self, clock: _Clock, stream: httpcore2.NetworkStream):
        self._clock, self._stream = clock, stream
        self.close, self.get_extra_info = stream.close, stream.get_extra_info

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._clock.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._clock.left(timeout))

    def start_tls(self, ssl_context, server_hostname=None, timeout=None):
        stream = self._stream.start_tls(ssl_context, server_hostname, self._clock.left(timeout))
        return _Stream(self._clock, stream)


def _pool(parts: urllib.parse.SplitResult, network: _Network) -> httpcore2.ConnectionPool:
    """Return a pool of kept connections to the URL's host; over https through the environment's proxy, if any."""
    kept: dict[str, Any] = {"network_backend": network, "max_connections": None}
    host = parts.hostname or ""
    if parts.scheme == "http":
        return httpcore2.ConnectionPool(**kept)
    kept["ssl_context"] = ssl.create_default_context()
    proxy = urllib.request.getproxies().get("https")
    if not proxy or host in LOOPBACK or urllib.request.proxy_bypass(host):
        return httpcore2.ConnectionPool(**kept)
    through = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    known = (urllib.parse.unquote(through.username or ""), urllib.parse.unquote(through.password or ""))
    address = httpcore2.URL(scheme="http", host=through.hostname or "", port=through.port or 80, target="/")
    return httpcore2.HTTPProxy(proxy_url=address, proxy_auth=known if through.username else None, **kept)


def url_parts(url: str) -> urllib.parse.SplitResult:
    """Return the URL's parts; ValueError if it is no HTTP URL, or holds a secret."""
    try:
        parts = urllib.parse.urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, say
        parts = known = None
    in_query = urllib.parse.parse_qsl(parts.query) if parts else []
    if not parts or not known or "@" in parts.netloc or any(looks_secret(name) for name, _ in in_query):
        shown = redact(re.sub(r"(=)[^&#]*", r"\1[redacted]", re.sub(r"//[^/?#]*@", "//[redacted]@", url)))
        raise UserError(f"the URL is {shown!r}; wanted http://HOST[:PORT][/PATH] or https://, without a key")
    if not f"{parts.netloc}{parts.query}".isascii():
        wanted = "a host as DNS has it (xn--...), a query's letters as %C3%B6"
        raise UserError(f"the URL is {redact(url)!r}, with letters that are not ASCII; wanted {wanted}")
    return parts


def _no_number(name: str) -> Any:
    raise UserError(f"{name} is no JSON")


class Crew:
    """A pool of at most `at_once` kept threads that make calls; each call takes the first free thread.

    The C library keeps a thread's memory of a large answer in that thread's arena: with new threads, or with all
    threads in turn, a run grew by that answer again and again. No thread delays the process's end.
    """

    def __init__(self, at_once: int):
        self._threads = [KeptThread("post") for _ in range(at_once)]
        self._free, self._lock, self._room = list(range(at_once)), threading.Lock(), threading.Semaphore(at_once)

    def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Return the work's result for each item; the first error is raised."""
        return [made.result() for made in [self._begun(work, item) for item in items]]

    def _begun(self, work: Callable[[Item], Result], item: Item) -> Future[Result]:
        self._room.acquire()
        with self._lock:
            number = heapq.heappop(self._free)

        def free() -> None:  # before the result is seen: whoever asks next, takes this thread again
            with self._lock:
                heapq.heappush(self._free, number)
            self._room.release()

        return self._threads[number].submit(work, item, then=free)
