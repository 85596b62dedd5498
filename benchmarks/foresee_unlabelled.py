"""Rule: foresee_learnable without the labels of its queries, for E12 of configs/study/plan.md."""

from dataclasses import replace

import numpy as np

from qr_jax.methods.rules.foresee_learnable import foresee_learnable
from qr_jax.pool.pool import Pool
from qr_jax.records import Memory, Outcome


def foresee_unlabelled(pool: Pool, outcome: Outcome) -> tuple[np.ndarray, Memory]:
    """Return the weights that foresee_learnable gives where all queries are of one family."""
    return foresee_learnable(replace(pool, family_P=None), outcome)
