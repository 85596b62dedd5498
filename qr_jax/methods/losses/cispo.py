"""CISPO: the policy gradient with a clipped ratio as its weight, so that no token is without a gradient."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from qr_jax.learner import importance
from qr_jax.settings.settings import NotNegative, Share


def cispo(
    logp_NL: Float[Array, "N L"],
    old_logp_NL: Float[Array, "N L"],
    adv_NL: Float[Array, "N L"],
    mask_NL: Bool[Array, "N L"],
    *,
    low: Share = 1.0,  # how far below 1 the ratio counts
    high: NotNegative = 4.0,  # how far above 1
) -> tuple[Float[Array, "N L"], dict[str, Float[Array, "N L"]]]:
    """Return -A clip(ratio, 1 - low, 1 + high) logp, without gradient through the ratio.

    exact: MiniMax 2025 (arXiv:2506.13585, eq. 4 and 5), which has no lower bound (low=1) and does not print its upper
    one: 4 is ours. With low=high=0 it is plain REINFORCE, -A logp. Metrics, without gradient: `ratio`, and indicators
    of tokens whose ratio was cut, `clip_low` and `clip_high`, whatever the sign of A.
    """
    ratio_NL = jax.lax.stop_gradient(importance.ratio(logp_NL, old_logp_NL, mask_NL))
    loss_NL = -adv_NL * jnp.clip(ratio_NL, 1 - low, 1 + high) * jnp.where(mask_NL, logp_NL, 0.0)
    return loss_NL, {
        "ratio": ratio_NL,
        "clip_low": (ratio_NL < 1 - low).astype(jnp.float32),
        "clip_high": (ratio_NL > 1 + high).astype(jnp.float32),
    }
