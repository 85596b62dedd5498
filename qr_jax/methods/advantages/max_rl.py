"""Maximum-likelihood advantage: a group's gradient is that of log pass rate, so that hard queries count for more."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from qr_jax.learner.advantages.dr_grpo import dr_grpo
from qr_jax.learner.variance import group_mean
from qr_jax.records import Grades


def max_rl(
    grades: Grades,
    *,
    eps: float = 1e-6,  # added to the denominator, so that it is never 0
) -> Float[Array, "Q G"]:
    """Return adv_QG = (r - mean) / (mean + eps) over the group's valid rewards, for rewards of 0 or more.

    exact: MaxRL (Tajwar et al. 2026, arXiv:2602.02710) maximises log p where REINFORCE maximises p; d log p = d p / p,
    with the group's own mean for p. One right answer of K = 8 gets K - 1 = 7 (GRPO: 2.5); seven get .14 each (.35).
    Exactly 0 for invalid samples and for groups of equal rewards.
    """
    return dr_grpo(grades) / (jnp.maximum(group_mean(grades.reward_QG, grades.valid_QG), 0.0) + eps)
