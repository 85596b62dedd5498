"""A command's output: permanent lines and, below them, one live line for the current phase. Nothing else prints.

A process has one terminal, so its state stands here. On a terminal that rich can draw on, the innermost phase is a live
line: how far it is, and how much longer it takes. Elsewhere a phase prints a line when nothing was printed for
QUIET_S, or for FIRST_S if nothing was printed at all.
"""

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

T = TypeVar("T")
QUIET_S = 6.0  # not on a terminal; below 10 s of silence even if a library holds all threads for seconds
FIRST_S = 1.2  # the same before the first line, so that a short command prints only its result
DRAW_S = 0.25  # between two drawings of the live line
LATE_S = 0.3  # a command that is done by then draws nothing
FEW = 10  # in a phase of at most so many items, the first already predicts the time left
COMPILING = "compiling"  # the phase that counts compiled programs; it shows its time left while one compiles
WIDTH = 120  # columns where there is no terminal


@dataclass(eq=False)
class Phase:
    """Something that takes time: its owner says how far it is, or `asked` does whenever it is shown."""

    what: str
    total: int | None = None
    asked: Callable[[], tuple[int, int]] | None = None  # done and total
    done: int = 0
    start: int = 0  # how much was done before
    note: str = ""
    begun_s: float = field(default_factory=time.monotonic)
    first: tuple[int, float] | None = None  # (done, time) when progress was first seen
    last: tuple[int, float] = (0, 0.0)  # (done, time) of the last progress seen

    def line(self) -> str:
        """Format the phase as in "cold start 120/400  loss .845  45 s  about 1m44s left"."""
        done, total = self.asked() if self.asked else (self.done, self.total)
        now = time.monotonic()
        beside = _STATE.beside()
        told = f"{self.what} {done:,}/{total:,}" if total else self.what
        parts = [told, self.note, "" if self.note else beside, clock(now - self.begun_s)]
        is_held_up = beside and self.what != COMPILING
        if total and done > self.start and not is_held_up:
            left_s = self._left_s(done, total, now)
            parts += [] if left_s is None else [f"about {clock(left_s)} left"]
        return readable("  ".join(filter(None, parts)))

    def _left_s(self, done: int, total: int, now: float) -> float | None:
        """Estimate the seconds left; None while only the first of many are done, whose time includes compiling."""
        self.last = self.last if self.last[0] == done else (done, now)
        self.first = self.first or self.last
        if done <= self.first[0] and total > FEW:
            return None
        before, since = self.first if done > self.first[0] else (self.start, self.begun_s)
        each_s, left = (self.last[1] - since) / (done - before), max(total - done, 0)
        return max(each_s * left - (now - self.last[1]), each_s * (left - 1), 0)  # an overdue item adds no time


class _State:
    """The terminal's state: its stream, the phases that go on, the live line; `lock` is held while it is used."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal's handler may speak while its own thread does
        self.stream: Literal["stdout", "stderr"] | None = "stdout"
        self.stdout: Any = None  # sys.stdout as it was before `hushed`
        self.verbose = False
        self.phases: list[Phase] = []
        self.beside: Callable[[], str] = lambda: ""  # what holds a phase up now, such as a program that is compiled
        self.said_s = time.monotonic()
        self.spoken = False  # whether anything was printed since the last `speak`
        self.rich: tuple[Any, Any, Any] | None = None  # its Console, Live and Text
        self.live: Any = None  # while a line is drawn
        self.watcher: threading.Thread | None = None
        self.ended = threading.Event()  # the last phase


_STATE = _State()


def speak(stream: Literal["stdout", "stderr"] | None, *, verbose: bool = False) -> None:
    """Set the stream that this process prints to from now on; None: to none. `verbose`: details too."""
    with _STATE.lock:
        _take_down()
        _STATE.stream, _STATE.verbose, _STATE.said_s, _STATE.spoken = stream, verbose, time.monotonic(), False


def beside(asked: Callable[[], str]) -> None:
    """Add what `asked` says to the line of every phase without a note; such a line shows no time left.

    The phase COMPILING still shows its time left, because `asked` is about that phase.
    """
    _STATE.beside = asked


def is_verbose() -> bool:
    """Return True if details are printed too."""
    return _STATE.verbose


def say(text: str) -> None:
    """Print a line that stays (or some), at once."""
    text = readable(text)
    with _STATE.lock:
        _STATE.said_s, _STATE.spoken = time.monotonic(), True
        if _STATE.live is not None:
            _STATE.live.console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
        elif _STATE.stream:
            print(text, file=_stream(), flush=True)


def result(text: str) -> None:
    """Print a command's result to stdout, whole; the live line is removed before."""
    with _STATE.lock:
        _take_down()
        print(readable(text), flush=True)


