"""RAFT++: right answers alone, each as good as any other."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from qr_jax.records import Grades

ZERO_VARIANCE = "gradient"  # all right: each of them is learned from


def raft_pp(grades: Grades) -> Float[Array, "Q G"]:
    """Return adv_QG = 1 where the reward is above 0, else 0; the loss `clip` with its ratio is RAFT's "++".

    exact: Xiong et al. 2025 (arXiv:2504.11343) and its authors' code, where right is a reward of 1.
    """
    return jnp.where(grades.valid_QG & (grades.reward_QG > 0), 1.0, 0.0)
