"""ReMind: solved queries wait in a review queue, and every few steps some of them take places in the batch."""

import numpy as np
from jaxtyping import Float64

from qr_jax.methods.rules import _passes
from qr_jax.pool.noise import uniforms
from qr_jax.pool.pool import Pool
from qr_jax.records import Memory, Outcome
from qr_jax.settings.settings import Count, Share

DRAWS = "largest"
REMIND = 12  # the first part of the keys of its random numbers


def remind(
    pool: Pool,
    outcome: Outcome,
    *,
    chance: Share = 0.25,  # that an all-right query enters the queue
    every: Count = 5,  # reviews are drawn once in so many steps
    share: Share = 0.1,  # of the batch that reviews take then
) -> tuple[Float64[np.ndarray, "P"], Memory]:
    """Return the next weight_P: 2 for the queries to be reviewed, 1 for those that this pass has still to visit, 0 for
    all others.

    after the abstract: ReMind (Qin et al. 2026, arXiv:2606.03087): an all-right query enters the queue with probability
    `chance`; in every `every`-th step reviews take `share` of the batch's places, so that they cost no rollouts. Filled
    in: the batch is as large as the last one; who waits longest is reviewed first; a reviewed query leaves the queue
    and may enter it again. As the largest weights are drawn first, reviews come before all others, exactly so many. The
    coins are keyed (12, seed, step, query).
    """
    memory = _passes.begun(pool, since=np.zeros(pool.size, np.int64))
    since_P, graded_Q = memory["since"], outcome.verdict_Q != "fault"
    drawn = outcome.drawn_Q[graded_Q]
    enters_Q = (outcome.verdict_Q[graded_Q] == "easy") & (
        uniforms(pool.size, REMIND, outcome.seed, outcome.step)[drawn] < chance
    )
    since_P[drawn] = np.where(enters_Q, outcome.step + 1, 0)  # 0: not in the queue
    weight_P = _passes.unvisited(memory, outcome).astype(np.float64)
    if (outcome.step + 2) % every == 0:  # the next step's number, counted from 1
        waiting = np.flatnonzero(since_P)
        first = waiting[np.argsort(since_P[waiting], kind="stable")]
        weight_P[first[: round(share * len(outcome.drawn_Q))]] = 2.0
    return weight_P, memory
