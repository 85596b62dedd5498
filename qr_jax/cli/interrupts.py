"""Ctrl-C in any command, and SIGTERM in those without a run (run/runs.py has a run's): nothing made is lost."""

import os
import signal
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qr_jax import errors

STOPPED = "stopped by Ctrl-C"

_heard = False  # Ctrl-C, once


class Interrupt(KeyboardInterrupt):
    """A Ctrl-C on its way to the command: if a library's callback swallows it, the process ends."""

    def __init__(self) -> None:
        weakref.finalize(self, leave).atexit = False


def hear_interrupts() -> None:
    """Let the first Ctrl-C from now on raise an Interrupt, and a second one end the process."""
    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = _unraisable


def interrupt(number: int, frame: Any) -> None:
    """Handle SIGINT outside of a run, where nothing is lost if the process ends at once: raise Interrupt, or end it.

    A second Ctrl-C ends it, and one during an import: a library's C code may bear no exception.
    """
    global _heard
    if _heard or _imports(frame):
        leave()
    _heard = True
    raise Interrupt  # bound to no name: a callback that swallows it is then the last to hold it


def leave() -> None:
    """End the process here; the system call alone, for whoever is interrupted may hold any lock."""
    clear = "\r\033[K" if os.isatty(2) else ""  # of a live line
    os.write(2, f"{clear}{STOPPED}\n".encode())
    os._exit(errors.INTERRUPTED)


@contextmanager
def hearing_sigterm() -> Iterator[None]:
    """Raise SystemExit on SIGTERM in this block, as Ctrl-C raises KeyboardInterrupt, so that results can be written."""

    def end(*_: Any) -> None:
        raise SystemExit(errors.by_signal(signal.SIGTERM))

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _imports(frame: Any) -> bool:
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _unraisable(about: Any) -> None:
    """Report an unraisable exception as Python does, but not an Interrupt that was swallowed."""
    if not isinstance(about.exc_value, Interrupt):
        sys.__unraisablehook__(about)
