"""The jitted programs of a rollout: append known tokens to rows, decode a chunk of new ones, copy rows.

Every program takes tokens that are not yet in the cache. A sequence's last token never is (it is *pending*), so a
prompt and an observation are appended up to their last token and need no logits.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qr_jax.models import cached_attention, incremental
from qr_jax.models.families import ModelConfig
from qr_jax.rollout import cache as caches
from qr_jax.rollout.sampling import Sampling, choose

LEFT = 8  # a chunk ends once at most 1 / LEFT of the slots that began it still decode


class Chunk(NamedTuple):
    """Sampled tokens, their log-probabilities (nats, before top-p and top-k) and how many of each row are real."""

    token_SC: jax.Array
    logp_SC: jax.Array
    count_S: jax.Array


@jax.jit
def episode_keys(seed, purpose, step, query_N, sample_N):
    """Return key data [N, 2] of episodes: folded from seed, purpose, step, query, sample, never from slot or host."""
    key = jax.random.key(seed)
    for number in (purpose, step):
        key = jax.random.fold_in(key, number)

    def episode_key(query, sample):
        return jax.random.key_data(jax.random.fold_in(jax.random.fold_in(key, query), sample))

    return jax.vmap(episode_key)(query_N, sample_N)


@functools.partial(jax.jit, static_argnames=("cfg", "chunk", "sampling", "mesh"), donate_argnames=("cache",))
def decode(
    laid: incremental.DecodeParams,
    cache: caches.Cache,
    row_S,
    pending_S,
    used_S,
    room_S,
    key_S2,
    stop_V,
    temperature,
    *,
    cfg: ModelConfig,
    chunk: int,
    sampling: Sampling,
    mesh: Mesh | None = None,
):
    """Sample up to `chunk` tokens in every slot; a slot ends when `room_S` is used up or at an id marked in `stop_V`,
    and the chunk once at most 1 / LEFT of the slots that began it still decode.

    `row_S`: the cache rows of some slots, copied out for the chunk (past the end: none); None: slot n has row n.
    The cache is only read until the chunk is over: new keys and values gather in a buffer of `chunk` positions, which
    is then written in one go. An int8 cache rounds them only then, so results depend on where a chunk begins: in a
    small model one log-probability in 200 moves by over 1e-4 nats, fewer than if each were rounded at once.
    Returns (cache, Chunk). `mesh`: see `KVCache.mesh`.
    """
    slots, read = pending_S.shape[0], cache
    if row_S is not None:
        read = tuple(tuple(caches.rows_of(part, row_S) for part in layer) for layer in cache)

    started = jnp.sum(room_S > 0)

    def more(state):
        return (state[0] < chunk) & (jnp.sum(state[2]) * LEFT > started)

    def tick(state):
        at, token_S, live_S, count_S, buffer, token_SC, logp_SC = state

        kept_L = list(zip(read, buffer, strict=True))
        x_DS, kept_L = incremental.run(cfg, laid, token_S, used_S + at, kept_L, _one_token, (at, used_S))
        choice = choose(incremental.logits(cfg, laid, x_DS), key_S2, used_S + at + 1, temperature, sampling)
        token_SC = jax.lax.dynamic_update_slice_in_dim(token_SC, choice.token_S[:, None], at, axis=1)
        logp_SC = jax.lax.dynamic_update_slice_in_dim(logp_SC, choice.logp_S[:, None], at, axis=1)
        count_S = count_S + live_S
        live_S = live_S & ~stop_V[choice.token_S] & (count_S < room_S)
        return at + 1, choice.token_S, live_S, count_S, tuple(fresh for _, fresh in kept_L), token_SC, logp_SC

    state = (
        jnp.int32(0),
        pending_S,
        room_S > 0,
        jnp.zeros(slots, jnp.int32),
        caches.create(cfg, slots, chunk, laid.norm.dtype),  # new keys and values are as exact as the compute dtype
        jnp.zeros((slots, chunk), jnp.int32),
        jnp.zeros((slots, chunk), jnp.float32),
    )
    _, _, _, count_S, buffer, token_SC, logp_SC = jax.lax.while_loop(more, tick, state)
    rows = jnp.arange(slots) if row_S is None else row_S
    cache = caches.write(cache, buffer, rows, used_S, count_S, mesh)
    sampled = Chunk(token_SC, logp_SC, count_S)
    if mesh is not None:  # whole on every device, so that every process can read it
        sampled = jax.lax.with_sharding_constraint(sampled, NamedSharding(mesh, PartitionSpec()))
    return cache, sampled


def _one_token(kept, given, window, q_SHd, k_SKd, v_SKd):
    """Add each slot's newest token to the buffer of the chunk's tokens; attend over it and the slot's cache row."""
    (k_SKBd, v_SKBd), fresh = kept
    at, used_S = given
    pairs = zip(fresh, (k_SKd, v_SKd), strict=True)
    new_k, new_v = (jax.lax.dynamic_update_slice_in_dim(b, x[:, :, None], at, axis=2) for b, x in pairs)
    out_SHd = cached_attention.one_token(q_SHd, k_SKBd, v_SKBd, used_S, new_k, new_v, at, window)
    return out_SHd, (kept[0], (new_k, new_v))


