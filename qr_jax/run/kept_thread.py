"""A daemon thread for calls that may block: it delays neither signals nor the end of the process."""

import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar, cast

from qr_jax.errors import Interrupted

Result = TypeVar("Result")
Work = Callable[[], None]

POLL_S = 0.1  # between two calls of `stop_now`


class KeptThread:
    """Daemon threads that begin their work in order. (At exit Python would wait for a ThreadPoolExecutor's threads.)

    With one thread, the default, work begins only after all earlier work has ended.
    """

    def __init__(self, name: str, at_once: int = 1):
        self._name, self._given, self._closed = name, queue.SimpleQueue[Work | None](), threading.Event()
        self._at_once, self._begun, self._lock = at_once, 0, threading.Lock()

    def submit(
        self, work: Callable[..., Result], *given: Any, then: Work = lambda: None, **named: Any
    ) -> Future[Result]:
        """Queue the work; return a Future of its result. `then` runs before it is done."""
        done: Future[Result] = Future()

        def run() -> None:
            result, error = None, None
            try:
                result = work(*given, **named)
            except BaseException as raised:
                error = raised
            then()
            done.set_exception(error) if error else done.set_result(cast("Result", result))

        with self._lock:
            if self._begun < self._at_once:
                self._begun += 1
                threading.Thread(target=_serve, args=(self._given, self._closed), name=self._name, daemon=True).start()
                weakref.finalize(self, self._given.put, None).atexit = False
            self._given.put(run)
        return done

    def close(self) -> None:
        """Drop the work that has not begun, and do not wait for the rest."""
        self._closed.set()
        for _ in range(self._at_once):
            self._given.put(None)


def _serve(given: "queue.SimpleQueue[Work | None]", closed: threading.Event) -> None:
    while (work := given.get()) and not closed.is_set():
        work()


def run_interruptible(work: Callable[[], Result], stop_now: Callable[[], bool] = lambda: False) -> Result:
    """Return the work's result, from a thread of its own, so that a signal is heard while it waits for somebody.

    Raises Interrupted, and abandons the work, if `stop_now()` becomes true first.
    """
    done = KeptThread("beside").submit(work)
    while not wait([done], timeout=POLL_S).done:
        if stop_now():
            raise Interrupted
    return done.result()
