"""The clipped policy loss of PPO and GRPO, with DAPO's two bounds and the dual clip."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from qr_jax.errors import UserError
from qr_jax.learner import importance


def clip(
    logp_NL: Float[Array, "N L"],
    old_logp_NL: Float[Array, "N L"],
    adv_NL: Float[Array, "N L"],
    mask_NL: Bool[Array, "N L"],
    *,
    low: float = 0.2,  # how far under 1 the ratio may fall before its gradient is cut
    high: float = 0.28,  # how far above 1 it may rise
    dual: float | None = 3.0,  # bound on the ratio where the advantage is negative; none: no such bound
) -> tuple[Float[Array, "N L"], dict[str, Float[Array, "N L"]]]:
    """Return max(-A ratio, -A clip(ratio, 1 - low, 1 + high)); where A < 0 at most -A dual (None: no such bound).

    exact: PPO, Schulman et al. 2017, arXiv:1707.06347, eq. 7; high > low is DAPO, Yu et al. 2025, arXiv:2503.14476;
    dual clip Ye et al. 2020, arXiv:1912.09729. The loss is neither masked nor averaged: `reduce.py` owns the
    denominator. The ratio (importance.py) is 1 where mask_NL is False. Metrics, float32 [N, L] without gradient:
    `ratio`, and indicators of tokens whose gradient was cut: `clip_low` (A < 0, ratio < 1 - low), `clip_high` (A > 0,
    ratio > 1 + high), `dual` (A < 0, ratio > dual).
    """
    if not (0 <= low <= 1 and high >= 0):
        raise UserError(f"loss 'clip' wants 0 <= low <= 1 and high >= 0; found low={low}, high={high}")
    if dual is not None and dual <= 1:
        raise UserError(f"loss 'clip' wants dual > 1, or None; found dual={dual}")
    ratio_NL = importance.ratio(logp_NL, old_logp_NL, mask_NL)
    loss_NL = jnp.maximum(-adv_NL * ratio_NL, -adv_NL * jnp.clip(ratio_NL, 1 - low, 1 + high))
    above_NL = jnp.zeros_like(mask_NL)
    if dual is not None:
        loss_NL = jnp.where(adv_NL < 0, jnp.minimum(loss_NL, -adv_NL * dual), loss_NL)
        above_NL = (adv_NL < 0) & (ratio_NL > dual)
    metrics = {
        "ratio": jax.lax.stop_gradient(ratio_NL),
        "clip_low": ((adv_NL < 0) & (ratio_NL < 1 - low)).astype(jnp.float32),
        "clip_high": ((adv_NL > 0) & (ratio_NL > 1 + high)).astype(jnp.float32),
        "dual": above_NL.astype(jnp.float32),
    }
    return loss_NL, metrics