@functools.partial(jax.jit, static_argnames=("cfg", "view", "mesh"), donate_argnames=("cache",))
def append(
    laid: incremental.DecodeParams,
    cache: caches.Cache,
    row_T,
    ids_TI,
    used_T,
    count_T,
    *,
    cfg: ModelConfig,
    view: int,
    mesh: Mesh | None = None,
):
    """Put keys and values of the first `count_T` ids of each tile behind the first `used_T` positions of its row.

    One call may hold several tiles of a row, the earlier first: a layer's keys and values are written before any tile
    attends. No row may then have more than `view` positions in use. `mesh`: see `KVCache.mesh`.
    """
    return run_tiles(laid, cache, row_T, ids_TI, used_T, count_T, cfg=cfg, view=view, mesh=mesh)[1]


def run_tiles(laid, cache, row_T, ids_TI, used_T, count_T, *, cfg: ModelConfig, view: int, mesh=None):
    """Return x_DN after the last layer of all tiles' tokens, and the cache with these appended, as by `append`."""
    flat, given = flat_tiles(row_T, ids_TI, used_T, count_T)
    return incremental.run(cfg, laid, *flat, cache, attend_in_tiles(view, mesh), given)


def flat_tiles(row_T, ids_TI, used_T, count_T):
    """Return ids and positions of all tiles, [N] each, and what `attend_in_tiles`' function is given."""
    position_TI = used_T[:, None] + np.arange(ids_TI.shape[1])[None]
    return (ids_TI.reshape(-1), position_TI.reshape(-1)), (row_T, used_T, count_T, position_TI)


@functools.cache  # a function of its own each time would be a program of its own
def attend_in_tiles(view: int, mesh: Mesh | None):
    """Return the function that writes tiles into their rows and attends over the rows' first `view` positions."""

    def attend(kept, given, window, q_NHd, k_NKd, v_NKd):
        row_T, used_T, count_T, position_TI = given
        new = (jnp.swapaxes(part.reshape(*position_TI.shape, *part.shape[1:]), 1, 2) for part in (k_NKd, v_NKd))
        pairs = zip(kept, new, strict=True)
        kept = tuple(caches.put(part, rows, row_T, used_T, count_T, mesh) for part, rows in pairs)
        k_TKBd, v_TKBd = (caches.rows_of(part, row_T, view) for part in kept)
        q_TIHd = q_NHd.reshape(*position_TI.shape, *q_NHd.shape[1:])
        out = cached_attention.tiles(q_TIHd, k_TKBd, v_TKBd, position_TI, used_T + count_T, window)
        return out.reshape(q_NHd.shape), kept

    return attend


move = jax.jit(caches.move, donate_argnums=0)


@functools.partial(jax.jit, donate_argnums=0)
def copy(cache, from_R, to_R, used_R):
    """Copy rows within one cache."""
    return caches.move(cache, cache, from_R, to_R, used_R)
