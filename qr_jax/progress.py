"""A bar on stderr while something long goes on; nothing where stderr is no terminal."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
EVERY_S = 0.2
WIDTH = 30


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The same items, counted against `total`, which may be an estimate."""
    if not sys.stderr.isatty():
        yield from items
        return
    begun = shown = time.monotonic()
    done = 0
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - shown >= EVERY_S:
            shown = time.monotonic()
            print(f"\r{bar(done, total, what, shown - begun)}", end="", file=sys.stderr, flush=True)
    print(f"\r{bar(done, done, what, time.monotonic() - begun)}", file=sys.stderr)


def bar(done: int, total: int, what: str, seconds: float) -> str:
    """One line: how far, how fast and how much longer."""
    share = min(done / total, 1.0) if total else 1.0
    rate = done / seconds if seconds else 0.0
    left = f"{max(total - done, 0) / rate:.0f} s left" if rate else "?"
    filled = "#" * round(WIDTH * share)
    return f"{what} [{filled:<{WIDTH}}] {share:4.0%} {done:,} at {rate:,.0f}/s, {left}   "
