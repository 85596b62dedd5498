"""DisCO: right answers up, wrong ones down by how likely they are; no group's spread enters."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from qr_jax.learner import importance
from qr_jax.learner.variance import group_mean, group_variance_mask
from qr_jax.records import Grades


def disco(
    grades: Grades,
    logp_NL: Float[Array, "N L"],
    old_logp_NL: Float[Array, "N L"],
    mask_NL: Bool[Array, "N L"],
    *,
    score: Literal["logp", "ratio"] = "logp",  # what scores an episode: its mean log-probability or its mean ratio
    tau: float = 10.0,  # the temperature over the wrong answers
    beta: float = 1e3,  # the price of a divergence above delta
    delta: float = 1e-4,  # the divergence that costs nothing, in nats
) -> Float[Array, "N L"]:
    """Return the weights whose REINFORCE gradient is that of mean(s of right) - tau log mean(exp(s / tau) of wrong),
    and of -beta sg[max(KL - delta, 0)] KL: of n episodes the right get n / their count, the wrong -n softmax(s / tau).

    exact: Li et al. 2025 (arXiv:2505.12366) and its authors' code: s is an episode's mean log-probability (tau 10) or
    mean ratio (tau 1), KL the mean of old_logp - logp. Deviation: KL is a mean over episodes of each one's mean, theirs
    over tokens; episodes of groups without signal count in it, and get no gradient of it. The exponent runs over a
    group, which may lie in several micro-batches: so s comes from a first pass, and the loss is cispo with low=high=0
    (-A logp) and learner.reduce=sequence_mean. Right is a reward above the group's mean. With learner.updates > 1 an
    update sees its part of each group, and before the first one KL is 0.
    """
    length_QG = jnp.sum(mask_NL, axis=1).reshape(grades.reward_QG.shape)
    ratio_NL = importance.ratio(logp_NL, old_logp_NL, mask_NL)
    value_NL = jnp.where(mask_NL, ratio_NL if score == "ratio" else logp_NL, 0.0)
    score_QG = jnp.sum(value_NL, axis=1).reshape(length_QG.shape) / jnp.maximum(length_QG, 1)
    signal_Q1 = group_variance_mask(grades.reward_QG, grades.valid_QG)[:, None]
    there_QG = grades.valid_QG & (length_QG > 0) & signal_Q1
    right_QG = there_QG & (grades.reward_QG > group_mean(grades.reward_QG, grades.valid_QG))
    wrong_QG = there_QG & ~right_QG
    up_QG = right_QG / jnp.maximum(jnp.sum(right_QG, axis=1, keepdims=True), 1)
    down_QG = jax.nn.softmax(jnp.where(wrong_QG, score_QG / tau, -1e30), axis=1)
    weight_QG = jnp.sum(there_QG, axis=1, keepdims=True) * (up_QG - jnp.where(wrong_QG, down_QG, 0.0))
    moved_N = jnp.sum(jnp.where(mask_NL, old_logp_NL - logp_NL, 0.0), axis=1) / jnp.maximum(length_QG.reshape(-1), 1)
    kl = jnp.sum(moved_N) / jnp.maximum(jnp.sum(length_QG > 0), 1)
    adv_NL = weight_QG.reshape(-1, 1) * (ratio_NL if score == "ratio" else 1.0) + beta * jnp.maximum(kl - delta, 0.0)
    return jnp.where(mask_NL & there_QG.reshape(-1, 1), adv_NL, 0.0)
