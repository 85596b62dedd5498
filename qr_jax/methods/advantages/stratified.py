"""Stratified GRPO: an episode is held against siblings that searched as often."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qr_jax.learner.advantages.grpo import grpo
from qr_jax.records import Grades


def stratified(
    grades: Grades,
    turns_QG: Int[Array, "Q G"],
    *,
    alpha: float = 0.5,  # the weight of the comparison within a stratum; the rest is GRPO's
    eps: float = 1e-6,  # added to the denominator, so that it is never 0
) -> Float[Array, "Q G"]:
    """Return adv_QG = alpha SAN + (1 - alpha) GRPO, SAN = (r - mean) / (std + eps) over the group's valid episodes of
    as many turns.

    exact: Zhu et al. 2025 (arXiv:2510.06214), n - 1 under the variance; its alpha was not read, .5 is ours. Deviation:
    a stratum is a number of the model's turns, which is one more than that of its searches where each turn makes one.
    An episode that left the loss (over-long) stays in its stratum.
    SAN is exactly 0 in a stratum of one and of equal rewards. In groups below 8 most strata have one episode.
    """
    same_QGG = (turns_QG[:, :, None] == turns_QG[:, None]) & grades.valid_QG[:, :, None] & grades.valid_QG[:, None]
    other_QGG = jnp.broadcast_to(grades.reward_QG[:, None], same_QGG.shape)
    count_QG = jnp.sum(same_QGG, axis=2)
    mean_QG = jnp.sum(jnp.where(same_QGG, other_QGG, 0.0), axis=2) / jnp.maximum(count_QG, 1)
    square_QG = jnp.sum(jnp.where(same_QGG, jnp.square(other_QGG - mean_QG[:, :, None]), 0.0), axis=2)
    std_QG = jnp.sqrt(square_QG / jnp.maximum(count_QG - 1, 1))
    differ_QG = jnp.any(same_QGG & (other_QGG != grades.reward_QG[:, :, None]), axis=2)
    san_QG = jnp.where(differ_QG, (grades.reward_QG - mean_QG) / (std_QG + eps), 0.0)
    return alpha * san_QG + (1 - alpha) * grpo(grades, eps=eps)
