"""RL-ZVP: groups of equal rewards teach too, token by token, weighed by entropy."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from qr_jax.learner.advantages.grpo import grpo
from qr_jax.learner.variance import group_variance_mask
from qr_jax.records import Grades

ZERO_VARIANCE = "gradient"


def rl_zvp(
    grades: Grades,
    entropy_NL: Float[Array, "N L"],
    mask_NL: Bool[Array, "N L"],
    *,
    alpha: float = 0.1,  # weight of entropy in groups of equal rewards
    most: float = 1.0,  # largest size of the advantage of a token there
) -> Float[Array, "N L"]:
    """Return GRPO's advantage in groups that bear signal; in the others +alpha H_t where all are right, and where all
    are wrong -alpha (max_u H_u - H_t), the largest entropy H being that of the episode's sampled tokens.

    exact: RL-ZVP (arXiv:2509.21880, eq. 5), entropies in nats and without gradient. `most` bounds the size of what a
    group of equal rewards gets a token; the paper has no bound. Rewards above 0 count as right.
    """
    signal_Q1 = group_variance_mask(grades.reward_QG, grades.valid_QG)[:, None]
    samples = grades.reward_QG.shape[1]
    adv_N1 = grpo(grades).reshape(-1, 1)
    top_N1 = jnp.max(jnp.where(mask_NL, entropy_NL, 0.0), axis=1, keepdims=True)
    right_N1 = (grades.reward_QG > 0).reshape(-1, 1)
    flat_NL = jnp.clip(alpha * jnp.where(right_N1, entropy_NL, entropy_NL - top_N1), -most, most)
    learns_N1 = (grades.valid_QG & ~jnp.repeat(signal_Q1, samples, axis=1)).reshape(-1, 1)
    return jnp.where(mask_NL, adv_N1 + jnp.where(learns_N1, flat_NL, 0.0), 0.0)
