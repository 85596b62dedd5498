"""Work in a thread of its own, so that a signal is heard while it waits for somebody."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from qr_jax.rollout.engine import POLL_S, Interrupted

Result = TypeVar("Result")


def heard(work: Callable[[], Result], stop_now: Callable[[], bool]) -> Result:
    """What the work gives or raises; Interrupted, with the work left behind, when the run is told to stop before."""
    done: Future[Result] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="beside", daemon=True).start()
    while not wait([done], timeout=POLL_S).done:
        if stop_now():
            raise Interrupted
    return done.result()
