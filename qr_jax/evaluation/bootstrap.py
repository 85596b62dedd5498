"""Bootstraps and intervals: how far means, and their differences, would move with other questions or other seeds."""

import math
from typing import Any

import numpy as np

from qr_jax.pool.noise import uniforms

WITHIN = 1.96  # standard errors on either side of a 95 % interval


def half_width(error: float | None, questions: float | None) -> float:
    """Return half the 95 % interval of a score with this standard error over so many questions.

    If all questions score alike (error 0), or there is only one, it is the one-sided width of Wilson's interval. 0:
    unknown.
    """
    if not (error or questions) or (error is None and questions != 1):
        return 0.0
    return WITHIN * error if error else WITHIN**2 / ((questions or 0) + WITHIN**2)


def mean(value: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean of the numbers that are not NaN; NaN if there are none."""
    known = ~np.isnan(value)
    count = known.sum(axis)
    return np.where(count, np.where(known, value, 0.0).sum(axis) / np.maximum(count, 1), math.nan)


def over_runs(mean_R: np.ndarray) -> dict[str, Any]:
    """Return a score's mean in each run, and these means' standard error, sd (R - 1) / sqrt(R); None for one run."""
    error = float(np.std(mean_R, ddof=1)) / math.sqrt(len(mean_R)) if len(mean_R) > 1 else None
    return {"by_run": [float(each) for each in mean_R], "run_error": error}


def picks(count: int, resamples: int, *key: int) -> np.ndarray:
    """Return int64 [resamples, count]: the questions, of `count`, that each resample takes, a function of the key."""
    return (uniforms(resamples * count, *key) * count).astype(np.int64).reshape(resamples, count)


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
        variance_S *= 1.0 if paired or len(several) > 1 else 1.0 + len(several[0])
        squared = float(stdtrit(freedom, 0.975)) ** 2 * variance_S
        variance_N -= sum(map(_noise, several))
    if variance_N > 0:
        squared += float(stdtrit(count - 1, 0.975)) ** 2 * variance_N
    mean, half = float(gap_N.mean()), squared**0.5 or half_width(0.0, count)
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": bool(several)}


def _noise(score_SN: np.ndarray) -> float:
    """Return the variance of the mean over seeds and questions that is due to single answers: their interaction's."""
    seeds, count = score_SN.shape
    rest_SN = score_SN - score_SN.mean(0) - score_SN.mean(1, keepdims=True) + score_SN.mean()
    return float(np.square(rest_SN).sum()) / ((seeds - 1) * max(count - 1, 1) * seeds * count)