def readable(text: str) -> str:
    """Return the text with control characters, such as an escape in a model's answer, written out as "\\x1b"."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in text)


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Drop what others print to stdout in this block; what is said here is still printed."""
    _STATE.stdout = sys.stdout
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        _STATE.stdout = None


@contextlib.contextmanager
def phase(
    what: str, total: int | None = None, *, asked: Callable[[], tuple[int, int]] | None = None
) -> Iterator[Phase]:
    """Show `what` as the phase that goes on in this block."""
    begun = Phase(what, total, asked)
    with _STATE.lock:
        if not _STATE.phases:  # silence before the phase does not count
            _STATE.said_s = max(_STATE.said_s, begun.begun_s)
        _STATE.phases.append(begun)
        if _STATE.rich is None and _is_terminal():
            _STATE.rich = _rich()  # here: while a data set's library is imported, no other thread may import
        if _STATE.watcher is None:
            _STATE.ended.clear()
            _STATE.watcher = threading.Thread(target=_watch, name="terminal", daemon=True)
            _STATE.watcher.start()
    try:
        yield begun
    finally:
        with _STATE.lock:
            if begun in _STATE.phases:  # a generator may end after a test made the state anew
                _STATE.phases.remove(begun)
            if not _STATE.phases:
                _take_down()
                _STATE.watcher = None
                _STATE.ended.set()


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield the items within a phase, counted against `total`, which may be an estimate."""
    with phase(what, total) as shown:
        for shown.done, item in enumerate(items):
            yield item


def clock(seconds: float) -> str:
    """Format seconds as in 4 s, 1m04s, 2h05m."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole} s"


def width() -> int:
    """Return the terminal's columns; WIDTH where there is none."""
    with contextlib.suppress(OSError, ValueError):
        if _is_terminal():
            return os.get_terminal_size(_stream().fileno()).columns or WIDTH
    return WIDTH


def _is_terminal() -> bool:
    return bool(_STATE.stream) and _stream().isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _stream() -> Any:
    return sys.stderr if _STATE.stream == "stderr" else _STATE.stdout or sys.stdout


def _rich() -> tuple[Any, Any, Any]:
    """Return rich's Console, Live and Text."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    return Console, Live, Text


def _watch() -> None:
    me, pause_s = threading.current_thread(), FIRST_S
    while True:
        with _STATE.lock:
            if _STATE.watcher is not me:
                return
            with contextlib.suppress(OSError, ValueError):  # the reader is gone; the main thread will get the error
                pause_s = _show(_STATE.phases[-1])
        _STATE.ended.wait(pause_s)


def _show(current: Phase) -> float:
    """Draw the phase, or say it if that is due; return the seconds until it should be shown again."""
    now = time.monotonic()
    if _STATE.stream is None:
        return QUIET_S
    if _is_terminal() and _STATE.rich:
        if _STATE.live is None and now - _STATE.phases[0].begun_s < LATE_S:
            return LATE_S
        _draw(current.line(), *_STATE.rich)
        return DRAW_S
    if now - _STATE.said_s >= (QUIET_S if _STATE.spoken else FIRST_S):
        say(current.line())
        now = time.monotonic()
    return max(_STATE.said_s + (QUIET_S if _STATE.spoken else FIRST_S) - now, 0.05)


def _draw(line: str, console: Any, live: Any, text: Any) -> None:
    if _STATE.live is None:
        both = {"redirect_stdout": sys.stdout.isatty(), "redirect_stderr": sys.stderr.isatty()}
        where = console(file=_stream())
        _STATE.live = live(console=where, auto_refresh=False, transient=True, **both)
        _STATE.live.start()
        where.show_cursor(True)  # a process that is killed would leave none
    shown = text(line, style="dim", no_wrap=True, overflow="ellipsis")
    _STATE.live.update(shown, refresh=True)


def _take_down() -> None:
    if _STATE.live is not None:
        _STATE.live.stop()
        _STATE.live = None
