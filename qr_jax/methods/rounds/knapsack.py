"""Knapsack: a step's rollouts go where they are worth most, by what each query's last pass rate says."""

import heapq
from collections.abc import Sequence

import numpy as np

from qr_jax.errors import UserError
from qr_jax.pool.pool import Pool
from qr_jax.records import Ask, Outcome

MAX_GROUP_SIZE = 128


def knapsack(
    pool: Pool,
    so_far: Sequence[Outcome],
    *,
    queries: int,
    samples: int,
    oversample: int = 1,
    budget: int = 8,  # episodes a query, on average
    most: int = 128,  # episodes that one query may get
) -> Ask | None:
    """Draw k * B queries with `samples` episodes each; deal the rest of `budget` episodes a query, at most `most` to
    one, so that the sum of p (1 - p)^2 (1 - p^N - (1 - p)^N) is largest.

    after the abstract: Knapsack RL (Li et al. 2025, arXiv:2509.25849), whose value of N rollouts is the chance of a
    gradient times the gain p (1 - p)^2 (so in public re-implementations; 2 to 128 rollouts, 8 on average). p is the
    pass rate at the query's last attempt. The value is concave in N, so that dealing one by one to the largest gain is
    exact. Filled in: a query never drawn gets `budget`, as all do in the first epoch; one whose p is 0 or 1 is worth
    nothing and keeps `samples`, and what nobody gains from is not spent. A step never costs more than k * B * budget.
    """
    if not samples <= budget <= most:
        raise UserError(f"samples={samples}, budget={budget}, most={most}: wanted samples <= budget <= most")
    if not so_far:
        return Ask(draw=queries * oversample)
    if len(so_far) > 1:
        return None
    drawn_Q = so_far[0].drawn_Q
    known_Q = pool.attempts_P[drawn_Q] > 0
    rate_Q = pool.last_successes_P[drawn_Q] / np.maximum(pool.last_valid_P[drawn_Q], 1)
    size_Q = np.where(known_Q, samples, budget)

    def gain(q: int) -> float:
        p, N = float(rate_Q[q]), int(size_Q[q])
        return p * (1 - p) ** 2 * (p**N * (1 - p) + (1 - p) ** N * p)

    waiting = [(-gain(q), q) for q in np.flatnonzero(known_Q).tolist()]
    heapq.heapify(waiting)
    for _ in range(budget * len(drawn_Q) - int(size_Q.sum())):
        if not waiting or waiting[0][0] == 0:
            break
        _, q = heapq.heappop(waiting)
        size_Q[q] += 1
        if size_Q[q] < most:
            heapq.heappush(waiting, (-gain(q), q))
    more = {int(query): int(size) - samples for query, size in zip(drawn_Q, size_Q, strict=True) if size > samples}
    return Ask(draw=0, more=more) if more else None
