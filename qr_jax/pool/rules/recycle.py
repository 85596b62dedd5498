"""Query recycling: accepted queries leave the pool, those whose rewards did not vary stay in it."""

import numpy as np
from jaxtyping import Float64

from qr_jax.pool.pool import Pool
from qr_jax.records import Memory, Outcome


def recycle(
    pool: Pool,
    outcome: Outcome,
    *,
    consumed_weight: float | int = 0.0,  # draw weight of a query that was trained on; 0: not drawn again before a reset
) -> tuple[Float64[np.ndarray, "P"], Memory]:
    """Return the next weight_P: accepted queries get `consumed_weight`, all others keep theirs.

    Zero-variance and surplus queries stay as likely as queries never seen: no cooldown, no decay, no retry limit
    (Coelho et al. 2026, arXiv:2606.10709).
    """
    weight_P = pool.weight_P.copy()
    weight_P[outcome.accepted] = consumed_weight
    return weight_P, pool.memory
