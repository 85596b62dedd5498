"""Arrays in int8: each run along the last axis has one scale. Symmetric, to the nearest step, with no zero point."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

MOST = 127  # steps from 0 to the largest value of a run


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Int8:
    """`steps` [..., D] times `scale` [...] of each run of D: a matrix's [outputs, inputs], a cache's [..., d]."""

    steps: jax.Array  # int8
    scale: jax.Array  # float32

    @property
    def shape(self) -> tuple[int, ...]:
        return self.steps.shape


@jax.jit
def quantize(array: jax.Array) -> Int8:
    """Return the array as Int8; a run of zeros keeps them, with a scale of 0."""
    array = array.astype(jnp.float32)
    scale = jnp.max(jnp.abs(array), axis=-1) / MOST
    return Int8(jnp.round(array / jnp.where(scale == 0, 1, scale)[..., None]).astype(jnp.int8), scale)


def like(stored: Any, new: jax.Array) -> Any:
    """Return `new` as the stored array has its values: as Int8, or in its dtype."""
    return quantize(new) if isinstance(stored, Int8) else new.astype(stored.dtype)


def cast(array: jax.Array | Int8, dtype: Any) -> jax.Array:
    """Return what a product reads: an Int8's steps in the dtype, any other array as it is."""
    return array.steps.astype(dtype) if isinstance(array, Int8) else array


def product(with_w: str, w: jax.Array | Int8, x_IN: jax.Array, kind: Any = None) -> jax.Array:
    """Multiply w [outputs..., inputs] by columns as the einsum says, in `kind` or x's dtype.

    An Int8's steps are cast as the product reads them (only on CPU is an array in that dtype written); there is one
    scale per output, so it multiplies the result.
    """
    if not isinstance(w, Int8):
        return jnp.einsum(with_w, w, x_IN, preferred_element_type=kind)
    y_IN = jnp.einsum(with_w, cast(w, x_IN.dtype), x_IN, preferred_element_type=jnp.float32)
    return (y_IN * w.scale[..., None]).astype(kind or x_IN.dtype)
