"""DaGRPO's pair mask: siblings of nearly the same score are not held against each other."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from qr_jax.learner.variance import group_variance_mask
from qr_jax.records import Grades


def dagrpo(
    grades: Grades,
    *,
    tau: float = 0.1,  # the least difference of two rewards that counts
    eps: float = 1e-6,  # added to what is divided by, so that it is never 0
) -> Float[Array, "Q G"]:
    """adv_QG = sum over siblings j with |r_i - r_j| >= tau of (r_i - r_j) / n, over (std + eps) of the group.

    after the abstract: Xie et al. 2025 (arXiv:2512.06337) mask pairs of little distinctiveness, by a fine-grained
    score. Filled in: GRPO's advantage as a mean over pairs (with tau=0 it is GRPO), the reward as the score, and tau.
    With rewards of 0 and 1 nothing is masked: give it a graded one, as reward=f1. Its off-policy anchors are not built.
    """
    valid_QG, reward_QG = grades.valid_QG, grades.reward_QG
    count_Q1 = jnp.sum(valid_QG, axis=1, keepdims=True)
    both_QGG = valid_QG[:, :, None] & valid_QG[:, None]
    gap_QGG = jnp.where(both_QGG, reward_QG[:, :, None] - reward_QG[:, None], 0.0)
    square_Q1 = jnp.sum(jnp.square(gap_QGG), axis=(1, 2))[:, None] / (2 * jnp.maximum(count_Q1, 1))
    std_Q1 = jnp.sqrt(square_Q1 / jnp.maximum(count_Q1 - 1, 1))
    kept_QG = jnp.sum(jnp.where(jnp.abs(gap_QGG) >= tau, gap_QGG, 0.0), axis=2) / jnp.maximum(count_Q1, 1)
    signal_Q1 = group_variance_mask(reward_QG, valid_QG)[:, None]
    return jnp.where(valid_QG & signal_Q1, kept_QG / (std_Q1 + eps), 0.0)
