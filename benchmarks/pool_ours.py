"""Contender: a pool and one recycling rule, driven by numbers instead of rollouts."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import interleave
from qr_jax import plugins
from qr_jax.config import use
from qr_jax.pool import figures
from qr_jax.pool import pool as pools
from qr_jax.pool.pool import judge
from qr_jax.records import Grades, grades

SAMPLES = 4  # episodes a query
state: dict[str, Any] = {}


def prepare(rule: str, size: int, count: int, accept: int) -> dict[str, Any]:
    start = time.monotonic()
    state.update(pool=pools.create(size), rule=plugins.bind("rule", use(rule)), count=count, accept=accept, step=0)
    return {"built_s": time.monotonic() - start}


def sample(steps: int, round: int) -> dict[str, list[float]]:
    """Milliseconds of each step: draw, settle, and what else a training step does with the whole pool."""
    found: dict[str, list[float]] = {}
    for _ in range(steps):
        for name, taken_ms in step().items():
            found.setdefault(name, []).append(taken_ms)
    return found


def step() -> dict[str, float]:
    taken: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        taken[f"{name}_ms"] = round(1e3 * (time.perf_counter() - start), 3)
        return result

    before, number, accept = state["pool"], state["step"], state["accept"]
    drawn_Q = timed("draw", lambda: pools.draw(before, state["count"], seed=1, step=number))
    graded = outcomes(number, len(drawn_Q))
    outcome, settled = timed("settle", lambda: judged_and_settled(before, drawn_Q, graded, number, accept))
    timed("refresh", lambda: pools.refresh(settled, below=0.01))
    timed("figures", lambda: figures.step_figures(before, outcome, settled, accept=accept))
    timed("digest", lambda: pools.digest(settled))
    state.update(pool=settled, step=number + 1)
    return {"draw_settle_ms": taken["draw_ms"] + taken["settle_ms"], **taken}


def judged_and_settled(before: pools.Pool, drawn_Q: np.ndarray, graded: Grades, step: int, accept: int):
    outcome = judge(drawn_Q, graded, step=step, accept=accept)
    return outcome, pools.settle(before, outcome, state["rule"])


def outcomes(number: int, count: int) -> Grades:
    chance = np.random.default_rng(number)
    right_QG = chance.random((count, SAMPLES)) < chance.random((count, 1))
    return grades(right_QG.astype(float), np.ones_like(right_QG))


if __name__ == "__main__":
    interleave.serve({"prepare": prepare, "sample": sample, "versions": interleave.versions})
