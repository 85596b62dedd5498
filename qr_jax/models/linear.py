"""A linear layer whose gradient is two plain matrix products: nothing is transposed in memory."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

NAME = "linear"  # what remat policies know a linear layer's result by


def linear(x, w, *, over: int = 1, plus=None):
    """Multiply x by w over x's last and w's first `over` axes, in x's dtype; a remat policy may save it by NAME.

    `plus`, float32, is added before the result is rounded to that dtype. Jax's own rule writes a weight's gradient as a
    transposed product. XLA on CPU then copies the incoming gradient in transposed order, value by value, inside the
    loop that computes it: a quarter of a learner's step.
    """
    y = _linear(over, x.dtype, x, w) if plus is None else (_linear(over, jnp.float32, x, w) + plus).astype(x.dtype)
    return checkpoint_name(y, NAME)


def adapted(name: str, x, w, adapters: Mapping[str, jax.Array], *, over: int = 1):
    """Multiply by the matrix `name` of a layer, and by its adapter (lora.py) if it has one: x w + (x a) b.

    Both are added in float32: what an adapter adds is often smaller than a step of bfloat16; added after rounding it
    would be lost always, not just mostly.
    """
    kind = x.dtype
    if f"{name}_a" not in adapters:
        return linear(x, w.astype(kind), over=over)
    low = linear(x, adapters[f"{name}_a"].astype(kind), over=over)
    return linear(x, w.astype(kind), over=over, plus=_linear(1, jnp.float32, low, adapters[f"{name}_b"].astype(kind)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _linear(over, kind, x, w):
    axes = tuple(range(x.ndim - over, x.ndim)), tuple(range(over))
    return jax.lax.dot_general(x, w, (axes, ((), ())), preferred_element_type=kind)


def _forward(over, kind, x, w):
    return _linear(over, kind, x, w), (x, w)


def _backward(over, kind, residuals, slope):
    x, w = residuals
    slope = slope.astype(x.dtype)
    tokens, outputs = x.ndim - over, w.ndim - over
    over_outputs = tuple(range(tokens, tokens + outputs)), tuple(range(over, w.ndim))
    over_tokens = tuple(range(tokens)), tuple(range(tokens))
    d_x = jax.lax.dot_general(slope, w, (over_outputs, ((), ())))
    return d_x, jax.lax.dot_general(x, slope, (over_tokens, ((), ())))


_linear.defvjp(_forward, _backward)
