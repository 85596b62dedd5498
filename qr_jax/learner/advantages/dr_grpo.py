"""Centred advantage: a reward minus the mean of its group, not scaled (Dr. GRPO)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from qr_jax.learner.variance import group_mean, group_variance_mask
from qr_jax.records import Grades


def dr_grpo(grades: Grades) -> Float[Array, "Q G"]:
    """Return adv_QG = r - mean over the group's valid rewards.

    exact: Liu et al. 2025 (arXiv:2503.20783, sec. 3.2). Exactly 0 for invalid samples and for a group whose valid
    rewards are all equal: there r - mean is often rounding noise. The paper's other half, a constant length in the
    denominator, is `reduce="fixed_length"`.
    """
    valid_QG = grades.valid_QG
    centred_QG = grades.reward_QG - group_mean(grades.reward_QG, valid_QG)
    signal_Q = group_variance_mask(grades.reward_QG, valid_QG)
    return jnp.where(valid_QG & signal_Q[:, None], centred_QG, 0.0)
