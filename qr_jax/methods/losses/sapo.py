"""SAPO: a soft gate in place of the clip, which closes as the ratio leaves 1."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from qr_jax.learner import importance
from qr_jax.settings.settings import Positive


def sapo(
    logp_NL: Float[Array, "N L"],
    old_logp_NL: Float[Array, "N L"],
    adv_NL: Float[Array, "N L"],
    mask_NL: Bool[Array, "N L"],
    *,
    tau_positive: Positive = 1.0,  # the gate's sharpness where the advantage is positive
    tau_negative: Positive = 1.05,  # where it is negative or 0
) -> tuple[Float[Array, "N L"], dict[str, Float[Array, "N L"]]]:
    """Return -A (4 / tau) sigmoid(tau (ratio - 1)), tau by the sign of A; at ratio 1 its slope is that of -A ratio.

    exact: Gao et al. 2025 (arXiv:2511.20347), whose mean over tokens, then episodes, is learner.reduce=sequence_mean.
    Metrics, without gradient: `ratio`, and `gate`, the slope that is left: 1 at ratio 1, 0 far away.
    """
    tau_NL = jnp.where(adv_NL > 0, tau_positive, tau_negative)
    ratio_NL = importance.ratio(logp_NL, old_logp_NL, mask_NL)
    open_NL = jax.nn.sigmoid(tau_NL * (ratio_NL - 1))
    metrics = {"ratio": ratio_NL, "gate": 4 * open_NL * (1 - open_NL)}
    return -adv_NL * 4 / tau_NL * open_NL, jax.lax.stop_gradient(metrics)
