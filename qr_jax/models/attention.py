"""Grouped-query attention inside packed rows: by blocks in plain XLA, or by a kernel of flash.py.

By blocks, scores of one pair of blocks exist at once (Milakov & Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022,
arXiv:2205.14135), the backward pass computes them again from the saved log-sums, and pairs that causality, segments or
a window hide in every row of the call are skipped: a row of many short episodes costs what they would cost apart.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh

from qr_jax.models import flash

MASKED = -1e30  # finite: a row that is all masked gives a mean, or a number that is scaled to 0 later, not a NaN
BLOCK = 128  # the longest block, in tokens
EVERYTHING = 2**30  # a window that hides nothing


class Sliding(NamedTuple):
    """A layer that may have a sliding window: tokens see the nearest `window` positions of their segment, own included.

    Positions are those in an episode. In a tree they are not columns: a trunk's last token is one position before each
    of its branches.
    """

    slides: Any  # bool []; data of a program that serves both kinds of layers
    window: int
    position_NL: Any


def packed(
    q_NLHd,
    k_NLKd,
    v_NLKd,
    segment_NL,
    last_NL=None,
    sliding: Sliding | None = None,
    *,
    kind: str = "xla",
    mesh: Mesh | None = None,
):
    """Attend causally inside each segment (0 is padding), [N, L, H, d] in q's dtype; softmax in float32.

    Segments stand one behind another in a row, each in one piece. One may be a tree (learner/pack.py): `last_NL` is
    the last column that sees each column; None: its segment's. `sliding` None: no window. `kind` is
    "xla" (blocks), "cudnn" or "splash", which knows segments alone. XLA cannot shard the kernels, so they get the mesh.
    """
    if kind == "splash":
        window = sliding and (sliding.slides, sliding.window)
        return flash.splash(q_NLHd, k_NLKd, v_NLKd, segment_NL, window, mesh=mesh)
    last_NL = ends(segment_NL) if last_NL is None else last_NL
    near = sliding and (sliding.position_NL, jnp.where(sliding.slides, sliding.window, EVERYTHING))
    attend = flash.cudnn if kind == "cudnn" else blockwise
    return attend(q_NLHd, k_NLKd, v_NLKd, last_NL, near)


def ends(segment_NL):
    """Return the last column of each column's segment; -1 where padding."""
    length = segment_NL.shape[1]
    new_NL = jnp.concatenate([jnp.diff(segment_NL) != 0, jnp.ones_like(segment_NL[:, :1], bool)], axis=1)
    end_NL = jax.lax.cummin(jnp.where(new_NL, jnp.arange(length)[None], length), axis=1, reverse=True)
    return jnp.where(segment_NL > 0, end_NL, -1)


def choose(kind: str, device: Any, compute: str, length: int, head_dim: int) -> str:
    """Resolve "auto" on a device: its platform's kernel if that takes dtype, length and head size, else "xla"."""
    if kind != "auto":
        return kind
    if device.platform == "tpu" and not length % flash.BLOCKS[-1]:
        return "splash"
    on_gpu = device.platform in ("gpu", "cuda") and compute == "bfloat16"
    return "cudnn" if on_gpu and head_dim <= flash.largest_head(device) else "xla"


