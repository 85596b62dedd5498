"""GFPO: of a group's samples only those that are best by another measure are learned from."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qr_jax.learner.advantages.grpo import grpo
from qr_jax.records import Grades


def gfpo(
    grades: Grades,
    turn_NL: Int[Array, "N L"],
    *,
    keep: int = 4,  # samples of a group that are kept
    by: Literal["length", "efficiency"] = "length",  # what is kept: the shortest, or most reward a token
    eps: float = 1e-6,  # added to the denominator, so that it is never 0
) -> Float[Array, "Q G"]:
    """Return adv_QG = (r - mean) / (std + eps) over the `keep` shortest valid samples of a group ("efficiency": of
    largest reward a token); exactly 0 for the rest, which mean and std do not count.

    after the abstract: GFPO, group filtered policy optimization (Shrivastava et al. 2025, arXiv:2508.09726); std with
    n - 1 and ties by the sample's number are filled in. A length is the number of sampled tokens; an episode that
    leaves the loss (rollout.overlong=mask) has none here, and is not kept. Deviation: dropped samples keep their place
    in the loss's denominator. A group whose kept rewards are equal gets 0, though the pool took it for signal.
    """
    length_QG = jnp.sum(turn_NL >= 0, axis=1).reshape(grades.valid_QG.shape)  # of all updates' parts, as the grades are
    value_QG = length_QG if by == "length" else -grades.reward_QG / jnp.maximum(length_QG, 1)
    may_QG = grades.valid_QG & (length_QG > 0)
    order_QG = jnp.argsort(jnp.where(may_QG, value_QG, jnp.inf), axis=1, stable=True)
    kept_QG = may_QG & (jnp.argsort(order_QG, axis=1) < keep)
    return grpo(Grades(grades.reward_QG, kept_QG), eps=eps)
