"""Grouped-query attention in plain XLA, inside packed rows."""

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
