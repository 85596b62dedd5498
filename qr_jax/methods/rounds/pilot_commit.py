"""Pilot-Commit: a pilot says how mixed a query's outcomes are; the budget is committed where they are mixed enough."""

from collections.abc import Sequence

import numpy as np

from qr_jax.errors import UserError
from qr_jax.methods.rounds import _room
from qr_jax.pool.pool import Pool
from qr_jax.records import Ask, Outcome
from qr_jax.settings.settings import Count, Share

MAX_GROUP_SIZE = 64


def pilot_commit(
    pool: Pool,
    so_far: Sequence[Outcome],
    *,
    queries: int,
    samples: int,
    oversample: int = 1,
    further: Count = 48,  # episodes for each query that is committed to
    low: Share = 0.125,  # the lowest mean reward that is committed to
    high: Share = 0.75,  # the highest
    max_rounds: Count = 10,  # rounds of a step, at most
) -> Ask | None:
    """Pilot k * B queries a round by `samples` episodes each until B bear signal; then ask for `further` of those whose
    mean reward lies in [low, high].

    exact: Pilot-Commit (Kim et al. 2026, arXiv:2605.26606; databricks/pilot-commit: pool.samples=16, 48 further ones,
    pool.oversample=3). Its eviction of what is too easy is the rule `retire` with at=1. Deviations: no buffer holds
    piloted queries, with their old samples, for up to four steps: what a step does not commit to goes back to the pool.
    A step trains on its first B signal groups, so piloting ends once there are B, in the band or not, and one outside
    of it is trained on with its pilots alone. At `max_rounds` the step ends with what it has, where
    theirs raises. A step costs at most max_rounds * k * B * samples + B * further rollouts.
    """
    if low > high:
        raise UserError(f"pilot_commit has low={low} above high={high}, between which no mean reward lies")
    _room.check("pilot_commit", samples + further, MAX_GROUP_SIZE, f"pool.samples={samples} and further={further}")
    if not so_far:
        return Ask(draw=queries * oversample)
    last, grades = so_far[-1], so_far[-1].grades
    if grades.valid_QG.shape[1] > samples:
        return None  # the budget is committed
    left = np.count_nonzero(pool.weight_P) > len(last.drawn_Q)
    if len(last.accepted) < queries and len(so_far) < max_rounds and left:
        return Ask(draw=queries * oversample)
    mean_Q = grades.reward_QG.sum(axis=1) / np.maximum(grades.valid_QG.sum(axis=1), 1)
    mixed = last.accepted_at[(mean_Q[last.accepted_at] >= low) & (mean_Q[last.accepted_at] <= high)]
    return Ask(draw=0, more=dict.fromkeys(last.drawn_Q[mixed].tolist(), further)) if len(mixed) else None
