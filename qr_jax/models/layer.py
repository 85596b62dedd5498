"""Norm, rotation and MLP of a decoder's layer, for a learner's rows [N, L, D] and for a rollout's columns [D, N].

`axis` is where a layout has the stream's width and a head's channels: -1 in rows, -2 in columns.
"""

import jax
import jax.numpy as jnp

from qr_jax.models import rope
from qr_jax.models.families import ModelConfig


def _along(vector, axis: int, like):
    """Return a vector as an array of `like`'s rank that lies along one axis."""
    return vector.reshape([-1 if at == axis % like.ndim else 1 for at in range(like.ndim)])


def embedded(cfg: ModelConfig, table_VD, ids, kind):
    """Return embeddings [..., D] in the dtype `kind`; Gemma's times the root of the width, rounded to that dtype."""
    x = table_VD[ids].astype(kind)
    return x * jnp.asarray(cfg.width**0.5, kind) if cfg.gemma3 else x


def rms_norm(cfg: ModelConfig, x, weight, axis: int):
    """Normalise by the root mean square along `axis`, in float32 up to the weight (arXiv:1910.07467, eq. 4).

    Gemma multiplies by 1 + weight, in float32.
    """
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=axis, keepdims=True) + cfg.norm_eps)
    weight = _along(weight, axis, x).astype(x.dtype)
    return ((1 + weight.astype(jnp.float32)) * x32).astype(x.dtype) if cfg.gemma3 else weight * x32.astype(x.dtype)


def turns(cfg: ModelConfig, position, axis: int, *, sliding: bool = False):
    """Return (cosine, sine) float32 of each channel pair's angle; `position` has size 1 along `axis` and the heads'
    axis. `sliding`: those of the layers that slide.
    """
    inverse_d, scale = rope.frequencies(cfg, sliding=sliding)
    angle = position.astype(jnp.float32) * _along(jnp.asarray(inverse_d), axis, position)
    return jnp.cos(angle) * scale, jnp.sin(angle) * scale


def rotate(x, turns, axis: int):
    """Turn heads by their positions (Su et al. 2021, arXiv:2104.09864): channel i is paired with i + head_dim / 2."""
    cos, sin = turns
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=axis)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=axis).astype(x.dtype)


def scaled(cfg: ModelConfig, q):
    """Scale queries for a model that divides its scores by the root of `cfg.query_scalar`: attention divides by that of
    head_dim."""
    wanted = cfg.query_scalar or cfg.head_dim
    return q if wanted == cfg.head_dim else q * jnp.asarray((cfg.head_dim / wanted) ** 0.5, q.dtype)


def gated(cfg: ModelConfig, gate, up):
    """Return the inside of the MLP, between its products (Shazeer 2020, arXiv:2002.05202, eq. 6); Gemma's is eq. 5."""
    return (jax.nn.gelu(gate, approximate=True) if cfg.gemma3 else jax.nn.silu(gate)) * up
