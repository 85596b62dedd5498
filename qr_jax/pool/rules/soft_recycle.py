"""Soft recycling: accepted queries stay in the pool at a small weight."""

import numpy as np
from jaxtyping import Float64

from qr_jax.pool.pool import Pool
from qr_jax.pool.rules.recycle import recycle
from qr_jax.records import Memory, Outcome


def soft_recycle(
    pool: Pool,
    outcome: Outcome,
    *,
    consumed_weight: float | int = 0.1,  # draw weight of a query that was trained on; all others keep theirs
) -> tuple[Float64[np.ndarray, "P"], Memory]:
    """Return the next weight_P: accepted queries get `consumed_weight`, all others keep theirs.

    The ablation of Coelho et al. 2026 (arXiv:2606.10709); with 0 it is `recycle`. The weight is set, not multiplied: a
    query accepted twice still has `consumed_weight`.
    """
    return recycle(pool, outcome, consumed_weight=consumed_weight)
