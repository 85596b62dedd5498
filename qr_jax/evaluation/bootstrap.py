"""How far a mean or a difference of means would move had other questions been asked: bootstrap over questions."""

import numpy as np

from qr_jax.noise import uniforms

BOOTSTRAP = 95  # the first part of the keys of its resamples
RESAMPLES = 10_000
WITHIN = 1.96  # standard errors on either side of a 95 % interval


def half_width(error: float | None, questions: float | None) -> float:
    """Of the 95 % interval of a score with that standard error over so many questions.

    Where all score alike, as one alone does, the error says nothing; how far the interval then reaches to one side is
    Wilson's. 0: not known.
    """
    if not (error or questions) or (error is None and questions != 1):
        return 0.0
    return WITHIN * error if error else WITHIN**2 / ((questions or 0) + WITHIN**2)


def picks(count: int, resamples: int, *key: int) -> np.ndarray:
    """int64 [resamples, count]: which of `count` questions each resample takes, a function of the key."""
    return (uniforms(resamples * count, *key) * count).astype(np.int64).reshape(resamples, count)


def bootstrap(score_RN: np.ndarray, *, resamples: int = RESAMPLES) -> list[dict[str, float]]:
    """Each row's mean less the first row's, with the 2.5 % and 97.5 % quantiles over resamples of the N questions.

    Paired: a resample takes the same questions of all rows. It is a function of (95, resample) alone.
    """
    gap_RN = score_RN - score_RN[:1]
    count = gap_RN.shape[1]
    drawn = np.empty((resamples, len(gap_RN)))
    for at in range(resamples):
        picked_N = picks(count, 1, BOOTSTRAP, at)[0]
        drawn[at] = gap_RN @ np.bincount(picked_N, minlength=count) / count
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return [{"mean": float(gap_RN[r].mean()), "low": float(low[r]), "high": float(high[r])} for r in range(len(gap_RN))]
