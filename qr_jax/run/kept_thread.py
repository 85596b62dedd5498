"""A thread that is kept for calls that may wait for somebody: it holds up neither a signal nor the process's end."""

import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar, cast

Result = TypeVar("Result")
Work = Callable[[], None]


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
        work()
