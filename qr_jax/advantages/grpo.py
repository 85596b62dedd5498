"""Group-relative advantage: how much better than its siblings was each answer?"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from qr_jax.advantages.dr_grpo import dr_grpo
from qr_jax.records import Grades


def grpo(
    grades: Grades,
    *,
    eps: float = 1e-6,  # added to what is divided by, so that it is never 0
) -> Float[Array, "Q G"]:
    """adv_QG = (r - mean) / (std + eps) over the group's valid rewards.

    exact: Shao et al. 2024 (arXiv:2402.03300, sec. 4.1). std has n - 1 in its denominator, as in verl; with K = 4 the
    other choice differs by a factor 1.155. A group whose rewards are all equal, or with fewer than two valid ones,
    teaches nothing and gets exactly 0, not rounding noise; so do invalid samples. (verl gives a group of one its raw
    reward.)
    """
    centred_QG = dr_grpo(grades)
    count_Q1 = jnp.sum(grades.valid_QG, axis=1, keepdims=True)
    variance_Q1 = jnp.sum(jnp.square(centred_QG), axis=1, keepdims=True) / jnp.maximum(count_Q1 - 1, 1)
    return centred_QG / (jnp.sqrt(variance_Q1) + eps)
