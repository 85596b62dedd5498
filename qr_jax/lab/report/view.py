"""`qr-jax view`: the page of a run, or of several, on loopback, made anew as they go on."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from qr_jax.errors import UserError
from qr_jax.lab.report import charts, overlay, page, read
from qr_jax.logging import terminal

ADDRESS = "127.0.0.1"
FOLLOW_S = 5.0  # how often the page asks for news
NULL_REST = 30  # the null control is made anew after so many times the seconds it took
HEADERS = {"Cache-Control": "no-store", "Content-Security-Policy": "frame-ancestors 'none'"}
HEADERS |= {"Cross-Origin-Resource-Policy": "same-origin", "Referrer-Policy": "no-referrer"}
HEADERS |= {"X-Content-Type-Options": "nosniff"}
KINDS = {"/": "text/html", "/run.json": "application/json", "/episodes.json": "application/json"}


class Server(ThreadingHTTPServer):
    """Serves the runs in `folders` at `url`. `null` gives the null control's figures of the steps so far, or None."""

    daemon_threads = True

    def __init__(self, folders: Sequence[Path], port: int, *, null: Callable[[], charts.Null | None] = lambda: None):
        self.folders, self.null = folders, null
        self._kept, self._lock = {}, threading.Lock()
        self._null, self._null_from = None, 0.0
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise UserError(f"port {port} cannot be had ({error.strerror}); give another one with --port") from error
        try:
            self._stamp, self._page, self._page_from = self._made()
        except BaseException:
            self.server_close()
            raise
        end = "" if self.server_port == 80 else f":{self.server_port}"
        self.hosts = {f"{ADDRESS}{end}", f"localhost{end}"}

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_port}/"

    def current(self) -> tuple[page.Page, str]:
        """The page as the run stands, made anew at most every second, and the tag of its state."""
        with self._lock:
            if self._now() != self._stamp and time.monotonic() > self._page_from:
                self._stamp, self._page, self._page_from = self._made()
            return self._page, f'"{hash(self._stamp) & (2**64 - 1):016x}"'

    def _now(self) -> tuple:
        return tuple(map(read.stamp, self.folders))

    def _made(self) -> tuple[tuple, page.Page, float]:
        """The folders' stamp, their page, and the time before which it is not made again."""
        stamp, now = self._now(), time.monotonic()
        if len(self.folders) > 1:
            return stamp, overlay.build(self.folders, follow_s=FOLLOW_S), time.monotonic() + 1
        if now >= self._null_from:
            self._null = self.null()
            self._null_from = time.monotonic() + NULL_REST * (time.monotonic() - now)
        made = page.build(self.folders[0], null=self._null, follow_s=FOLLOW_S, kept=self._kept)
        return stamp, made, time.monotonic() + 1


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        # A page of another site that has its own name point to this machine (DNS rebinding) gives its name here.
        if self.headers.get("Host", "").lower() not in self.server.hosts:
            told = f"this page is for this machine alone; open {self.server.url}"
            return self._answer(403, "text/plain", told.encode())
        path = self.path.partition("?")[0]
        if path not in KINDS:
            return self._answer(404, "text/plain", b"there is no such page")
        try:
            made, tag = self.server.current()
        except (ValueError, OSError) as error:
            return self._answer(503, "text/plain", str(error).encode("utf-8", "replace"))
        if self.headers.get("If-None-Match") == tag:
            return self._answer(304, KINDS[path], b"", tag)
        text = {"/": made.html, "/run.json": made.run, "/episodes.json": made.episodes}[path]
        self._answer(200, KINDS[path], text.encode("utf-8", errors="replace"), tag)

    do_HEAD = do_GET

    def _answer(self, status: int, kind: str, body: bytes, tag: str | None = None) -> None:
        self.send_response(status)
        for name, value in (HEADERS | ({"ETag": tag} if tag else {})).items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):  # the reader went away
                self.wfile.write(body)

    def log_message(self, *_) -> None:
        """Nothing: the terminal is for the run."""


def view(
    folders: Sequence[Path],
    *,
    port: int = 8770,
    null: Callable[[], charts.Null | None] = lambda: None,
    say: Callable[[str], None] = terminal.say,
) -> None:
    """Serve the page of the runs until Ctrl-C, which ends the process with 0.

    ValueError when a folder is no run or the port is taken.
    """
    with terminal.phase("making the page"):
        served = Server(folders, port, null=null)
    with served as server:
        say(f"{server.url}  (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt as heard:  # kept to the end, or it would be raised again (interrupts.py)
            say("ended")
            raise SystemExit(0) from heard
