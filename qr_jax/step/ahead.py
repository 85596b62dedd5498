"""Overlap (train.overlap=1): the next step's episodes are played beside the update, by the policy before it.

The pool is settled before they are drawn, so queries are drawn in the same order as without overlap; what differs is
that a step's policy is one update older than its learner's. Episodes played ahead are in the checkpoint, so that a run
that goes on takes the same steps.
"""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from qr_jax.errors import Interrupted
from qr_jax.rollout.engine import Statistics
from qr_jax.run.kept_thread import POLL_S, KeptThread
from qr_jax.step import grading
from qr_jax.step.grading import Group

Updated = TypeVar("Updated")
Played = TypeVar("Played")


@dataclass(frozen=True)
class Ahead:
    """A step's groups, played beside the step before, their cost, and the seconds it took.

    `lag`: by how many updates their policy is older than the one that trains on them, 0 where that step made none.
    """

    groups: tuple[Group, ...]
    statistics: Statistics
    lag: int
    played_s: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        """Convert to a nested host value (parallel/plain.py), without seconds: they are not the same again."""
        counts = {name: value for name, value in vars(self.statistics).items() if not name.endswith("_s")}
        return {"groups": [group.to_plain() for group in self.groups], "statistics": counts, "lag": self.lag}


def from_plain(value: Mapping[str, Any]) -> Ahead:
    return Ahead(tuple(map(grading.from_plain, value["groups"])), Statistics(**value["statistics"]), value["lag"])


def beside(update: Callable[[Callable[[], None]], Updated], play: Callable[[], Played]) -> tuple[Updated, Played]:
    """Run `update` in a thread and `play` in this one; return both results.

    `update` gets a function to call before it changes what `play` reads: it returns when that has ended, and raises
    Interrupted if it failed. An error of `play` is raised once the update has ended; else the update's own is.
    """
    ended, failed = threading.Event(), threading.Event()

    def wait_for_play() -> None:
        ended.wait()
        if failed.is_set():
            raise Interrupted

    updated: Future[Updated] = KeptThread("update").submit(update, wait_for_play)
    try:
        played = play()
    except BaseException:
        failed.set()
        raise
    finally:
        ended.set()
        while not wait([updated], timeout=POLL_S).done:  # a signal is heard meanwhile
            pass
    return updated.result(), played
