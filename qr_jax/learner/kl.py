"""Estimates of KL(policy || reference) from the log-probabilities of sampled tokens.

After Schulman 2020, "Approximating KL divergence" (http://joschu.net/blog/kl-approx.html). Values and gradients
differ, and in a loss only the gradient matters. Over tokens sampled from the policy itself the mean gradient is 0 for
k1 (as a loss it does nothing; it belongs in a reward), that of KL(policy || reference) for k2, and that of
KL(reference || policy) for k3. All take and give float32 nats; pass equal finite numbers where nothing was
sampled.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from qr_jax.learner.importance import LOG_RATIO_BOUND

VALUE_BOUND = 10.0


def k1(logp_NL: Float[Array, "N L"], ref_logp_NL: Float[Array, "N L"]) -> Float[Array, "N L"]:
    """Return logp - ref: unbiased, of either sign, large variance."""
    return logp_NL - ref_logp_NL


def k2(logp_NL: Float[Array, "N L"], ref_logp_NL: Float[Array, "N L"]) -> Float[Array, "N L"]:
    """Return (logp - ref)^2 / 2: never negative, biased in value, the right gradient."""
    return jnp.square(logp_NL - ref_logp_NL) / 2


def k3(logp_NL: Float[Array, "N L"], ref_logp_NL: Float[Array, "N L"]) -> Float[Array, "N L"]:
    """Return exp(d) - d - 1 with d = ref - logp: unbiased and never negative (GRPO, Shao et al. 2024, arXiv:2402.03300,
    eq. 4).

    As in verl, d is clamped to +-20 and the value to 10; beyond these a token has no gradient.
    """
    difference_NL = jnp.clip(ref_logp_NL - logp_NL, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return jnp.minimum(jnp.expm1(difference_NL) - difference_NL, VALUE_BOUND)


ESTIMATES = {"k1": k1, "k2": k2, "k3": k3}
