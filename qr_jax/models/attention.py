"""Grouped-query attention in plain XLA: inside packed rows, and over a cache plus tokens not yet in it."""

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite: a row with nothing to attend to gives a mean, not a NaN


def packed(q_NLHd, k_NLKd, v_NLKd, segment_NL):
    """Causal attention inside each segment of packed rows (segment 0 is padding). Returns [N, L, H, d].

    Softmax in float32.
    """
    n, length, heads, dim = q_NLHd.shape
    kv_heads = k_NLKd.shape[2]
    q = q_NLHd.reshape(n, length, kv_heads, heads // kv_heads, dim)
    score = jnp.einsum("nikgd,njkd->nkgij", q, k_NLKd, preferred_element_type=jnp.float32) * dim**-0.5
    seen = jnp.tril(jnp.ones((length, length), bool))[None] & (segment_NL[:, :, None] == segment_NL[:, None, :])
    weight = jax.nn.softmax(jnp.where(seen[:, None, None], score, MASKED), axis=-1)
    out = jnp.einsum("nkgij,njkd->nikgd", weight.astype(v_NLKd.dtype), v_NLKd, preferred_element_type=jnp.float32)
    return out.reshape(n, length, heads, dim).astype(q_NLHd.dtype)


def cached(q_SLHd, k_SKBd, v_SKBd, used_S, new_k_SKJd, new_v_SKJd, seen_LJ):
    """Attention over the cache's first `used_S` positions and over new tokens, merged in one softmax.

    The cache is only read. `seen_LJ` says which of the J new keys each of the L queries may see. Returns [S, L, H, d].
    """
    slots, length, heads, dim = q_SLHd.shape
    kv_heads, positions = k_SKBd.shape[1:3]
    q = q_SLHd.reshape(slots, length, kv_heads, heads // kv_heads, dim)
    old = jnp.einsum("slkgd,skbd->skglb", q, k_SKBd, preferred_element_type=jnp.float32) * dim**-0.5
    new = jnp.einsum("slkgd,skjd->skglj", q, new_k_SKJd, preferred_element_type=jnp.float32) * dim**-0.5
    in_use_SB = jnp.arange(positions)[None] < used_S[:, None]
    old = jnp.where(in_use_SB[:, None, None, None], old, MASKED)
    new = jnp.where(seen_LJ[None, None, None], new, MASKED)
    top = jnp.maximum(old.max(-1, keepdims=True), new.max(-1, keepdims=True))
    old, new = jnp.exp(old - top), jnp.exp(new - top)
    total = old.sum(-1) + new.sum(-1)
    kind = v_SKBd.dtype
    out = jnp.einsum("skglb,skbd->slkgd", old.astype(kind), v_SKBd, preferred_element_type=jnp.float32)
    out += jnp.einsum("skglj,skjd->slkgd", new.astype(kind), new_v_SKJd, preferred_element_type=jnp.float32)
    out /= jnp.moveaxis(total, 3, 1)[..., None]
    return out.reshape(slots, length, heads, dim).astype(q_SLHd.dtype)
