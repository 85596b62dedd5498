"""SPEED: screen queries with a few samples, then spend the others on those that bear signal."""

from collections.abc import Sequence

import numpy as np

from qr_jax.methods.rounds import _room
from qr_jax.pool.pool import Pool
from qr_jax.records import Ask, Outcome
from qr_jax.settings.settings import Count

MAX_GROUP_SIZE = 24


def speed(
    pool: Pool,
    so_far: Sequence[Outcome],
    *,
    queries: int,
    samples: int,
    oversample: int = 1,
    further: Count = 20,  # episodes for each query that passed the screen
    max_rounds: Count = 50,  # rounds of a step, at most
) -> Ask | None:
    """Screen k * B queries a round by `samples` episodes each until B bear signal; then ask for `further` of those B.

    exact: SPEED (Zhang et al. 2025, arXiv:2506.09016; Zanette-Labs/speed-rl: pool.samples=4, pool.oversample=4, 20
    further ones, at most 50 rounds). All samples + `further` episodes are trained on. Deviations: both phases are of
    one step and one policy, where theirs mixes a batch's second phase with the next one's screening; the step ends with
    the groups it has where theirs raises at `max_rounds`. A step costs at most max_rounds * k * B * samples
    + B * further rollouts.
    """
    _room.check("speed", samples + further, MAX_GROUP_SIZE, f"pool.samples={samples} and further={further}")
    if not so_far:
        return Ask(draw=queries * oversample)
    last = so_far[-1]
    if last.grades.valid_QG.shape[1] > samples:
        return None  # the second phase is over
    left = np.count_nonzero(pool.weight_P) > len(last.drawn_Q)
    if len(last.accepted) < queries and len(so_far) < max_rounds and left:
        return Ask(draw=queries * oversample)
    return Ask(draw=0, more=dict.fromkeys(last.accepted.tolist(), further)) if len(last.accepted) else None
