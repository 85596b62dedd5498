"""Prompt Replay: queries answered right about half the time come again, after a pause and not too often."""

import numpy as np
from jaxtyping import Float64

from qr_jax.errors import UserError
from qr_jax.methods.rules import _passes
from qr_jax.pool.pool import Pool
from qr_jax.records import Memory, Outcome
from qr_jax.settings.settings import Natural, Share

DRAWS = "largest"


def prompt_replay(
    pool: Pool,
    outcome: Outcome,
    *,
    low: Share = 0.25,  # the lowest last pass rate of a query that is replayed
    high: Share = 0.75,  # the highest
    share: Share = 0.75,  # of a batch, at most so much is replayed
    pause: Natural = 10,  # steps until a query may be replayed again
    most: Natural = 15,  # times that a query is replayed
) -> tuple[Float64[np.ndarray, "P"], Memory]:
    """Return the next weight_P: 2 - |p - 1/2| for the queries to be replayed, 1 for those that this pass has still to
    visit, 0 for all others.

    after the abstract: Prompt Replay (arXiv:2603.21177): a query whose last pass rate p lies in [low, high] is in the
    buffer; those nearest to 1/2 come first; they fill at most `share` of the batch, with `pause` steps between two
    visits at the least, `most` times at most. Filled in: the batch is as large as the last one, ties go to the lower
    index, and the count of replays is never forgotten. It is recycling's opposite: what bore signal returns.
    """
    if low > high:
        raise UserError(f"prompt_replay has low={low} above high={high}, between which no pass rate lies")
    memory = _passes.begun(pool, replays=np.zeros(pool.size, np.int64))
    memory["replays"][outcome.drawn_Q[pool.weight_P[outcome.drawn_Q] > 1]] += 1
    rate_P = pool.last_successes_P / np.maximum(pool.last_valid_P, 1)
    far_P = np.abs(rate_P - 0.5)
    buffered_P = (pool.attempts_P > 0) & (rate_P >= low) & (rate_P <= high) & (memory["replays"] < most)
    rested = np.flatnonzero(buffered_P & (outcome.step + 1 - pool.last_step_P > pause))
    replayed = rested[np.argsort(far_P[rested], kind="stable")][: int(share * len(outcome.drawn_Q))]
    weight_P = _passes.unvisited(memory, outcome).astype(np.float64)
    weight_P[replayed] = 2 - far_P[replayed]
    return weight_P, memory
