"""DAPO under a bound on rollouts: oversample, train on the signal groups, drop every query that was rolled out."""

import numpy as np
from jaxtyping import Float64

from qr_jax.pool.pool import Pool
from qr_jax.records import Memory, Outcome


def bounded_dapo(pool: Pool, outcome: Outcome) -> tuple[Float64[np.ndarray, "P"], Memory]:
    """Return the next weight_P: 0 for every drawn query but the faults: zero-variance and surplus queries are lost for
    the epoch.

    exact: Bounded-DAPO, a baseline of Coelho et al. 2026 (arXiv:2606.10709). DAPO (Yu et al. 2025, arXiv:2503.14476)
    draws until its batch is full; bounded, it draws k * B once and trains on what survives. It differs from `grpo` by
    its oversampling, not by its weights.
    """
    weight_P = pool.weight_P.copy()
    weight_P[outcome.drawn_Q[outcome.verdict_Q != "fault"]] = 0.0
    return weight_P, pool.memory
