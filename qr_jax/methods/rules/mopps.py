"""MoPPS: draw the queries whose pass rate, sampled from its posterior, is nearest to one half."""

from typing import Annotated

import numpy as np
from jaxtyping import Float64

from qr_jax.pool.noise import uniforms
from qr_jax.pool.pool import Pool
from qr_jax.records import Memory, Outcome
from qr_jax.settings.settings import Bound, Share, at_least

DRAWS = "largest"
Temperature = Annotated[float, at_least(1e-3, ", below which weights round to 0 and leave queries out")]
Prior = Annotated[tuple[float, float], Bound("two numbers above 0", lambda prior: min(prior) > 0)]
MOPPS = 3  # the first part of the keys of its random numbers


def mopps(
    pool: Pool,
    outcome: Outcome,
    *,
    target: float = 0.5,  # the pass rate that is wanted
    band: float = 0.0,  # distance from the target that costs nothing
    decay: Share = 0.5,  # share of the evidence that stays at each draw
    prior: Prior = (1.0, 1.0),  # right and wrong episodes that every query begins with
    temperature: Temperature = 1e-3,  # how fast the weight falls with the distance
) -> tuple[Float64[np.ndarray, "P"], Memory]:
    """Return the next weight_P = exp(-max(|r - target| - band, 0) / temperature), r ~ Beta(a, b) anew each step for
    every query.

    exact: MoPPS (Qu et al. 2025, arXiv:2507.04632; thu-rllab/MoPPS). Posterior of a drawn query, s of its n valid
    episodes right: a <- decay a + (1 - decay) a0 + s, b likewise with n - s. With `pool.by="largest"` the draw is
    exactly its "topk": the smallest (r - 1/2)^2 first; `band=0.2` is its "threshold" [.3, .7]. With by="chance" a
    difference of a few temperatures decides. Deviations: all queries are candidates, not a loader's batch; the first
    step draws by chance (r is then uniform, so the choice is too); r is the posterior's quantile at a uniform number
    keyed by (3, seed, step, query). Nothing is ever used up.
    """
    from scipy.special import betaincinv

    a_P, b_P = (_remembered(pool, name, start) for name, start in zip("ab", prior, strict=True))
    drawn = outcome.drawn_Q[outcome.verdict_Q != "fault"]
    right, valid = pool.last_successes_P[drawn], pool.last_valid_P[drawn]
    a_P[drawn] = decay * a_P[drawn] + (1 - decay) * prior[0] + right
    b_P[drawn] = decay * b_P[drawn] + (1 - decay) * prior[1] + (valid - right)
    rate_P = uniforms(pool.size, MOPPS, outcome.seed, outcome.step)
    seen = np.flatnonzero((a_P != 1) | (b_P != 1))  # Beta(1, 1) is uniform already
    rate_P[seen] = betaincinv(a_P[seen], b_P[seen], rate_P[seen])
    far_P = np.maximum(np.abs(rate_P - target) - band, 0)
    return np.exp(-far_P / temperature), {"a": a_P, "b": b_P}


def _remembered(pool: Pool, name: str, start: float) -> np.ndarray:
    return pool.memory[name].copy() if name in pool.memory else np.full(pool.size, start)
