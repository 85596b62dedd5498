"""Attention of each slot's newest token on GPU: one Triton kernel that reads the keys and values in use, and no others.

XLA has two products and a softmax for it, over all positions that the cache has room for. Here a program a slot and
key/value head goes through its cache in blocks with a running maximum and sum (Dao et al. 2022, arXiv:2205.14135), and
stops where the slot's positions end.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

BLOCK = 64  # cache positions at a time
SMALLEST = 16  # rows of a product that Triton gives to the matrix unit
MASKED = -1e30


def fits(q_SHd, k_SKBd, new_k_SKJd) -> bool:
    """Whether the kernel takes these shapes: bfloat16 or float16, dimensions that Triton can hold, blocks that fill."""
    positions, dim, newer = k_SKBd.shape[2], k_SKBd.shape[3], new_k_SKJd.shape[2]
    powers = all(size & (size - 1) == 0 for size in (dim, newer))
    return k_SKBd.dtype.itemsize == 2 and powers and min(dim, newer) >= SMALLEST and positions >= BLOCK


def one_token(q_SHd, k_SKBd, v_SKBd, used_S, new_k_SKJd, new_v_SKJd, seen_J, *, interpret: bool = False):
    """`cached_attention.one_token`; `interpret` runs it without a GPU."""
    from jax.experimental.pallas import triton

    slots, heads, dim = q_SHd.shape
    kv_heads, positions = k_SKBd.shape[1:3]
    group, newer = heads // kv_heads, new_k_SKJd.shape[2]
    rows = max(SMALLEST, 1 << (group - 1).bit_length())
    q_SKGd = jnp.pad(q_SHd.reshape(slots, kv_heads, group, dim), ((0, 0), (0, 0), (0, rows - group), (0, 0)))

    def of(size):
        return pl.BlockSpec((None, None, size, dim), lambda s, k: (s, k, 0, 0))

    out_SKGd = pl.pallas_call(
        functools.partial(_kernel, positions=positions),
        grid=(slots, kv_heads),
        in_specs=[
            of(rows), of(positions), of(positions), pl.BlockSpec((None,), lambda s, k: (s,)), of(newer), of(newer),
            pl.BlockSpec((newer,), lambda s, k: (0,)),
        ],
        out_specs=of(rows),
        out_shape=jax.ShapeDtypeStruct(q_SKGd.shape, q_SHd.dtype),
        compiler_params=None if interpret else triton.CompilerParams(num_warps=4, num_stages=3),
        interpret=interpret,
        name="decode_attention",
    )(q_SKGd, k_SKBd, v_SKBd, used_S, new_k_SKJd, new_v_SKJd, seen_J.astype(jnp.int32))  # fmt: skip
    return out_SKGd[:, :, :group].reshape(slots, heads, dim)


def _kernel(q_ref, k_ref, v_ref, used_ref, new_k_ref, new_v_ref, seen_ref, out_ref, *, positions: int):
    q_Gd, used = q_ref[...], used_ref[...]
    scale = q_Gd.shape[-1] ** -0.5

    def fold(carry, k_Xd, v_Xd, fresh_X):
        top_G, total_G, out_Gd = carry
        score_GX = jnp.dot(q_Gd, k_Xd.T, preferred_element_type=jnp.float32) * scale
        score_GX = jnp.where(fresh_X[None], score_GX, MASKED)
        new_top_G = jnp.maximum(top_G, score_GX.max(axis=1))
        weight_GX, fall_G = jnp.exp(score_GX - new_top_G[:, None]), jnp.exp(top_G - new_top_G)
        # what stands past the positions in use need not be finite, and 0 * nan is nan
        v_Xd = jnp.where(fresh_X[:, None], v_Xd, jnp.zeros_like(v_Xd))
        out_Gd = out_Gd * fall_G[:, None] + jnp.dot(
            weight_GX.astype(v_Xd.dtype), v_Xd, preferred_element_type=jnp.float32
        )
        return new_top_G, total_G * fall_G + weight_GX.sum(axis=1), out_Gd

    def block(number, carry):
        start = jnp.minimum(number * BLOCK, positions - BLOCK)  # the last one may overlap the one before
        at_X = start + jnp.arange(BLOCK)
        here = pl.ds(start, BLOCK)
        return fold(carry, k_ref[here, :], v_ref[here, :], (at_X >= number * BLOCK) & (at_X < used))

    rows = q_Gd.shape[0]
    zero_G = jnp.zeros(rows, jnp.float32)
    start = fold(
        (zero_G + MASKED, zero_G, jnp.zeros(q_Gd.shape, jnp.float32)), new_k_ref[...], new_v_ref[...], seen_ref[...] > 0
    )
    _, total_G, out_Gd = jax.lax.fori_loop(0, pl.cdiv(used, BLOCK), block, start)
    out_ref[...] = (out_Gd / total_G[:, None]).astype(out_ref.dtype)
