"""SearchGym's curriculum: questions of few hops first, and from some step on those of any number."""

import numpy as np
from jaxtyping import Float64

from qr_jax.errors import UserError
from qr_jax.methods.rules import _passes
from qr_jax.pool.pool import Pool
from qr_jax.records import Memory, Outcome
from qr_jax.settings.settings import Count, Natural


def search_gym(
    pool: Pool,
    outcome: Outcome,
    *,
    simple: Count = 1,  # the most hops of a question of the first stage
    steps: Natural = 40,  # of the first stage
) -> tuple[Float64[np.ndarray, "P"], Memory]:
    """Return the next weight_P: 1 for queries of this stage that the pass has still to visit, 0 for all others.

    after the abstract: SearchGym-RL (Zhang et al. 2026, arXiv:2601.14615) trains in two stages, first on basic and then
    on complex questions of its synthetic world. Filled in: `pool.hops_P` (`hops` of a question's meta) tells which are
    basic; both constants; passes over the pool; the second stage keeps the simple ones, and visits first what the pass
    has not. Deviation: the first step draws from all, as a rule runs only after a step. Without hops in the pool all
    queries are simple.
    """
    hops_P = np.zeros(pool.size, np.int64) if pool.hops_P is None else pool.hops_P
    if hops_P.min() > simple or (pool.hops_P is not None and not hops_P.any()):
        found = f"the questions have {hops_P.min()} to {hops_P.max()} hops (0: their meta does not say)"
        raise UserError(f"{found}; wanted some of simple={simple} or fewer, and some that say")
    stage_P = (hops_P <= simple) | (outcome.step + 1 >= steps)
    memory = _passes.begun(pool)
    return _passes.unvisited(memory, outcome, lambda: stage_P).astype(np.float64), memory
