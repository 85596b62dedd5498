"""GSPO's clipped loss, whichever gradient its ratio has."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def clipped(
    ratio_NL: Float[Array, "N L"], adv_NL: Float[Array, "N L"], low: float, high: float
) -> tuple[Float[Array, "N L"], dict[str, Float[Array, "N L"]]]:
    """Return max(-A s, -A clip(s, 1 - low, 1 + high)) on every token, with `clip`'s metrics."""
    loss_NL = jnp.maximum(-adv_NL * ratio_NL, -adv_NL * jnp.clip(ratio_NL, 1 - low, 1 + high))
    value_NL = jax.lax.stop_gradient(ratio_NL)
    return loss_NL, {
        "ratio": value_NL,
        "clip_low": ((adv_NL < 0) & (value_NL < 1 - low)).astype(jnp.float32),
        "clip_high": ((adv_NL > 0) & (value_NL > 1 + high)).astype(jnp.float32),
    }
