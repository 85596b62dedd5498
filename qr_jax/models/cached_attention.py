"""Grouped-query attention of new tokens over a cache, which is only read. Softmax in float32."""

import jax
import jax.numpy as jnp

from qr_jax.models.attention import MASKED, not_after


def _scores_by_sums(q_SKGd, k_SKBd):
    """On CPU a product of 2 or 3 queries with a long cache is no matrix product: it reads the keys at a third of the
    machine's bandwidth (32 rows of 512: 97 ms a step against 71 so)."""
    return jnp.sum(q_SKGd[:, :, :, None] * k_SKBd[:, :, None], axis=-1, dtype=jnp.float32) * q_SKGd.shape[-1] ** -0.5


def _scores_by_products(q_SKGd, k_SKBd):
    score = jnp.einsum("skgd,skbd->skgb", q_SKGd, k_SKBd, preferred_element_type=jnp.float32)
    return score * q_SKGd.shape[-1] ** -0.5


def _scores(q_SKGd, k_SKBd):
    return jax.lax.platform_dependent(q_SKGd, k_SKBd, cpu=_scores_by_sums, default=_scores_by_products)


def one_token(q_SHd, k_SKBd, v_SKBd, used_S, new_k_SKJd, new_v_SKJd, seen_J):
    """Each slot's newest token over the cache's first `used_S` positions and the `seen_J` of its J newer ones.

    Both parts share one softmax. Returns [S, H, d].
    """
    slots, heads, dim = q_SHd.shape
    kv_heads, positions = k_SKBd.shape[1:3]
    q_SKGd = q_SHd.reshape(slots, kv_heads, heads // kv_heads, dim)
    in_use_SB = jnp.arange(positions)[None] < used_S[:, None]
    old = jnp.where(in_use_SB[:, None, None], _scores(q_SKGd, k_SKBd), MASKED)
    new = jnp.where(seen_J[None, None, None], _scores(q_SKGd, new_k_SKJd), MASKED)
    weight = jax.nn.softmax(jnp.concatenate([old, new], axis=-1), axis=-1).astype(v_SKBd.dtype)
    old, new = weight[..., :positions], weight[..., positions:]
    out = jnp.einsum("skgb,skbd->skgd", old, v_SKBd, preferred_element_type=jnp.float32)
    out += jnp.einsum("skgb,skbd->skgd", new, new_v_SKJd, preferred_element_type=jnp.float32)
    return out.reshape(slots, heads, dim).astype(q_SHd.dtype)


def tiles(q_TIHd, k_TKBd, v_TKBd, position_TI, length_T):
    """Tiles of I tokens, each over the row of the cache that it has itself been written to, up to its own position.

    `length_T` positions of each row are in use. Returns [T, I, H, d].
    """
    count, size, heads, dim = q_TIHd.shape
    kv_heads, positions = k_TKBd.shape[1:3]
    q = q_TIHd.reshape(count, size, kv_heads, heads // kv_heads, dim)
    score = jnp.einsum("tikgd,tkbd->tkgib", q, k_TKBd, preferred_element_type=jnp.float32) * dim**-0.5
    seen_TIB = not_after(jnp.arange(positions)[None], position_TI)
    # what stands past them need not be finite, and 0 * nan is nan
    held_TB = jnp.arange(positions)[None] < length_T[:, None]
    v_TKBd = jnp.where(held_TB[:, None, :, None], v_TKBd, jnp.zeros((), v_TKBd.dtype))
    weight = jax.nn.softmax(jnp.where(seen_TIB[:, None, None], score, MASKED), axis=-1).astype(v_TKBd.dtype)
    # turned around afterwards: with the turn inside the product XLA on CPU has no bfloat16 program for it
    out = jnp.einsum("tkgib,tkbd->tkgid", weight, v_TKBd, preferred_element_type=jnp.float32)
    return out.transpose(0, 3, 1, 2, 4).reshape(count, size, heads, dim).astype(q_TIHd.dtype)
