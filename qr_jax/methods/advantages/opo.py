"""OPO: a reward less the baseline of least variance, the group's mean weighed by length."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qr_jax.learner.variance import group_variance_mask
from qr_jax.records import Grades


def opo(grades: Grades, turn_NL: Int[Array, "N L"]) -> Float[Array, "Q G"]:
    """Return adv_QG = r - sum(length r) / sum(length) over the group, length counting sampled tokens.

    exact: Hao et al. 2025 (arXiv:2505.23585), which trains strictly on policy: learner.updates=1. Exactly 0 for invalid
    samples and for groups of equal rewards. An episode that left the loss (over-long) has no length here.
    """
    length_QG = jnp.sum(turn_NL >= 0, axis=1).reshape(grades.reward_QG.shape) * grades.valid_QG
    total_Q1 = jnp.maximum(jnp.sum(length_QG, axis=1, keepdims=True), 1)
    baseline_Q1 = jnp.sum(length_QG * grades.reward_QG, axis=1, keepdims=True) / total_Q1
    signal_Q1 = group_variance_mask(grades.reward_QG, grades.valid_QG)[:, None]
    return jnp.where(grades.valid_QG & signal_Q1, grades.reward_QG - baseline_Q1, 0.0)
