"""An engine whose slots are dealt over threads: while one decodes, another's host work is done.

Use it on a CPU or a single device: on several, threads that start programs over all of them may block each other.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np

from qr_jax import config
from qr_jax.errors import Interrupted, UserError
from qr_jax.models.families import ModelConfig
from qr_jax.models.tokenizer import Tokenizer
from qr_jax.records import Episode, Query
from qr_jax.rollout.engine import Engine
from qr_jax.rollout.live import Statistics
from qr_jax.run.kept_thread import KeptThread


class Lanes(Engine):
    """`rollout.lanes` engines with a part of the slots and of the store each; this one is the first of them."""

    def __init__(self, cfg: ModelConfig, tokenizer: Tokenizer, settings: config.Rollout, *, compute: str = "float32"):
        lanes, store = settings.lanes, settings.store
        if settings.slots % lanes or (store or 0) % lanes:
            raise UserError(f"{settings.slots} slots and a store of {store} do not divide over {lanes} lanes")
        part = replace(settings, slots=settings.slots // lanes, store=store and store // lanes, lanes=1)
        super().__init__(cfg, tokenizer, part, compute=compute)
        self.others = [Engine(cfg, tokenizer, part, compute=compute) for _ in range(lanes - 1)]

    def warm_up(self, params, **how: Any) -> float:
        """Compile for the first lane; the others run the same programs."""
        seconds = super().warm_up(params, **how)
        for other in self.others:
            other.rows.least = self.rows.least
        return seconds

    def progress(self) -> tuple[int, int]:
        """Add up the episodes that are finished and wanted in all lanes."""
        each = [super().progress(), *(other.progress() for other in self.others)]
        return sum(done for done, _ in each), sum(total for _, total in each)

    def run(
        self,
        params,
        queries: Sequence[Query],
        samples: int | Sequence[int],
        *,
        query_keys: Sequence[int] | None = None,
        expected_tokens: Sequence[float] | None = None,
        stop_now: Callable[[], bool] = lambda: False,
        **how: Any,
    ) -> list[list[Episode]]:
        """Roll out as Engine.run does, every query in one lane. All lanes share the threads of searches."""
        counts = [samples] * len(queries) if isinstance(samples, int) else list(samples)
        keys = list(range(len(queries)) if query_keys is None else query_keys)
        order = np.arange(len(queries))
        if expected_tokens is not None:
            order = np.argsort(-np.asarray(expected_tokens), kind="stable")
        engines = [self, *self.others][: max(len(queries), 1)]
        for engine in self.others:
            engine.rollout = None
        searches = KeptThread("searches", self.settings.search_calls)
        failed, start = threading.Event(), time.monotonic()
        groups: list[list[Episode]] = [[] for _ in queries]

        def play(lane: int) -> None:
            mine = order[lane :: len(engines)].tolist()
            played = Engine.run(
                engines[lane], params, [queries[q] for q in mine], [counts[q] for q in mine],
                query_keys=[keys[q] for q in mine], stop_now=lambda: failed.is_set() or stop_now(),
                searches=searches, **how,
            )  # fmt: skip
            for q, group in zip(mine, played, strict=True):
                groups[q] = group

        try:
            with ThreadPoolExecutor(len(engines), "lane") as threads:
                parts = [threads.submit(play, lane) for lane in range(len(engines))]
                try:
                    wait(parts, return_when="FIRST_EXCEPTION")
                finally:
                    if not all(part.done() and not part.exception() for part in parts):
                        failed.set()
        finally:
            searches.close()
        errors = [error for part in parts if (error := part.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, Interrupted)):  # the cause first
            raise error
        self.statistics = Statistics.combined([engine.statistics for engine in engines], fmean)  # they ran side by side
        self.statistics.total_s = time.monotonic() - start
        return groups
