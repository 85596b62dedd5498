"""Differences of scores: how far they would move with other questions or other seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from qr_jax.evaluation.scores import half_width
from qr_jax.pool.noise import uniforms

POWER = 0.8  # the chance that a test finds a true difference
ROUNDING = 1e-20  # a sum of squares of accuracies below which nothing varies


def picks(count: int, resamples: int, *key: int) -> np.ndarray:
    """Return int64 [resamples, count]: the questions, of `count`, that each resample takes, a function of the key."""
    return (uniforms(resamples * count, *key) * count).astype(np.int64).reshape(resamples, count)


def over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    """Return mean and standard deviation (n - 1) over the seeds that have a value, with all values."""
    known = [float(value) for value in values if value is not None]
    sd = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return {"mean": float(np.mean(known)) if known else None, "sd": sd, "values": list(values)}


def difference(own_SN: np.ndarray, base_SN: np.ndarray, *, paired: bool) -> dict[str, float | bool]:
    """Return the mean difference of two rules' scores, S seeds of N questions each, with a 95 % interval.

    With several seeds (`seeds` True) the interval covers both other seeds and other questions: half^2 = t^2 v_S + t'^2
    v_N (Howe 1974), Student's t of the seeds and of the questions. v_S is the variance of the seeds' means over S: of
    the differences by seed if the rules are `paired`, else Welch's sum, in which a rule of one seed is taken to vary as
    the other one does. v_N is the variance of the questions' means over N, less the noise of single answers, which v_S
    has already. With one seed each the interval is over questions alone. Never empty: see `half_width`.
    """
    from scipy.special import stdtrit

    gap_N = own_SN.mean(0) - base_SN.mean(0)
    several = [own_SN - base_SN] if paired else [own_SN, base_SN]
    several = [score_SN for score_SN in several if len(score_SN) > 1]
    count = len(gap_N)
    variance_N = float(gap_N.var(ddof=1)) / count if count > 1 else 0.0
    squared = 0.0
    if several:
        spread = [(float(score_SN.mean(1).var(ddof=1)) / len(score_SN), len(score_SN) - 1) for score_SN in several]
        variance_S = sum(variance for variance, _ in spread)
        freedom = variance_S**2 / sum(v**2 / seeds for v, seeds in spread) if variance_S else 1.0
        with_lone = 1.0 if paired or len(several) > 1 else 1.0 + len(several[0])
        squared = float(stdtrit(freedom, 0.975)) ** 2 * variance_S * with_lone
        variance_N -= sum(map(_noise, several)) * with_lone
    if variance_N > 0:
        squared += float(stdtrit(count - 1, 0.975)) ** 2 * variance_N
    mean, half = float(gap_N.mean()), squared**0.5 or half_width(0.0, count)
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": bool(several)}


def seeds_needed(own_S: np.ndarray, base_S: np.ndarray, size: float, *, paired: bool) -> dict[str, float] | None:
    """Return how many seeds a difference of `size` needs, by the spread of two rules' accuracies over S seeds each.

    `seeds` (of each rule) is the fewest at which Student's two-sided test at .05 finds a true difference of `size` with
    power POWER; `at_least` and `at_most` are those of the ends of the standard deviation's 80 % interval (by chi2: a
    few seeds tell a spread badly). `sd` is of the differences by seed if `paired`, else of one rule's accuracy, pooled.
    `found` is the power of the seeds that are there. None where a rule has one seed, or nothing varies but by rounding.
    Noncentral t: Cohen 1988, chapter 2.
    """
    from scipy.special import chdtri

    several = [own_S - base_S] if paired else [own_S, base_S]
    freedom = sum(len(values) - 1 for values in several)
    squares = sum(float(np.square(values - values.mean()).sum()) for values in several)
    if min(map(len, several)) < 2 or squares < ROUNDING:
        return None
    low, sd, high = ((squares / over) ** 0.5 for over in (chdtri(freedom, 0.1), freedom, chdtri(freedom, 0.9)))
    least, seeds, most = (_fewest(size / one, paired) for one in (low, sd, high))
    found = _power(size / sd / sum(1 / len(values) for values in several) ** 0.5, freedom)
    return {"size": size, "power": POWER, "sd": sd, "seeds": seeds, "at_least": least, "at_most": most, "found": found}


def _fewest(effect: float, paired: bool) -> int:
    """Return the fewest seeds of a rule with a power of POWER, by halving; `effect` in standard deviations."""

    def has_power(seeds: int) -> bool:
        means = 1 if paired else 2
        return _power(effect * (seeds / means) ** 0.5, means * (seeds - 1)) >= POWER

    low, high = 1, 2
    while not has_power(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if has_power(middle) else (middle, high)
    return high


def _power(errors: float, freedom: int) -> float:
    """Return the chance that a two-sided t test at .05 finds a difference of so many standard errors.

    t^2 is noncentral F: scipy's noncentral t is NaN in its far tail. Its noncentral F is, too, from 37 standard errors
    on with 4 degrees of freedom or more, where the chance is 1.
    """
    from scipy.special import ncfdtr, stdtrit

    return float(np.nan_to_num(1 - ncfdtr(1, freedom, errors**2, stdtrit(freedom, 0.975) ** 2), nan=1.0))


def _noise(score_SN: np.ndarray) -> float:
    """Return the variance of the mean over seeds and questions that is due to single answers: their interaction's."""
    seeds, count = score_SN.shape
    rest_SN = score_SN - score_SN.mean(0) - score_SN.mean(1, keepdims=True) + score_SN.mean()
    return float(np.square(rest_SN).sum()) / ((seeds - 1) * max(count - 1, 1) * seeds * count)
