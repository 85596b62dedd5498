"""Whose mistake is an error? With what was asked, which only its user can mend; or another, which may pass. Ctrl-C."""

import os
import signal
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
WRONG, FAILED = 2, 1  # a command's exit codes: asking again would not help, or might
INTERRUPTED = 130  # Ctrl-C, as shells have it
IMPORT_S = 10.0  # how long Ctrl-C waits for what is imported; a user's file may do so for ever
LOST = 75  # of a process whose others are gone or late (sysexits.h, EX_TEMPFAIL): start the same command again on all


_came_s = 0.0  # when Ctrl-C came first


class Busy(OSError):
    """Another machine has the run: this process ends with LOST, and the same command may go on with it later."""


def is_of_asking(error: BaseException) -> bool:
    """Whether it is a ValueError raised by a file of qr_jax, which speaks to the user; a library's is a bug of ours."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not isinstance(error, ValueError):
        return False
    return PACKAGE in Path(trace.tb_frame.f_code.co_filename).resolve().parents


class Interrupt(KeyboardInterrupt):
    """Ctrl-C, until it is heard: what a callback of a library swallows is raised again."""

    def __init__(self) -> None:
        weakref.finalize(self, _interrupt_again).atexit = False


def hear_interrupts() -> None:
    """From now on Ctrl-C raises an Interrupt."""
    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = _unraisable


def interrupt(number: int, frame: Any) -> None:
    """What hears SIGINT where no run does. While a module is imported it waits: a library's C code may bear none."""
    global _came_s
    _came_s = _came_s or time.monotonic()
    if _imports(frame) and time.monotonic() - _came_s < IMPORT_S:
        return _interrupt_again()
    raise Interrupt  # bound to no name: a callback that swallows it is then the last to hold it


def _imports(frame: Any) -> bool:
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _interrupt_again() -> None:
    again = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    again.daemon = True
    again.start()


def _unraisable(about: Any) -> None:
    """As Python does, but that an interrupt is not shown where it was swallowed."""
    if not isinstance(about.exc_value, Interrupt):
        sys.__unraisablehook__(about)
