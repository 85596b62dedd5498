"""Difficulty pools: a query's weight is that of the pool its latest mean reward falls in."""

import numpy as np
from jaxtyping import Float64

from qr_jax.errors import UserError
from qr_jax.pool.pool import Pool
from qr_jax.records import Memory, Outcome

ROUNDING = 1e-6  # a mean of float32 rewards so little above a threshold counts as equal to it


def difficulty_pools(
    pool: Pool,
    outcome: Outcome,
    *,
    thresholds: tuple[float, ...] = (0.0, 0.99, 1.0),  # mean reward up to which a query falls in each pool; they grow
    weights: tuple[float, ...] = (0.5, 1.0, 0.0),  # draw weight of each of these pools
) -> tuple[Float64[np.ndarray, "P"], Memory]:
    """Return the next weight_P: a drawn query's is that of the first pool whose threshold its mean valid reward does
    not exceed.

    exact: the sampler of prime-rl (PrimeIntellect-ai/prime-rl, orchestrator/curriculum): thresholds are inclusive and
    the last pool takes all that is above; queries never seen weigh 1. Our defaults halve the all-wrong and, as
    INTELLECT-3 does, never draw the all-right again; theirs are the user's to set. Deviations: draws within a step are
    distinct; where every weight is 0 the pool's policy for exhaustion holds (prime-rl raises), and after a reset a
    query weighs 1 until its next draw.
    """
    if len(thresholds) != len(weights) or not weights or list(thresholds) != sorted(set(thresholds)):
        raise UserError(
            f"thresholds={thresholds} and weights={weights}: wanted growing thresholds and a weight for each of them"
        )
    graded_Q = outcome.verdict_Q != "fault"
    valid_QG, reward_QG = outcome.grades.valid_QG[graded_Q], outcome.grades.reward_QG[graded_Q]
    mean_Q = (reward_QG.astype(np.float64) * valid_QG).sum(axis=1) / valid_QG.sum(axis=1)
    mean_Q -= ROUNDING  # .2 is a little more in float32
    at_Q = np.minimum(np.searchsorted(thresholds, mean_Q, side="left"), len(weights) - 1)
    weight_P = pool.weight_P.copy()
    weight_P[outcome.drawn_Q[graded_Q]] = np.asarray(weights, np.float64)[at_Q]
    return weight_P, pool.memory
