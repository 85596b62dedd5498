"""Plain GRPO's single pass: every query that was rolled out leaves until the pool is reset."""

import numpy as np
from jaxtyping import Float64

from qr_jax.pool.pool import Pool
from qr_jax.records import Memory, Outcome


def grpo(pool: Pool, outcome: Outcome) -> tuple[Float64[np.ndarray, "P"], Memory]:
    """Return the next weight_P: 0 for every drawn query except faults, which were not graded.

    An epoch is over when nothing is eligible; `refresh` starts the next (Shao et al. 2024, arXiv:2402.03300; as a
    weighted pool: Coelho et al. 2026, arXiv:2606.10709).
    """
    weight_P = pool.weight_P.copy()
    weight_P[outcome.drawn_Q[outcome.verdict_Q != "fault"]] = 0.0
    return weight_P, pool.memory
