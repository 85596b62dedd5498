"""An outcome oracle: queries whose pass rate over the steps is known, so the pool runs without any model.

Curves: "static" (the null control), "improving" (rises to 1), "drifting" (falls to 0), "flipping" (odd queries go
from 0 to 1 half-way, even ones from 1 to 0).
"""

import dataclasses

import numpy as np
from settling import settle as settled_step

from qr_jax.pool import pool as pools
from qr_jax.pool.noise import uniforms
from qr_jax.records import Grades, grades

ORACLE = 1001  # the first part of the oracle's keys


def beta_rates(size: int, a: float, b: float, *, seed: int) -> np.ndarray:
    """Pass rates [size] from Beta(a, b); stable for one numpy version, which is all that a tolerance needs."""
    return np.random.Generator(np.random.Philox(key=seed)).beta(a, b, size)


def pass_rate(start_P: np.ndarray, *, curve: str, step: int, steps: int) -> np.ndarray:
    """Every query's pass rate at a step of `steps`."""
    done = step / steps
    if curve == "static":
        return start_P
    if curve == "improving":
        return start_P + (1 - start_P) * done
    if curve == "drifting":
        return start_P * (1 - done)
    assert curve == "flipping"
    return ((np.arange(len(start_P)) % 2 == 1) == (done >= 0.5)).astype(float)


def roll(
    rate_P: np.ndarray, drawn_Q: np.ndarray, samples: int, *, seed: int, step: int, fault_rate: float = 0.0
) -> Grades:
    """Binary outcomes of `samples` episodes a drawn query, keyed by (seed, step, query, sample), not by draw order."""
    size = len(rate_P) * samples
    success_PG = uniforms(size, ORACLE, seed, step).reshape(-1, samples) < rate_P[:, None]
    valid_PG = uniforms(size, ORACLE + 1, seed, step).reshape(-1, samples) >= fault_rate
    return grades(success_PG[drawn_Q].astype(np.float32), valid_PG[drawn_Q])


@dataclasses.dataclass(frozen=True)
class Run:
    """A whole run's settings, as small tests need them."""

    rates_P: np.ndarray
    rule: object = "recycle"
    curve: str = "static"
    steps: int = 12
    queries: int = 4
    samples: int = 4
    oversample: int = 2
    seed: int = 0
    fault_rate: float = 0.0
    below: float = 0.0


def one_step(run: Run, pool: pools.Pool, step: int):
    """Refresh, draw, roll, settle: (the pool drawn from, what was drawn, its grades, Settled)."""
    before = pools.refresh(pool, below=run.below)
    drawn_Q = pools.draw(before, run.oversample * run.queries, seed=run.seed, step=step)
    rate_P = pass_rate(run.rates_P, curve=run.curve, step=step, steps=run.steps)
    graded = roll(rate_P, drawn_Q, run.samples, seed=run.seed, step=step, fault_rate=run.fault_rate)
    settled = settled_step(before, drawn_Q, graded, step=step, accept=run.queries, rule=run.rule, seed=run.seed)
    return before, drawn_Q, graded, settled


def play(run: Run, pool: pools.Pool | None = None, start: int = 0):
    """Every step from `start`: a list of `one_step`'s results."""
    pool = pools.create(len(run.rates_P)) if pool is None else pool
    history = []
    for step in range(start, run.steps):
        history.append(one_step(run, pool, step))
        pool = history[-1][3].pool
    return history
