"""Ratios of two policies' probabilities for sampled tokens, and weights for the gap between sampler and learner.

`truncate` and `icepop` take the learner's log-probabilities before the update (old) and the sampler's (rollout),
float32 nats, and give a factor for the loss of each token, without gradient.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LOG_RATIO_BOUND = 20.0  # exp(20) is still far from float32's end
By = Literal["token", "sequence", "geometric"]


def ratio(
    logp_NL: Float[Array, "N L"], other_logp_NL: Float[Array, "N L"], mask_NL: Bool[Array, "N L"], *, by: By = "token"
) -> Float[Array, "N L"]:
    """Return a ratio for each token: its own p / p_other (token), the product of those of its episode's sampled tokens
    (sequence), or their geometric mean (geometric).

    Where mask_NL is False the log-ratio is taken as 0 before exp, so that a non-finite log-probability there gives
    neither a NaN nor a gradient. The log-ratio is bounded by +-20; beyond there is no gradient.
    """
    log_NL = jnp.where(mask_NL, logp_NL - other_logp_NL, 0.0)
    if by != "token":
        log_N1 = jnp.sum(log_NL, axis=1, keepdims=True)
        if by == "geometric":
            log_N1 /= jnp.maximum(jnp.sum(mask_NL, axis=1, keepdims=True), 1)
        log_NL = jnp.broadcast_to(log_N1, log_NL.shape)
    return jnp.exp(jnp.clip(log_NL, -LOG_RATIO_BOUND, LOG_RATIO_BOUND))


def truncate(
    old_logp_NL: Float[Array, "N L"],
    rollout_logp_NL: Float[Array, "N L"],
    mask_NL: Bool[Array, "N L"],
    *,
    by: By = "token",
    high: float = 2.0,
) -> Float[Array, "N L"]:
    """Return min(ratio, high) (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
    training").
    """
    return jax.lax.stop_gradient(jnp.minimum(ratio(old_logp_NL, rollout_logp_NL, mask_NL, by=by), high))


def icepop(
    old_logp_NL: Float[Array, "N L"],
    rollout_logp_NL: Float[Array, "N L"],
    mask_NL: Bool[Array, "N L"],
    *,
    by: By = "token",
    low: float = 0.5,
    high: float = 2.0,
) -> Float[Array, "N L"]:
    """Return ratio inside [low, high], 0 outside; mask and denominator stay as they are (IcePop, Ling team 2025,
    arXiv:2510.18855).

    By geometric mean it leaves out whole episodes, as verl's Geo-RS does, which also takes them out of the mask.
    """
    weight_NL = jax.lax.stop_gradient(ratio(old_logp_NL, rollout_logp_NL, mask_NL, by=by))
    return jnp.where((weight_NL >= low) & (weight_NL <= high), weight_NL, 0.0)
