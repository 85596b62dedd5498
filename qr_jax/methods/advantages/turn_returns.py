"""Advantage by turn: what came after each turn, held against the same turn of the siblings."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from qr_jax.learner.variance import group_variance_mask
from qr_jax.records import Grades

WANTS_TURNS = True


def turn_returns(
    grades: Grades,
    *,
    gamma: float = 1.0,  # the discount of a later turn's reward, per turn
    eps: float = 1e-6,  # added to the denominator, so that it is never 0
) -> Float[Array, "Q G T"]:
    """Return adv_QGT = (R_t - mean_t) / (std + eps), R_t the sum over turns k >= t of gamma^(k - t) r_k.

    exact: R_t, the returns of GuoqingWang1/IGPO@bff163b7 (core_algos.py), the code for arXiv:2510.14967, where gamma is
    1. The rest is ours: mean_t is over the group's valid episodes that have a turn t, where that code has a mean by
    token position; and std, which it does not divide by, is over all their centred returns together (n - 1): a turn
    that few episodes reach is not blown up. 0 for a turn that one episode alone has, and for a group whose rewards are
    all equal.
    """
    turn_QGT, there_QGT = grades.turn_reward_QGT, grades.turn_valid_QGT & grades.valid_QG[..., None]
    reward_QGT = jnp.where(there_QGT, turn_QGT, 0.0)
    steps = jnp.arange(reward_QGT.shape[-1])
    later_TK = jnp.where(steps[None] >= steps[:, None], gamma ** jnp.maximum(steps[None] - steps[:, None], 0), 0.0)
    return_QGT = jnp.einsum("qgk,tk->qgt", reward_QGT, later_TK)
    count_QT = jnp.sum(there_QGT, axis=1)
    mean_QT = jnp.sum(jnp.where(there_QGT, return_QGT, 0.0), axis=1) / jnp.maximum(count_QT, 1)
    shared_QGT = there_QGT & (count_QT > 1)[:, None]
    centred_QGT = jnp.where(shared_QGT, return_QGT - mean_QT[:, None], 0.0)
    many_Q = jnp.maximum(jnp.sum(shared_QGT, axis=(1, 2)) - 1, 1)
    std_Q = jnp.sqrt(jnp.sum(jnp.square(centred_QGT), axis=(1, 2)) / many_Q)
    signal_Q = group_variance_mask(grades.reward_QG, grades.valid_QG)
    return jnp.where(signal_Q[:, None, None], centred_QGT / (std_Q[:, None, None] + eps), 0.0)
