"""Retirement: a query that was nearly always answered right leaves for good (ScaleRL's no-positive-resampling)."""

import numpy as np
from jaxtyping import Float64

from qr_jax.methods.rules import _passes
from qr_jax.pool.noise import uniforms
from qr_jax.pool.pool import Pool
from qr_jax.records import Memory, Outcome
from qr_jax.settings.settings import Share, SomeShare

RETIRE = 11  # the first part of the keys of its random numbers


def retire(
    pool: Pool,
    outcome: Outcome,
    *,
    at: SomeShare = 0.9,  # the pass rate over all its episodes at which a query retires
    review: Share = 0.0,  # the chance that a pass visits a retired query
) -> tuple[Float64[np.ndarray, "P"], Memory]:
    """Return the next weight_P: 1 for queries that this pass has still to visit, 0 for all others and for the retired.

    exact: ScaleRL (Khatri et al. 2025, arXiv:2510.13786): once the pass rate over all of a query's episodes is `at` or
    more, later passes leave it out. Passes are the rule's own: leave `pool.reset_below` at 0, because a reset from
    outside calls back the retired until the step is over. Ours: with probability `review` a pass visits a retired
    query all the same, by a coin keyed (11, seed, pass, query), and it returns for good if its rate has fallen.
    """
    counts = {"right": np.zeros(pool.size, np.int64), "valid": np.zeros(pool.size, np.int64)}
    memory = _passes.begun(pool, **counts)
    drawn = outcome.drawn_Q[outcome.verdict_Q != "fault"]
    memory["right"][drawn] += pool.last_successes_P[drawn]
    memory["valid"][drawn] += pool.last_valid_P[drawn]
    retired_P = memory["right"] >= at * np.maximum(memory["valid"], 1) - 1e-9  # .55 of 100 in floats is more than 55

    def called_P() -> np.ndarray:
        return ~retired_P | (uniforms(pool.size, RETIRE, outcome.seed, int(memory["pass"][0])) < review)

    return _passes.unvisited(memory, outcome, called_P).astype(np.float64), memory
