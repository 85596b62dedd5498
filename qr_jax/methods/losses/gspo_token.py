"""GSPO-token: GSPO's ratio of an episode, with an advantage and a gradient of each token's own."""

import jax
from jaxtyping import Array, Bool, Float

from qr_jax.learner import importance
from qr_jax.methods.losses.gspo import clipped
from qr_jax.settings.settings import NotNegative, Share


def gspo_token(
    logp_NL: Float[Array, "N L"],
    old_logp_NL: Float[Array, "N L"],
    adv_NL: Float[Array, "N L"],
    mask_NL: Bool[Array, "N L"],
    *,
    low: Share = 3e-4,  # how far below 1 an episode's ratio counts
    high: NotNegative = 4e-4,  # how far above 1
) -> tuple[Float[Array, "N L"], dict[str, Float[Array, "N L"]]]:
    """Return max(-A s, -A clip(s, 1 - low, 1 + high)), where s has GSPO's value and the gradient s * d logp of its
    token.

    exact: Zheng et al. 2025 (arXiv:2507.18071, eq. 13 and 14). With one advantage an episode its value and gradient are
    `gspo`'s; with one a turn or token it is the form to use. learner.reduce=sequence_mean. Metrics as `gspo`'s.
    """
    episode_NL = jax.lax.stop_gradient(importance.ratio(logp_NL, old_logp_NL, mask_NL, by="geometric"))
    ratio_NL = episode_NL * importance.ratio(logp_NL, jax.lax.stop_gradient(logp_NL), mask_NL)
    return clipped(ratio_NL, adv_NL, low, high)
