"""Leave-one-out advantage: a reward minus the mean of its siblings' rewards (RLOO)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from qr_jax.learner.advantages.dr_grpo import dr_grpo
from qr_jax.records import Grades


def rloo(grades: Grades) -> Float[Array, "Q G"]:
    """Return adv_QG = r_i - mean of the other valid rewards = n / (n - 1) * (r_i - mean).

    exact: Ahmadian et al. 2024 (arXiv:2402.14740). Exactly 0 for invalid samples, for groups of equal rewards and for a
    group with one valid sample, which has no sibling.
    """
    count_Q1 = jnp.sum(grades.valid_QG, axis=1, keepdims=True)
    return dr_grpo(grades) * (count_Q1 / jnp.maximum(count_Q1 - 1, 1))
