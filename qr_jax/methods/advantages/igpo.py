"""IGPO: a turn is worth what it adds to the probability of the gold answer, the last one its reward."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qr_jax.records import Grades

ZERO_VARIANCE = "gradient"  # searches of equal rewards find different things


def igpo(
    grades: Grades,
    turns_QG: Int[Array, "Q G"],
    gold_logp_NT: Float[Array, "N T"],
    *,
    gamma: float = 1.0,  # the discount of later turns
    eps: float = 1e-6,  # added to the denominator, so that it is never 0
) -> Float[Array, "Q G T"]:
    """Return adv_QGT = sum over k >= t of gamma^(k - t) x_k; x = (r - mean) / (std + eps) over all turns of the group,
    r_t = exp(gold_logp before turn t + 1) - exp(that before turn t), and for the last turn the episode's reward (F1
    in theirs).

    exact: the code for Wang et al. 2025 (arXiv:2510.14967), debajoycs98/IGPO with info_gain_norm_mode=joint, but n - 1
    under the variance, not n. Its train.sh scales gains and last rewards apart; the older GuoqingWang1/IGPO takes
    from each return its mean by token position, and does not scale. The paper's own scaling was not read. Deviation: a
    turn that gains exactly 0 counts, which it does not there. What gold_logp is: methods/gold.py. 0 for invalid
    samples and for a group with fewer than two valid ones.
    """
    shape_QGT = (*grades.reward_QG.shape, gold_logp_NT.shape[1])
    gold_QGT = jnp.exp(gold_logp_NT).reshape(shape_QGT)
    step_11T, last_QG1 = jnp.arange(shape_QGT[2])[None, None], turns_QG[..., None] - 1
    many_Q11 = (jnp.sum(grades.valid_QG, axis=1) > 1)[:, None, None]
    there_QGT = (step_11T <= last_QG1) & grades.valid_QG[..., None] & many_Q11
    gain_QGT = jnp.roll(gold_QGT, -1, axis=2) - gold_QGT
    reward_QGT = jnp.where(step_11T == last_QG1, grades.reward_QG[..., None], gain_QGT)
    count_Q11 = jnp.sum(there_QGT, axis=(1, 2), keepdims=True)
    mean_Q11 = jnp.sum(jnp.where(there_QGT, reward_QGT, 0.0), axis=(1, 2), keepdims=True) / jnp.maximum(count_Q11, 1)
    centred_QGT = jnp.where(there_QGT, reward_QGT - mean_Q11, 0.0)
    square_Q11 = jnp.sum(jnp.square(centred_QGT), axis=(1, 2), keepdims=True)
    scaled_QGT = centred_QGT / (jnp.sqrt(square_Q11 / jnp.maximum(count_Q11 - 1, 1)) + eps)
    after_TK = step_11T[0] - step_11T[0].T
    later_TK = jnp.where(after_TK >= 0, gamma ** jnp.maximum(after_TK, 0), 0.0)
    return jnp.where(there_QGT, jnp.einsum("qgk,tk->qgt", scaled_QGT, later_TK), 0.0)
