"""Grouped-query attention of new tokens over a cache, which is only read. Softmax in float32.

A cache's keys and values may be Int8. A position's scale then multiplies its score, or its weight before the values.
Keys may be Turned.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from qr_jax.models.attention import MASKED, not_after
from qr_jax.models.quantized import Int8, cast


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Turned:
    """Keys [rows, K, B, d] whose array has their positions last, [rows, K, d, B], as a CPU reads them fastest.

    A decoding step of SmolLM2 (32 rows of 512, 2 cores) takes 72 ms with it, 93 with keys in the usual order, and 83 if
    those are read by one product per query. In bfloat16 XLA has no such product on a CPU.
    """

    array: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        *rows_and_heads, dim, positions = self.array.shape
        return (*rows_and_heads, positions, dim)

    @property
    def dtype(self) -> jnp.dtype:
        return self.array.dtype


def _with_scale(x_SKXB, kept):
    """Multiply by the scale of each position's key or value."""
    if not isinstance(kept, Int8):
        return x_SKXB
    return x_SKXB * jnp.expand_dims(kept.scale, range(2, x_SKXB.ndim - 1))


def _by_keys(product: str, q, keys):
    """Return the products of queries and keys, float32, as the einsum says ("{}" stands for the keys' axes b and d)."""
    if isinstance(keys, Turned):
        return jnp.einsum(product.format("db"), q, keys.array, preferred_element_type=jnp.float32)
    found = jnp.einsum(product.format("bd"), q, cast(keys, q.dtype), preferred_element_type=jnp.float32)
    return _with_scale(found, keys)


def _scores(q_SKGd, k_SKBd, seen):
    """Return float32 [S, K, G, B], MASKED where not seen ([S or 1, B])."""
    score = _by_keys("skgd,sk{}->skgb", q_SKGd, k_SKBd)
    return jnp.where(seen[:, None, None], score * q_SKGd.shape[-1] ** -0.5, MASKED)


def one_token(q_SHd, k_SKBd, v_SKBd, used_S, new_k_SKJd, new_v_SKJd, at, window: int = 0):
    """Attend from each slot's newest token to the cache's first `used_S` positions and the first at + 1 of J new ones.

    With a `window` it sees the nearest so many of them alone, itself included. Both parts share one softmax, but are
    never joined in memory. Returns [S, H, d].
    """
    slots, heads, dim = q_SHd.shape
    kv_heads, positions = k_SKBd.shape[1:3]
    q_SKGd = q_SHd.reshape(slots, kv_heads, heads // kv_heads, dim)
    at_B, at_J = jnp.arange(positions), jnp.arange(new_k_SKJd.shape[2])
    seen_SB, seen_J = at_B[None] < used_S[:, None], at_J <= at
    if window:
        seen_SB &= used_S[:, None] + at - at_B[None] < window
        seen_J &= at - at_J < window
    old, new = _scores(q_SKGd, k_SKBd, seen_SB), _scores(q_SKGd, new_k_SKJd, seen_J[None])
    top = jnp.maximum(old.max(axis=-1, keepdims=True), new.max(axis=-1, keepdims=True))
    total, out = 0.0, 0.0
    for score, v in ((old, v_SKBd), (new, new_v_SKJd)):
        weight = jnp.exp(score - top)
        total += weight.sum(axis=-1, keepdims=True)
        weight, values = _with_scale(weight, v).astype(q_SHd.dtype), cast(v, q_SHd.dtype)
        out += jnp.einsum("skgb,skbd->skgd", weight, values, preferred_element_type=jnp.float32)
    return (out / total).reshape(slots, heads, dim).astype(q_SHd.dtype)


def tiles(q_TIHd, k_TKBd, v_TKBd, position_TI, length_T, window: int = 0):
    """Attend by tiles of I tokens: each over its row of the cache, and up to a token's own position.

    With a `window` a token sees the nearest so many positions alone, its own included. `length_T` positions of each row
    are in use. Returns [T, I, H, d].
    """
    count, size, heads, dim = q_TIHd.shape
    kv_heads, positions = k_TKBd.shape[1:3]
    q = q_TIHd.reshape(count, size, kv_heads, heads // kv_heads, dim)
    score = _by_keys("tikgd,tk{}->tkgib", q, k_TKBd) * dim**-0.5
    at_B = jnp.arange(positions)
    seen_TIB = not_after(at_B[None], position_TI)
    if window:
        seen_TIB &= position_TI[..., None] - at_B[None, None] < window
    # what stands past them need not be finite, and 0 * nan is nan
    held_TB = at_B[None] < length_T[:, None]
    v_TKBd = jax.tree.map(lambda part: _zero_but(held_TB, part), v_TKBd)
    weight = jax.nn.softmax(jnp.where(seen_TIB[:, None, None], score, MASKED), axis=-1)
    weight, values = _with_scale(weight, v_TKBd).astype(q.dtype), cast(v_TKBd, q.dtype)
    # turned around afterwards: with the turn inside the product XLA on CPU has no bfloat16 program for it
    out = jnp.einsum("tkgib,tkbd->tkgid", weight, values, preferred_element_type=jnp.float32)
    return out.transpose(0, 3, 1, 2, 4).reshape(count, size, heads, dim).astype(q_TIHd.dtype)


def _zero_but(held_TB, part_TKB):
    """Zero the positions of an array [T, K, B, ...] that are not held."""
    held = jnp.expand_dims(held_TB[:, None], range(3, part_TKB.ndim))
    return jnp.where(held, part_TKB, jnp.zeros((), part_TKB.dtype))
