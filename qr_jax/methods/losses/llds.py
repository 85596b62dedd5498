"""LLDS: the clipped loss, and a price on right answers whose likelihood falls."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from qr_jax.learner.losses.clip import clip
from qr_jax.settings.settings import NotNegative

ZERO_VARIANCE = "gradient"  # an advantage of 0 is among those whose likelihood must not fall


def llds(
    logp_NL: Float[Array, "N L"],
    old_logp_NL: Float[Array, "N L"],
    adv_NL: Float[Array, "N L"],
    mask_NL: Bool[Array, "N L"],
    *,
    weight: NotNegative = 0.2,  # price of a nat that the likelihood of a right answer has fallen
    low: float = 0.2,  # as clip's
    high: float = 0.28,  # as clip's
    dual: float | None = 3.0,  # as clip's
) -> tuple[Float[Array, "N L"], dict[str, Float[Array, "N L"]]]:
    """Return clip(...) + weight max(0, old_logp - logp) on the sampled tokens of an episode with A >= 0 whose summed
    log-probability has fallen.

    exact: the authors' code for arXiv:2512.04220 (`responses` mode, weight .2), where each token's A decides; here the
    sum of A over the episode's tokens does. Groups of equal rewards (A = 0) take part:
    learner.keep_zero_variance. It needs learner.updates > 1 or train.overlap: else
    nothing has fallen. Metric `fallen`: the tokens that pay.
    """
    loss_NL, metrics = clip(logp_NL, old_logp_NL, adv_NL, mask_NL, low=low, high=high, dual=dual)
    fall_NL = jnp.where(mask_NL, old_logp_NL - logp_NL, 0.0)
    good_N1 = jnp.sum(jnp.where(mask_NL, adv_NL, 0.0), axis=1, keepdims=True) >= 0
    pays_NL = mask_NL & (fall_NL > 0) & good_N1 & (jnp.sum(fall_NL, axis=1, keepdims=True) > 0)
    return loss_NL + weight * jnp.where(pays_NL, fall_NL, 0.0), metrics | {"fallen": pays_NL.astype(jnp.float32)}
