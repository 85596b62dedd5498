"""Kimi k1.5's prioritised sampling: a query's weight is the share of its answers that were wrong."""

import numpy as np
from jaxtyping import Float64

from qr_jax.pool.pool import Pool
from qr_jax.records import Memory, Outcome


def kimi(pool: Pool, outcome: Outcome) -> tuple[Float64[np.ndarray, "P"], Memory]:
    """Return the next weight_P = 1 - s, s the success rate of a query over all its valid episodes; 1 for those never
    attempted.

    exact: Kimi k1.5 (Kimi Team 2025, arXiv:2501.12599, prioritised sampling). Filled in: the rate is over all attempts.
    Its curriculum from easy to hard wants difficulty labels, which queries here do not have. A query is used up
    only if it was never wrong.
    """
    right_P, valid_P = (np.array(pool.memory.get(name, np.zeros(pool.size, np.int64))) for name in ("right", "valid"))
    drawn = outcome.drawn_Q[outcome.verdict_Q != "fault"]
    right_P[drawn] += pool.last_successes_P[drawn]
    valid_P[drawn] += pool.last_valid_P[drawn]
    return 1 - right_P / np.maximum(valid_P, 1), {"right": right_P, "valid": valid_P}