def blockwise(q_NLHd, k_NLKd, v_NLKd, last_NL, near=None):
    """Attend as `packed` in plain XLA: each query block loops over key blocks, from the first that any row reaches.

    `near`: the columns' positions [N, L], and the window [] in which a query sees; None: no window.
    """
    length = q_NLHd.shape[1]
    blocks = -(-length // BLOCK)
    block = -(-length // blocks)
    pad = blocks * block - length
    if pad:
        q_NLHd, k_NLKd, v_NLKd = (jnp.pad(y, ((0, 0), (0, pad), (0, 0), (0, 0))) for y in (q_NLHd, k_NLKd, v_NLKd))
        last_NL = jnp.pad(last_NL, ((0, 0), (0, pad)), constant_values=-1)
        near = near and (jnp.pad(near[0], ((0, 0), (0, pad))), near[1])
    return _attend(block, q_NLHd, k_NLKd, v_NLKd, last_NL, near)[:, :length]


def _by_block(block: int, value_NL):
    """Cut columns [N, L] into blocks: [blocks, N, block]."""
    return jnp.moveaxis(value_NL.reshape(len(value_NL), -1, block), 1, 0)


def _first_blocks(block: int, last_NL, near):
    """Return [blocks]: the first key block that a query of each block may look at in any row; padding looks at none."""
    at_L, last_B1N = jnp.arange(last_NL.shape[1]), _by_block(block, last_NL).max(-1)[:, None]
    reached_BLN = last_B1N >= at_L[None, :, None]
    if near is not None:
        position_NL, window = near
        reached_BLN &= position_NL.T[None] - _by_block(block, position_NL).max(-1)[:, None] < window
    reached_BI = reached_BLN.any(-1).reshape(len(last_B1N), -1, block).any(-1)
    return jnp.minimum(jnp.argmax(reached_BI.at[-1].set(True), axis=0), jnp.arange(len(last_B1N)))


def _split(block: int, x_NLHd, kv_heads: int):
    """Return [blocks, N, K, G * block, d]: each block's rows by key/value head, the G query heads of one behind
    another.
    """
    n, length, heads, dim = x_NLHd.shape
    x = x_NLHd.reshape(n, length // block, block, kv_heads, heads // kv_heads, dim)
    return x.transpose(1, 0, 3, 4, 2, 5).reshape(length // block, n, kv_heads, -1, dim)


def _join(block: int, x_BNKXd):
    blocks, n, kv_heads, rows, dim = x_BNKXd.shape
    x = x_BNKXd.reshape(blocks, n, kv_heads, rows // block, block, dim)
    return x.transpose(1, 0, 4, 2, 3, 5).reshape(n, blocks * block, -1, dim)


def _dot(x, y, over_x: int, over_y: int):
    """Multiply, batched over rows and key/value heads, contracted over one axis of each, accumulated in float32."""
    return jax.lax.dot_general(x, y, (((over_x,), (over_y,)), ((0, 1), (0, 1))), preferred_element_type=jnp.float32)


def not_after(key_XB, query_XI):
    """Return [..., queries, keys], True if a key's position is the query's, or before it."""
    return key_XB[..., None, :] <= query_XI[..., :, None]


def _masks(block: int, last_NL, near):
    """Cut the arrays that `_scores` masks by into blocks: `last_NL` and, where there is a window, the positions."""
    return _by_block(block, last_NL), near and (_by_block(block, near[0]), near[1])


def _scores(block, q_NKXd, k_NKjd, last_BNj, near, i, j):
    """Return masked scores [N, K, G * block, block] of query block i and key block j."""
    score = _dot(q_NKXd, k_NKjd, 3, 3) * q_NKXd.shape[-1] ** -0.5
    query, key = i * block + jnp.arange(block), j * block + jnp.arange(block)
    seen = not_after(key, query)[None] & (query[None, :, None] <= last_BNj[j][:, None, :])
    if near is not None:
        position_BNj, window = near
        seen &= position_BNj[i][:, :, None] - position_BNj[j][:, None, :] < window
    n, kv_heads, rows, _ = score.shape
    score = score.reshape(n, kv_heads, rows // block, block, block)
    return jnp.where(seen[:, None, None], score, MASKED).reshape(n, kv_heads, rows, block)


def _run(block, q_NLHd, k_NLKd, v_NLKd, last_NL, near):
    kv_heads = k_NLKd.shape[2]
    q, k, v = (_split(block, y, kv_heads) for y in (q_NLHd, k_NLKd, v_NLKd))
    masks = _masks(block, last_NL, near)

    def one(_, xs):
        q_NKXd, i, first = xs

        def fold(j, carry):
            top, total, out = carry
            score = _scores(block, q_NKXd, k[j], *masks, i, j)
            new_top = jnp.maximum(top, score.max(-1, keepdims=True))
            weight, fall = jnp.exp(score - new_top), jnp.exp(top - new_top)
            out = out * fall + _dot(weight.astype(v.dtype), v[j], 3, 2)
            return new_top, total * fall + weight.sum(-1, keepdims=True), out

        zero = jnp.zeros((*q_NKXd.shape[:3], 1), jnp.float32)
        start = (zero + MASKED, zero, jnp.zeros(q_NKXd.shape, jnp.float32))
        top, total, out = jax.lax.fori_loop(first, i + 1, fold, start)
        return None, ((out / total).astype(q_NKXd.dtype), top + jnp.log(total))

    numbers = jnp.arange(len(q)), _first_blocks(block, last_NL, near)
    _, (out, log_sum) = jax.lax.scan(one, None, (q, *numbers))
    return _join(block, out), log_sum


def _forward(block, *given):
    out_NLHd, log_sum = (checkpoint_name(y, flash.SAVED) for y in _run(block, *given))
    return out_NLHd, (*given, out_NLHd, log_sum)


def _backward(block, residuals, slope_NLHd):
    q_NLHd, k_NLKd, v_NLKd, last_NL, near, out_NLHd, log_sum = residuals
    kv_heads, scale = k_NLKd.shape[2], q_NLHd.shape[-1] ** -0.5
    q, k, v, slope, out = (_split(block, y, kv_heads) for y in (q_NLHd, k_NLKd, v_NLKd, slope_NLHd, out_NLHd))
    masks = _masks(block, last_NL, near)

    def one(carry, xs):
        q_NKXd, slope_NKXd, out_NKXd, log_sum_NKX, i, first = xs
        inner = jnp.sum(slope_NKXd.astype(jnp.float32) * out_NKXd, axis=-1, keepdims=True)

        def fold(j, carry):
            d_q, d_k, d_v = carry
            weight = jnp.exp(_scores(block, q_NKXd, k[j], *masks, i, j) - log_sum_NKX)
            d_score = weight * (_dot(slope_NKXd, v[j], 3, 3) - inner) * scale
            weight, d_score = weight.astype(q.dtype), d_score.astype(q.dtype)
            d_v = d_v.at[j].add(_dot(weight, slope_NKXd, 2, 2))
            d_k = d_k.at[j].add(_dot(d_score, q_NKXd, 2, 2))
            return d_q + _dot(d_score, k[j], 3, 2), d_k, d_v

        d_q, *carry = jax.lax.fori_loop(first, i + 1, fold, (jnp.zeros(q_NKXd.shape, jnp.float32), *carry))
        return tuple(carry), d_q.astype(q.dtype)

    numbers = jnp.arange(len(q)), _first_blocks(block, last_NL, near)
    empty = jnp.zeros(k.shape, jnp.float32)
    (d_k, d_v), d_q = jax.lax.scan(one, (empty, empty), (q, slope, out, log_sum, *numbers))
    return _join(block, d_q), _join(block, d_k).astype(k.dtype), _join(block, d_v).astype(v.dtype), None, None


_attend = jax.custom_vjp(lambda *arguments: _run(*arguments)[0], nondiff_argnums=(0,))
_attend.defvjp(_forward, _backward)
