"""A linear layer whose gradient is two plain matrix products: nothing is transposed in memory."""

import functools

import jax
from jax.ad_checkpoint import checkpoint_name

NAME = "linear"  # what remat policies know a linear layer's result by


def linear(x, w, *, over: int = 1):
    """x times w over x's last and w's first `over` axes, in x's dtype; a remat policy may save it by NAME.

    Jax's own rule writes a weight's gradient as a transposed product. XLA on CPU then copies the incoming gradient in
    transposed order, value by value, inside the loop that computes it: a quarter of a learner's step.
    """
    return checkpoint_name(_linear(over, x, w), NAME)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _linear(over, x, w):
    axes = tuple(range(x.ndim - over, x.ndim)), tuple(range(over))
    return jax.lax.dot_general(x, w, (axes, ((), ())))


def _forward(over, x, w):
    return _linear(over, x, w), (x, w)


def _backward(over, residuals, slope):
    x, w = residuals
    tokens, outputs = x.ndim - over, w.ndim - over
    over_outputs = tuple(range(tokens, tokens + outputs)), tuple(range(over, w.ndim))
    over_tokens = tuple(range(tokens)), tuple(range(tokens))
    d_x = jax.lax.dot_general(slope, w, (over_outputs, ((), ())))
    return d_x, jax.lax.dot_general(x, slope, (over_tokens, ((), ())))


_linear.defvjp(_forward, _backward)
