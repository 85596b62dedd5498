"""The jitted programs of a rollout: append known tokens to rows, decode a chunk of new ones, copy rows.

Every program takes tokens that are not yet in the cache. A sequence's last token is always such a one (its *pending*
token), so a prompt and an observation are appended up to their last token and need no logits.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qr_jax.models import decoder
from qr_jax.models.families import ModelConfig
from qr_jax.rollout import cache as caches


class Sampling(NamedTuple):
    """What of sampling is compiled in. The temperature is an argument: 0 is greedy, in the same program."""

    top_p: float = 1.0
    top_k: int = 0


class Chunk(NamedTuple):
    """Sampled tokens, their log-probabilities (nats, before top-p and top-k) and how many of each row are real."""

    token_SC: jax.Array
    logp_SC: jax.Array
    count_S: jax.Array


@jax.jit
def episode_keys(seed, purpose, step, query_N, sample_N):
    """Key data [N, 2] of episodes: folded from seed, purpose, step, query and sample, never from slot or host."""
    key = jax.random.key(seed)
    for number in (purpose, step):
        key = jax.random.fold_in(key, number)

    def one(query, sample):
        return jax.random.key_data(jax.random.fold_in(jax.random.fold_in(key, query), sample))

    return jax.vmap(one)(query_N, sample_N)


def _restrict(logp_SV, sampling: Sampling):
    """Log-probabilities with -inf outside the `top_k` largest and the smallest set that holds `top_p`; ties stay in."""
    if sampling.top_k:
        kth_S1 = jax.lax.top_k(logp_SV, sampling.top_k)[0][:, -1:]
        # normalised anew: top_p is a share of what top_k leaves
        logp_SV = jax.nn.log_softmax(jnp.where(logp_SV >= kth_S1, logp_SV, -jnp.inf), axis=-1)
    if sampling.top_p < 1.0:
        sorted_SV = jnp.sort(logp_SV, axis=-1, descending=True)
        before_SV = jnp.cumsum(jnp.exp(sorted_SV), axis=-1) - jnp.exp(sorted_SV)
        last_S1 = jnp.sum(before_SV < sampling.top_p, axis=-1, keepdims=True) - 1
        logp_SV = jnp.where(logp_SV >= jnp.take_along_axis(sorted_SV, last_S1, axis=-1), logp_SV, -jnp.inf)
    return logp_SV


def perturbed(logits_SV, key_S2, position_S, temperature, sampling: Sampling):
    """(scores whose argmax is the sample, log-probabilities), [S, V] each: Gumbel-max on key and position."""
    greedy = temperature == 0
    logp_SV = jax.nn.log_softmax(logits_SV / jnp.where(greedy, 1.0, temperature), axis=-1)

    def noise(key, position):
        return jax.random.gumbel(jax.random.fold_in(jax.random.wrap_key_data(key), position), logits_SV.shape[-1:])

    score_SV = _restrict(logp_SV, sampling) + jnp.where(greedy, 0.0, jax.vmap(noise)(key_S2, position_S))
    return score_SV, logp_SV


def sample(logits_SV, key_S2, position_S, temperature, sampling: Sampling):
    score_SV, logp_SV = perturbed(logits_SV, key_S2, position_S, temperature, sampling)
    token_S = jnp.argmax(score_SV, axis=-1).astype(jnp.int32)
    return token_S, jnp.take_along_axis(logp_SV, token_S[:, None], axis=-1)[:, 0]


def _buffer(cache, rows: int, entries: int):
    layers, _, kv_heads, _, dim = cache[0].shape
    return tuple(jnp.zeros((layers, rows, kv_heads, entries, dim), part.dtype) for part in cache)


@functools.partial(jax.jit, static_argnames=("cfg", "bucket", "chunk", "sampling"), donate_argnames=("cache",))
def decode(
    params,
    cache,
    pending_S,
    used_S,
    room_S,
    key_S2,
    stop_V,
    temperature,
    *,
    cfg: ModelConfig,
    bucket: int,
    chunk: int,
    sampling: Sampling,
):
    """Sample up to `chunk` tokens in every slot; a slot ends when `room_S` is used up or at an id marked in `stop_V`.

    The cache is only read until the chunk is over; the new entries are then written in one go. No row may have more
    than `bucket` positions in use. Returns (cache, Chunk).
    """
    slots = pending_S.shape[0]
    view = tuple(part[:, :, :, :bucket] for part in cache)
    compute = cache[0].dtype

    def more(state):
        return (state[0] < chunk) & state[2].any()

    def tick(state):
        at, token_S, live_S, count_S, buffer, token_SC, logp_SC = state
        seen_1C = (jnp.arange(chunk) <= at)[None]
        hidden, buffer = decoder.extend(
            cfg, params, view, token_S[:, None], used_S, buffer, seen_1C, at=at, compute=compute
        )
        logits_SV = decoder.logits(cfg, params, hidden)[:, 0]
        token_S, logp_S = sample(logits_SV, key_S2, used_S + at + 1, temperature, sampling)
        token_SC = jax.lax.dynamic_update_slice_in_dim(token_SC, token_S[:, None], at, axis=1)
        logp_SC = jax.lax.dynamic_update_slice_in_dim(logp_SC, logp_S[:, None], at, axis=1)
        count_S = count_S + live_S
        live_S = live_S & ~stop_V[token_S] & (count_S < room_S)
        return at + 1, token_S, live_S, count_S, buffer, token_SC, logp_SC

    state = (
        jnp.int32(0),
        pending_S,
        room_S > 0,
        jnp.zeros(slots, jnp.int32),
        _buffer(cache, slots, chunk),
        jnp.zeros((slots, chunk), jnp.int32),
        jnp.zeros((slots, chunk), jnp.float32),
    )
    _, _, _, count_S, buffer, token_SC, logp_SC = jax.lax.while_loop(more, tick, state)
    cache = caches.write(cache, buffer, jnp.arange(slots), used_S, count_S)
    return cache, Chunk(token_SC, logp_SC, count_S)


@functools.partial(jax.jit, static_argnames=("cfg", "bucket"), donate_argnames=("cache",))
def append(params, cache, row_R, ids_RL, used_R, count_R, *, cfg: ModelConfig, bucket: int):
    """Put keys and values of the first `count_R` of `ids_RL` behind the first `used_R` positions of rows `row_R`."""
    rows, length = ids_RL.shape
    view = caches.in_use(tuple(jnp.take(part[:, :, :, :bucket], row_R, axis=1, mode="clip") for part in cache), used_R)
    seen_LL = jnp.tril(jnp.ones((length, length), bool))
    _, buffer = decoder.extend(
        cfg, params, view, ids_RL, used_R, _buffer(cache, rows, length), seen_LL, compute=cache[0].dtype
    )
    return caches.write(cache, buffer, row_R, used_R, count_R)


move = jax.jit(caches.move, donate_argnums=0)
