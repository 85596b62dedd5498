"""Reinforce-Rej: the reward itself, in groups that are neither all right nor all wrong."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from qr_jax.learner.variance import group_variance_mask
from qr_jax.records import Grades


def reinforce_rej(grades: Grades) -> Float[Array, "Q G"]:
    """Return adv_QG = r where the group's rewards differ, without a baseline; else exactly 0.

    exact: Xiong et al. 2025 (arXiv:2504.11343) and its authors' code. With rewards of 0 and 1 wrong answers give no
    gradient.
    """
    signal_Q1 = group_variance_mask(grades.reward_QG, grades.valid_QG)[:, None]
    return jnp.where(grades.valid_QG & signal_Q1, grades.reward_QG, 0.0)
