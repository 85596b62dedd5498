"""REINFORCE++: rewards scaled over the batch, and not within a group."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qr_jax.learner.variance import group_mean
from qr_jax.records import Grades

ZERO_VARIANCE = "gradient"  # the batch's mean is no group's: groups of equal rewards are not 0 here


def reinforce_pp(
    grades: Grades,
    turn_NL: Int[Array, "N L"],
    *,
    baseline: Literal["none", "group"] = "none",  # what is subtracted before the batch's scale
    eps: float = 1e-8,  # added to the variance, so that its root is never 0
) -> Float[Array, "N L"]:
    """Return adv_NL = (x - mean) / sqrt(var + eps) over all sampled tokens of the batch, x the episode's reward; with
    baseline=group less its group's mean (REINFORCE++-baseline).

    exact: Hu et al. 2025 (arXiv:2501.03262) with its discount of 1, as in verl, n - 1 under var. A group of equal
    rewards gets -mean / std of the batch: with the group's baseline that is small, not 0. Deviations: no KL in the
    reward (learner.kl_weight puts it in the loss); with baseline=group the only valid sample of a group counts as 0,
    for it has no sibling to be compared with. verl leaves that sample its raw reward, so that a right answer earns more
    for its siblings' faults (up to 3.5 standard deviations, seen), and the batch's mean and scale move with it. Such a
    group reaches the learner only with learner.keep_zero_variance.
    """
    mask_NL = turn_NL >= 0  # the batch's sampled tokens, also those of other updates' parts
    centre_Q1 = group_mean(grades.reward_QG, grades.valid_QG) if baseline == "group" else 0.0
    value_NL = jnp.broadcast_to((grades.reward_QG - centre_Q1).reshape(-1, 1), mask_NL.shape)
    count = jnp.sum(mask_NL)
    centred_NL = jnp.where(mask_NL, value_NL - jnp.sum(jnp.where(mask_NL, value_NL, 0.0)) / jnp.maximum(count, 1), 0.0)
    return centred_NL / jnp.sqrt(jnp.sum(jnp.square(centred_NL)) / jnp.maximum(count - 1, 1) + eps)
