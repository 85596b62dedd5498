"""Group-relative advantage: how much better than its siblings was each answer?"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from qr_jax.learner.advantages.dr_grpo import dr_grpo
from qr_jax.records import Grades


def grpo(
    grades: Grades,
    *,
    eps: float = 1e-6,  # added to the denominator, so that it is never 0
    std: Literal["sample", "population"] = "sample",  # n - 1 or n in the variance's denominator
) -> Float[Array, "Q G"]:
    """Return adv_QG = (r - mean) / (std + eps) over the group's valid rewards.

    exact: Shao et al. 2024 (arXiv:2402.03300, sec. 4.1). verl and AReaL use the sample's std (n - 1) too; the
    population's (n) makes advantages 1.155 times as large for n = 4. A group whose rewards are all equal, or with fewer
    than two valid ones, teaches nothing and gets exactly 0, not rounding noise; so do invalid samples. (verl gives a
    group of one its raw reward.)
    """
    centred_QG = dr_grpo(grades)
    count_Q1 = jnp.sum(grades.valid_QG, axis=1, keepdims=True)
    counted_Q1 = count_Q1 - (std == "sample")
    variance_Q1 = jnp.sum(jnp.square(centred_QG), axis=1, keepdims=True) / jnp.maximum(counted_Q1, 1)
    return centred_QG / (jnp.sqrt(variance_Q1) + eps)
