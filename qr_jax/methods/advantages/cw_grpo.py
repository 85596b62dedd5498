"""CW-GRPO: the advantage of a good episode goes to the rounds that contributed."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qr_jax.learner.advantages.grpo import grpo
from qr_jax.records import Grades

WANTS_TURNS = True
HARD = 10.0  # from here on gamma counts as infinite, as in the authors' code


def cw_grpo(
    grades: Grades,
    *,
    gamma: float = 100.0,  # the softmax's sharpness; 10 or more: those that contributed share equally
    eps: float = 1e-6,  # added to the denominator, so that it is never 0
) -> Float[Array, "Q G T"]:
    """Return adv_QGT = A T c_t in the T rounds before the last where A >= 0, c = softmax(gamma p); A where A < 0 and in
    the last round. A is GRPO's, p_t says whether round t contributed. With gamma >= 10: c_t = p_t / sum(p).

    exact: arXiv:2604.14267 and its authors' code, gamma 100. Over the rounds before the last the mean is A, unless
    gamma >= 10 and none contributed: then they get 0. Deviation: in the paper a judge says what contributed (useful
    passages and right reasoning); here it is a turn reward above 0, as e_grpo gives a turn that first names an entity.
    """
    there_QGT = grades.turn_valid_QGT & grades.valid_QG[..., None]
    adv_QG1 = grpo(grades, eps=eps)[..., None]
    turns_QG1 = jnp.sum(there_QGT, axis=2, keepdims=True)
    before_QGT = there_QGT & (jnp.arange(there_QGT.shape[2])[None, None] < turns_QG1 - 1)
    helps_QGT = jnp.where(before_QGT & (grades.turn_reward_QGT > 0), 1.0, 0.0)
    if gamma >= HARD:
        share_QGT = helps_QGT / jnp.maximum(jnp.sum(helps_QGT, axis=2, keepdims=True), 1e-6)
    else:
        share_QGT = jax.nn.softmax(jnp.where(before_QGT, gamma * helps_QGT, -1e30), axis=2)
    good_QGT = jnp.where(before_QGT & (adv_QG1 >= 0), share_QGT * (turns_QG1 - 1), 1.0)
    return jnp.where(there_QGT, adv_QG1 * good_QGT, 0.0)
