"""The group-variance mask: which groups of rollouts can teach anything?

Importing this module also makes `records.Grades` a pytree, so that grades can enter jitted functions.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from qr_jax.records import Grades

NAMES = [field.name for field in dataclasses.fields(Grades)]
jax.tree_util.register_dataclass(Grades, data_fields=NAMES, meta_fields=[])


@jax.jit
def group_mean(reward_QG: Float[Array, "Q G"], valid_QG: Bool[Array, "Q G"]) -> Float[Array, "Q 1"]:
    """Return mean_Q1 of the group's valid rewards; 0 without any."""
    total_Q1 = jnp.sum(jnp.where(valid_QG, reward_QG, 0.0), axis=1, keepdims=True)
    return total_Q1 / jnp.maximum(jnp.sum(valid_QG, axis=1, keepdims=True), 1)


@jax.jit
def group_variance_mask(reward_QG: Float[Array, "Q G"], valid_QG: Bool[Array, "Q G"]) -> Bool[Array, "Q"]:
    """Return signal_Q: True where max > min over the group's valid rewards; False with fewer than two valid ones.

    The comparison is exact, never by a float std: of equal float32 rewards k/n a jitted `std > 0` is True about half
    the time. `pool.verdicts` makes the same comparison in numpy; the two agree on rewards that `records.grades`
    has cleaned (XLA flushes subnormals, numpy does not; a NaN counts as a fault there).
    """
    high_Q = jnp.max(jnp.where(valid_QG, reward_QG, -jnp.inf), axis=1)
    low_Q = jnp.min(jnp.where(valid_QG, reward_QG, jnp.inf), axis=1)
    return high_Q > low_Q  # one valid reward: equal; none: -inf > inf; both False
