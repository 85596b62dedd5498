"""Scores: their intervals, whether they cover enough of their questions, and the groups that tables show."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WITHIN = 1.96  # standard errors on either side of a 95 % interval
COMPLETE = 0.95  # least share of questions answered without a fault; below it a score is marked INCOMPLETE
INCOMPLETE = "INCOMPLETE, do not use the score"
OTHERS = "others"
MOST_GROUPS, MOST_NAME_BYTES = 64, 120  # a summary with 12 tables is then smaller than run_files.py lets it be


def half_width(error: float | None, questions: float | None) -> float:
    """Return half the 95 % interval of a score with this standard error over so many questions; 0 if it is unknown.

    If all questions score alike (error 0), or there is only one, it is the one-sided width of Wilson's interval.
    """
    if not (error or questions) or (error is None and questions != 1):
        return 0.0
    return WITHIN * error if error else WITHIN**2 / ((questions or 0) + WITHIN**2)


def wilson(score: float, questions: float) -> tuple[float, float]:
    """Return the ends of Wilson's 95 % interval of a score from 0 to 1 over so many questions.

    The interval assumes 0/1 scores, which have the largest variance of all scores from 0 to 1 with this mean.
    Source: Wilson, Journal of the American Statistical Association 22 (1927).
    """
    square = WITHIN**2
    middle = (score * questions + square / 2) / (questions + square)
    half = WITHIN / (questions + square) * math.sqrt(questions * score * (1 - score) + square / 4)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def ends(score: float, error: float | None, questions: float | None) -> tuple[float, float]:
    """Return the ends of a score's 95 % interval: Wilson's where `half_width`'s would leave 0 to 1.

    Both are the score where the error is unknown.
    """
    half = half_width(error, questions)
    if questions and not half <= score <= 1 - half:
        return wilson(score, questions)
    return max(score - half, 0.0), min(score + half, 1.0)


def mean(value: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean of the numbers that are not NaN; NaN if there are none."""
    known = ~np.isnan(value)
    count = known.sum(axis)
    return np.where(count, np.where(known, value, 0.0).sum(axis) / np.maximum(count, 1), math.nan)


def over_runs(mean_R: np.ndarray) -> dict[str, Any]:
    """Return a score's mean in each run, and the standard error of these means; None with fewer than two scored runs.

    A run without a score (NaN) is None, and counts in no error.
    """
    known_R = mean_R[np.isfinite(mean_R)]
    error = float(np.std(known_R, ddof=1)) / math.sqrt(len(known_R)) if len(known_R) > 1 else None
    return {"by_run": [float(each) if np.isfinite(each) else None for each in mean_R], "run_error": error}


def is_incomplete(figures: Mapping[str, Any]) -> bool:
    """Return True if a score of an evaluation or its metrics row covers fewer than COMPLETE of the questions."""
    return any(figures.get(name, False) for name in ("incomplete", "pass_at_1_incomplete", "eval/incomplete"))


def group_names(values: Sequence[str | int | None]) -> list[str]:
    """Name each question's group: its value, or OTHERS for a long one and beyond the MOST_GROUPS largest."""
    names = list(map(str, values))
    short = Counter(name for name in names if len(json.dumps(name)) <= MOST_NAME_BYTES)
    kept = {name for name, _ in short.most_common(MOST_GROUPS)}
    return [name if name in kept else OTHERS for name in names]
