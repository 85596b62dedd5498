"""Intervals of scores: how far means would move with other questions or other runs."""

import math
from typing import Any

import numpy as np

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
