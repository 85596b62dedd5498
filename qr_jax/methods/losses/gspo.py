"""GSPO: one clipped ratio an episode, the geometric mean of its tokens' ratios."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from qr_jax.learner import importance
from qr_jax.settings.settings import NotNegative, Share


def gspo(
    logp_NL: Float[Array, "N L"],
    old_logp_NL: Float[Array, "N L"],
    adv_NL: Float[Array, "N L"],
    mask_NL: Bool[Array, "N L"],
    *,
    low: Share = 3e-4,  # how far below 1 an episode's ratio counts
    high: NotNegative = 4e-4,  # how far above 1
) -> tuple[Float[Array, "N L"], dict[str, Float[Array, "N L"]]]:
    """Return max(-A s, -A clip(s, 1 - low, 1 + high)) on every token, log s the mean of logp - old_logp over the
    sampled ones.

    exact: Zheng et al. 2025 (arXiv:2507.18071, eq. 5 and 7; low and high of its sec. 5.1), whose mean over tokens, then
    episodes, is learner.reduce=sequence_mean. Observations count in neither sum nor length. It is for one advantage
    an episode: with one a token each would reach all the others; `gspo_token` is for that. Metrics:
    `clip`'s but `dual`.
    """
    return clipped(importance.ratio(logp_NL, old_logp_NL, mask_NL, by="geometric"), adv_NL, low, high)


def clipped(
    ratio_NL: Float[Array, "N L"], adv_NL: Float[Array, "N L"], low: float, high: float
) -> tuple[Float[Array, "N L"], dict[str, Float[Array, "N L"]]]:
    """Return max(-A s, -A clip(s, 1 - low, 1 + high)) on every token; metrics as `gspo`'s."""
    loss_NL = jnp.maximum(-adv_NL * ratio_NL, -adv_NL * jnp.clip(ratio_NL, 1 - low, 1 + high))
    value_NL = jax.lax.stop_gradient(ratio_NL)
    return loss_NL, {
        "ratio": value_NL,
        "clip_low": ((adv_NL < 0) & (value_NL < 1 - low)).astype(jnp.float32),
        "clip_high": ((adv_NL > 0) & (value_NL > 1 + high)).astype(jnp.float32),
    }
