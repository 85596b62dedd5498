"""Rollouts of several processes: each rolls out its own queries, or process 0 leads and the others follow (a pod).

A pod's rollout is on the devices of all hosts, for a model that one host cannot hold. All its episodes, environments
and searches are process 0's. It sends each change of its cache rows to the others before it makes it, so that every
process runs the same programs in the same order.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from qr_jax.models.incremental import DecodeParams
from qr_jax.parallel import hosts
from qr_jax.records import Episode
from qr_jax.rollout.engine import Engine
from qr_jax.rollout.kv_cache import KVCache

Result = TypeVar("Result")
CHANGES = ("begin", "release_caches", "append", "decode", "move", "stop_at", "stop_at_eos", "restrict")
PARAMETERS = "the parameters, which every process has"


class Dealt:
    """An engine whose queries are dealt over the processes, and whose episodes every process gets.

    `pod`: process 0 has all queries, and rolls them out on the devices of all processes.
    """

    def __init__(self, engine: Engine, *, pod: bool = False):
        self.engine, self.pod = engine, pod

    def progress(self) -> tuple[int, int]:
        """Return `Engine.progress` of this process's episodes."""
        return self.engine.progress()

    def run(self, params, queries: Sequence[Any], samples: int, *, stop_now, **how) -> list[list[Episode]]:
        """Roll out as `Engine.run`, called by all processes; Interrupted on all when one is interrupted."""
        mine = hosts.deal(np.ones(len(queries)), hosts.count(), to_first=self.pod)[hosts.index()].tolist()
        my_queries = [queries[at] for at in mine]
        how |= {"query_keys": mine, "stop_now": stop_now}
        work = functools.partial(self.engine.run, params, my_queries, samples, **how)
        groups = rolled_out(self.engine, params, work, [], pod=self.pod, stop_now=stop_now)
        places = [at * samples + g for at in mine for g in range(samples)]
        every = hosts.gather_episodes([episode for group in groups for episode in group], places)
        return [every[at : at + samples] for at in range(0, len(every), samples)]


def rolled_out(
    engine: Engine, params: Any, work: Callable[[], Result], nothing: Result, *, pod: bool, stop_now: Callable[[], bool]
) -> Result:
    """Run `work` by `hosts.all_or_none`; `pod`: process 0 runs it, on all devices, and the others return `nothing`."""
    if pod:
        work = functools.partial(together, engine, params, work, nothing, stop_now=stop_now)
    return hosts.all_or_none(work)


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
    """Run `work`, which runs the engine, on process 0 and return its result; the rest lend devices, return `otherwise`.

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
