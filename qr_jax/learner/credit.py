"""Credit: weight, advantage and reward of every token, and the arrays that an advantage plug-in may ask for.

A batch has M micro-batches of E episode slots of L tokens. A plug-in sees N = Q * G episodes [N, L], in the order of
the flattened grades [Q, G].
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qr_jax import config
from qr_jax.learner import reduce
from qr_jax.learner.pack import Batch


def by_episode(value_MEL: jax.Array, batch: Batch, empty: float | int | bool) -> jax.Array:
    """Return values of slots as [N, L], one row per episode in the order of the flattened grades; `empty` where there
    is no slot.

    Faults, episodes that were dropped and the padding of groups have no slot.
    """
    micro, slots, _ = value_MEL.shape
    episodes = batch.grades.reward_QG.size
    episode_X = batch.episode_ME.reshape(-1)
    row_X = jnp.where(episode_X >= 0, episode_X, episodes)  # one past the end: dropped
    slot_N = jnp.full(episodes, -1, jnp.int32).at[row_X].set(jnp.arange(micro * slots), mode="drop")
    at_N = jnp.maximum(slot_N, 0)
    value_NL = value_MEL[at_N // slots, at_N % slots]
    return jnp.where(slot_N[:, None] >= 0, value_NL, jnp.asarray(empty, value_MEL.dtype))


def token_weights(settings: config.Learner, batch: Batch) -> Float[Array, "M E L"]:
    """Return every token's weight in the loss; denominators count the global batch and what methods/fill.py copies."""
    drawn, (queries, samples) = settings.over == "drawn", batch.grades.reward_QG.shape
    group_ME = jnp.maximum(batch.episode_ME, 0) // samples  # an empty slot has no token, whatever group it is put in
    weight_MEL = reduce.token_weights(
        batch.mask_MEL,
        mode=settings.reduce,
        horizon_tokens=settings.horizon_tokens,
        group_N=group_ME,
        groups=queries,
        extra_tokens=batch.beside_tokens + (batch.drawn_tokens if drawn else 0),
        extra_episodes=batch.beside_episodes + (batch.drawn_episodes if drawn else 0),
    )
    return weight_MEL * batch.weight_Q[group_ME][..., None]


def to_slots(advantage: jax.Array, batch: Batch) -> tuple[Float[Array, "M E L"], Float[Array, "M E"]]:
    """Return (adv_MEL, reward_ME): the advantage (adv_QG, adv_QGT or adv_NL) and the reward of every episode slot.

    The advantage is 0 where nothing was sampled. An adv_QGT of fewer turns than an episode has is refused once it is on
    the host (step/log.check_advantage); under jit the turns beyond it get its last turn's advantage.
    """
    at_ME = jnp.maximum(batch.episode_ME, 0)
    filled_ME = batch.episode_ME >= 0
    if advantage.ndim == 3:  # one per turn
        adv_MET = advantage.reshape(-1, advantage.shape[2])[at_ME]
        adv_MEL = jnp.take_along_axis(adv_MET, jnp.clip(batch.turn_MEL, 0, advantage.shape[2] - 1), axis=2)
    elif advantage.shape == batch.grades.reward_QG.shape:  # one per episode
        adv_MEL = jnp.broadcast_to(advantage.reshape(-1)[at_ME][..., None], batch.mask_MEL.shape)
    else:  # one per token
        adv_MEL = advantage[at_ME]
    reward_ME = jnp.where(filled_ME, batch.grades.reward_QG.reshape(-1)[at_ME], 0.0)
    return jnp.where(filled_ME[..., None] & batch.mask_MEL, adv_MEL, 0.0), reward_ME
