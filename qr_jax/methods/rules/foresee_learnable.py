"""Foresee, with less weight for queries that training does not make easier, such as coin flips."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from qr_jax.pool.pool import Pool
from qr_jax.pool.rules.foresee import foresee
from qr_jax.records import Memory, Outcome
from qr_jax.settings.settings import NotNegative, Positive, Share

READS_KINDS = True
SUMS = ("k", "s", "kx", "kxx", "sx")  # over a query's draws: valid episodes k, right ones s, each also times exposure x


def foresee_learnable(
    pool: Pool,
    outcome: Outcome,
    *,
    least: float = 0.1,  # growth of the log-odds with an exposure, above which a query counts as learnable
    spread: Positive = 1.0,  # prior standard deviation of that growth
    power: NotNegative = 1.0,  # exponent of the chance that a query is learnable; 0: the rule is foresee
    floor: Share = 0.05,  # smaller chances count as this
) -> tuple[Float64[np.ndarray, "P"], Memory]:
    """Return the next weight_P = foresee's times max(P(slope > least), floor)^power.

    own: opt-in. A query that stays near one half however often it is trained on (a question of two options, a judge
    that guesses) bears signal each time and teaches nothing. The exposure x of a draw is how often its query, and how
    often the mean query of the pool, had been accepted before. With log-odds = own + slope x, the score of the slope at
    0 is U = sum s x - (s/k) sum k x, and its information I = p (1 - p) (sum k x^2 - (sum k x)^2 / k), with p the
    query's rate over all draws, one success and one failure added. The prior of the slope is normal, about its family's
    mean (`pool.family_P`; all queries where there are none), with deviation `spread`, so that the posterior is normal
    with precision I + 1 / spread^2 and mean (U + mean / spread^2) / precision. A family's mean is the sum of its U over
    that of its I + 1 / spread^2, at least 0: rates that fall together do not make all queries unlearnable.
    """
    own = {name: pool.memory.get(f"slope_{name}", np.zeros(pool.size)).copy() for name in SUMS}
    rest = {name: value for name, value in pool.memory.items() if not name.startswith("slope_")}
    weight_P, memory = foresee(replace(pool, memory=rest), outcome)
    _add(own, pool, outcome)
    chance_P = _chance(own, pool.family_P, least, spread)
    kept = {f"slope_{name}": value for name, value in own.items()}
    return weight_P * np.maximum(chance_P, floor) ** power, {**memory, **kept}


def _add(sums: dict[str, np.ndarray], pool: Pool, outcome: Outcome) -> None:
    """Add a step's draws to the sums, at the exposures that their queries had before it."""
    before_P = pool.accepted_P.astype(np.float64)
    before_P[outcome.accepted] -= 1
    drawn = outcome.drawn_Q[outcome.verdict_Q != "fault"]
    x = before_P[drawn] + before_P.mean()
    k, s = pool.last_valid_P[drawn], pool.last_successes_P[drawn]
    for name, value in zip(SUMS, (k, s, k * x, k * x * x, s * x)):
        sums[name][drawn] += value


def _chance(
    sums: dict[str, np.ndarray], family_P: np.ndarray | None, least: float, spread: float
) -> Float64[np.ndarray, "P"]:
    """Return the posterior chance of each query that its slope is above `least`."""
    from scipy.special import ndtr

    k, s, kx, kxx, sx = (sums[name] for name in SUMS)
    count = np.maximum(k, 1)
    rate = (s + 1) / (k + 2)
    score_P = sx - s / count * kx
    information_P = np.maximum(rate * (1 - rate) * (kxx - kx * kx / count), 0)
    family = np.zeros(len(k), np.int64) if family_P is None else family_P
    families = int(family.max(initial=0)) + 1
    known_F = np.bincount(family, information_P, families) + spread**-2
    mean_F = np.maximum(np.bincount(family, score_P, families) / known_F, 0)
    precision_P = information_P + spread**-2
    mean_P = (score_P + mean_F[family] * spread**-2) / precision_P
    return ndtr((mean_P - least) * np.sqrt(precision_P))
