"""A thread that is kept for calls that may wait for somebody: it holds up neither a signal nor the process's end."""

import contextlib
import ctypes
import functools
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar, cast

Result = TypeVar("Result")
Work = Callable[[], None]

TRIM = -1  # of glibc's mallopt: how much may lie free at a heap's top
MMAP = -3  # and from which size on a block is mapped by itself


class KeptThread:
    """A daemon thread that does its work in order. (At exit Python would wait for a ThreadPoolExecutor's threads.)"""

    def __init__(self, name: str):
        self._name, self._given, self._closed = name, queue.SimpleQueue[Work | None](), threading.Event()
        self._begun = False

    def submit(
        self, work: Callable[..., Result], *given: Any, then: Work = lambda: None, **named: Any
    ) -> Future[Result]:
        """Queue the work; return a Future of its result. `then` runs before that is set. One caller at a time."""
        done: Future[Result] = Future()

        def run() -> None:
            result, error = None, None
            try:
                result = work(*given, **named)
            except BaseException as raised:
                error = raised
            then()
            done.set_exception(error) if error else done.set_result(cast("Result", result))

        if not self._begun:
            self._begun = True
            threading.Thread(target=_serve, args=(self._given, self._closed), name=self._name, daemon=True).start()
            weakref.finalize(self, self._given.put, None).atexit = False
        self._given.put(run)
        return done

    def close(self) -> None:
        """Drop the work that has not begun, and do not wait for the rest."""
        self._closed.set()
        self._given.put(None)


def _serve(given: "queue.SimpleQueue[Work | None]", closed: threading.Event) -> None:
    while (work := given.get()) and not closed.is_set():
        _give_back()
        work()


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    return library


def _give_back() -> None:
    """Free the memory at the top of this thread's heap, which `malloc_trim` does not reach; takes microseconds.

    glibc trims there when a large block is freed, but keeps twice the size of the largest that ever had a mapping, so
    each answer of megabytes left some for good. The limit is lowered for the block freed here, then set to glibc's
    largest.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = _library()
        library.mallopt(TRIM, 2**17)
        library.free(library.malloc(2**17))
        library.mallopt(MMAP, 2**25)
        library.mallopt(TRIM, 2**26)
