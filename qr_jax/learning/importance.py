"""Importance weights for the gap between the program that sampled a token and the one that trains on it.

Both take the learner's log-probabilities before the update (old) and the sampler's (rollout), float32 nats, and give
a factor for the loss of each token, without gradient. log(old / rollout) is clamped to +-20 before exp.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LOG_RATIO_BOUND = 20.0


def ratio(old_logp_NL: Float[Array, "N L"], rollout_logp_NL: Float[Array, "N L"]) -> Float[Array, "N L"]:
    """p_old / p_rollout, without gradient."""
    log_ratio_NL = jnp.clip(old_logp_NL - rollout_logp_NL, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return jax.lax.stop_gradient(jnp.exp(log_ratio_NL))


def truncate(
    old_logp_NL: Float[Array, "N L"], rollout_logp_NL: Float[Array, "N L"], *, high: float = 2.0
) -> Float[Array, "N L"]:
    """min(ratio, high) (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training")."""
    return jnp.minimum(ratio(old_logp_NL, rollout_logp_NL), high)


def icepop(
    old_logp_NL: Float[Array, "N L"], rollout_logp_NL: Float[Array, "N L"], *, low: float = 0.5, high: float = 2.0
) -> Float[Array, "N L"]:
    """ratio inside [low, high], 0 outside; masks and denominators stay (IcePop, Ling team 2025, arXiv:2510.18855)."""
    weight_NL = ratio(old_logp_NL, rollout_logp_NL)
    return jnp.where((weight_NL >= low) & (weight_NL <= high), weight_NL, 0.0)
