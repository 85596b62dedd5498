"""Work in a thread of its own, so that a signal is heard while it waits for somebody."""

from collections.abc import Callable
from concurrent.futures import wait
from typing import TypeVar

from qr_jax.errors import Interrupted
from qr_jax.kept_thread import KeptThread
from qr_jax.processes import hosts
from qr_jax.rollout.engine import POLL_S

Result = TypeVar("Result")


def run_interruptible(work: Callable[[], Result], stop_now: Callable[[], bool]) -> Result:
    """What the work gives or raises; Interrupted, with the work left behind, when the run is told to stop before."""
    done = KeptThread("beside").submit(work)
    while not wait([done], timeout=POLL_S).done:
        if stop_now():
            raise Interrupted
    return done.result()


def beside(work: Callable[[], Result]) -> Result:
    """What the work gives or raises, however long it takes: a signal is answered meanwhile, and the work goes on.

    Of several processes it is done in this thread, whose collectives it may call.
    """
    return work() if hosts.count() > 1 else run_interruptible(work, lambda: False)
