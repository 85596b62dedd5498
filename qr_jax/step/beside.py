"""Work in a thread of its own, so that a signal is heard while it waits for somebody."""

from collections.abc import Callable
from concurrent.futures import wait
from typing import TypeVar

from qr_jax.errors import Interrupted
from qr_jax.parallel import hosts
from qr_jax.rollout.engine import POLL_S
from qr_jax.run.kept_thread import KeptThread

Result = TypeVar("Result")


def run_interruptible(work: Callable[[], Result], stop_now: Callable[[], bool]) -> Result:
    """Return the work's result; raise Interrupted, leaving the work behind, if the run is told to stop before."""
    done = KeptThread("beside").submit(work)
    while not wait([done], timeout=POLL_S).done:
        if stop_now():
            raise Interrupted
    return done.result()


def beside(work: Callable[[], Result]) -> Result:
    """Run the work in a thread, however long it takes: a signal is handled meanwhile, and the work goes on.

    With several processes it runs in this thread, because it may call collectives.
    """
    return work() if hosts.count() > 1 else run_interruptible(work, lambda: False)
