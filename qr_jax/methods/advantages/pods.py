"""PODS: of a group's samples only the subset whose rewards vary most is learned from."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qr_jax.learner.advantages.grpo import grpo
from qr_jax.learner.variance import group_mean
from qr_jax.records import Grades


def pods(
    grades: Grades,
    *,
    keep: int = 4,  # samples of a group that are kept
    eps: float = 1e-6,  # added to the denominator, so that it is never 0
) -> Float[Array, "Q G"]:
    """Return adv_QG = (r - mean) / (std + eps) over the `keep` samples of a group whose rewards have the largest
    variance; exactly 0 for the rest, which mean and std do not count. A group of equal rewards keeps nobody.

    exact: PODS (Xu et al. 2025, arXiv:2504.13818; YixuanEvenXu/pods): a number of the largest rewards and the rest of
    the smallest always has the largest variance, so keep + 1 subsets are compared. A group of `keep` or fewer valid
    samples stays whole; ties go by the sample's number and to fewer large rewards. Deviation: dropped samples keep
    their place in the loss's denominator, and cost the learner what the others do.
    """
    reward_QG, valid_QG = grades.reward_QG, grades.valid_QG
    rank_QG = jnp.argsort(jnp.argsort(jnp.where(valid_QG, -reward_QG, jnp.inf), axis=1), axis=1)
    count_Q1 = jnp.sum(valid_QG, axis=1, keepdims=True)

    def kept(large):
        return valid_QG & ((rank_QG < large) | (rank_QG >= count_Q1 - (keep - large)))

    def spread(large):  # the variance times the subset's size, which is the same for all
        kept_QG = kept(large)
        return jnp.sum(jnp.where(kept_QG, jnp.square(reward_QG - group_mean(reward_QG, kept_QG)), 0.0), axis=1)

    best_Q = jnp.argmax(jax.vmap(spread)(jnp.arange(keep + 1)), axis=0)
    return grpo(Grades(reward_QG, kept(best_Q[:, None])), eps=eps)
