"""Rollouts on the devices of all hosts, for a model that one host cannot hold: process 0 leads and the others follow.

All episodes, environments and searches are process 0's. What it has its cache rows do it tells the others first, and
every process runs the same programs in the same order.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from qr_jax.models.incremental import Laid
from qr_jax.processes import hosts
from qr_jax.rollout.engine import Engine
from qr_jax.rollout.rows import Rows

Result = TypeVar("Result")
CHANGES = ("begin", "append", "decode", "move", "stop_at", "stop_at_eos")
PARAMETERS = "the parameters, which every process has"


class Leader:
    """The rows of process 0, which tell the others of every change."""

    def __init__(self, rows: Rows):
        self._rows = rows
        self.apart = False  # while a change is under way here, and for ever when it failed: the others wait in it

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._rows, name)
        return functools.partial(self._told, name, found) if name in CHANGES else found

    def _told(self, name: str, change: Callable[..., Result], *words: Any) -> Result:
        hosts.from_first([name, *(PARAMETERS if isinstance(word, Laid) else word for word in words)])
        self.apart = True
        found = change(*words)
        self.apart = False
        return found


def together(
    engine: Engine, params: Any, work: Callable[[], Result], otherwise: Result, *, stop_now: Callable[[], bool]
) -> Result:
    """What `work`, which runs the engine, gives on process 0; `otherwise` on the others, which lend their devices.

    `params`: as `host_local.hand_over` lays them out for a pod. `stop_now` is asked on all of them, so that each can
    tell the others that it was told to stop; process 0 decides.
    """
    if hosts.count() == 1:
        return work()
    rows = engine.rows
    laid = rows.lay_out(params)
    if hosts.index():
        _follow(rows, laid, stop_now)
        return otherwise
    leader = engine.rows = Leader(rows)  # type: ignore[assignment]
    try:
        return work()
    finally:
        engine.rows = rows
        if not leader.apart:  # else no word reaches the others: this process ends, and their watchdogs end them
            hosts.from_first(None)


def _follow(rows: Rows, laid: Laid, stop_now: Callable[[], bool]) -> None:
    while told := hosts.from_first(None):
        name, *words = told
        getattr(rows, name)(*(laid if isinstance(word, str) and word == PARAMETERS else word for word in words))
        stop_now()
