"""Rollouts on the devices of all hosts, for a model that one host cannot hold: process 0 leads and the others follow.

All episodes, environments and searches are process 0's. It sends each change of its cache rows to the others before it
makes it, so that every process runs the same programs in the same order.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from qr_jax.models.incremental import DecodeParams
from qr_jax.parallel import hosts
from qr_jax.rollout.engine import Engine
from qr_jax.rollout.kv_cache import KVCache

Result = TypeVar("Result")
CHANGES = ("begin", "release_caches", "append", "decode", "move", "stop_at", "stop_at_eos", "restrict")
PARAMETERS = "the parameters, which every process has"


class Leader:
    """The rows of process 0; the other processes are told of a change before it is made."""

    def __init__(self, rows: KVCache):
        self._rows = rows
        self.apart = False  # True during a change; stays True when the change fails, for the others then hang in it

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._rows, name)
        return functools.partial(self._tell_and_change, name, attribute) if name in CHANGES else attribute

    def _tell_and_change(self, name: str, change: Callable[..., Result], *arguments: Any) -> Result:
        hosts.from_first([name, *(PARAMETERS if isinstance(value, DecodeParams) else value for value in arguments)])
        self.apart = True
        result = change(*arguments)
        self.apart = False
        return result


def together(
    engine: Engine, params: Any, work: Callable[[], Result], otherwise: Result, *, stop_now: Callable[[], bool]
) -> Result:
    """Return on process 0 what `work`, which runs the engine, returns; on the others, which lend devices, `otherwise`.

    `params`: as `host_local.to_rollout_params` lays them out for a pod. Every process calls `stop_now`, so that each
    can tell the others of a SIGTERM; process 0 decides.
    """
    if hosts.count() == 1:
        return work()
    rows = engine.rows
    laid = rows.to_decode_params(params)
    if hosts.index():
        _follow(rows, laid, stop_now)
        return otherwise
    leader = engine.rows = Leader(rows)  # type: ignore[assignment]
    try:
        return work()
    finally:
        engine.rows = rows
        if not leader.apart:  # else the others hang in the failed change until their watchdogs end them
            hosts.from_first(None)


def _follow(rows: KVCache, laid: DecodeParams, stop_now: Callable[[], bool]) -> None:
    while change := hosts.from_first(None):
        name, *arguments = change
        getattr(rows, name)(*(laid if isinstance(value, str) and value == PARAMETERS else value for value in arguments))
        stop_now()
