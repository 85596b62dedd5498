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


def rms_norm(x, weight, eps: float, axis: int):
    """Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4; in float32 up to the weight."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=axis, keepdims=True) + eps)
    return _along(weight, axis, x).astype(x.dtype) * x32.astype(x.dtype)


def turns(cfg: ModelConfig, position, axis: int):
    """Return (cosine, sine) float32 of each channel pair's angle; `position` has size 1 along `axis` and where heads
    stand.
    """
    inverse_d, scale = rope.frequencies(cfg)
    angle = position.astype(jnp.float32) * _along(jnp.asarray(inverse_d), axis, position)
    return jnp.cos(angle) * scale, jnp.sin(angle) * scale


def rotate(x, turns, axis: int):
    """Heads turned by their positions (Su et al. 2021, arXiv:2104.09864): channel i is paired with i + head_dim / 2."""
    cos, sin = turns
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=axis)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=axis).astype(x.dtype)


def swiglu(gate, up):
    """Return the inside of the MLP, between its products (Shazeer 2020, arXiv:2002.05202, eq. 6)."""
    return jax.nn.silu(gate) * up
