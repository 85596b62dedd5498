"""The verdict on each group of a step: signal, easy, hard, or a fault."""

from typing import Any, Literal

import numpy as np

from qr_jax.errors import UserError
from qr_jax.records import Grades, Outcome
from qr_jax.records import grades as checked_grades


def judge(
    drawn_Q: Any,
    grades: Grades,
    *,
    step: int,
    accept: int,
    channel: Literal["reward", "outcome"] = "reward",
    seed: int = 0,
) -> Outcome:
    """Return the step's Outcome: each group's verdict, and the first `accept` signal groups in draw order.

    `channel` is the values that bear the signal. The Outcome's grades have passed `records.grades`. Rounds of one step
    are judged together. ValueError where a query is drawn twice or the grades do not hold one row a drawn query.
    """
    drawn_Q = indices("drawn_Q", drawn_Q, None)
    if accept < 0:
        raise UserError(f"accept={accept} groups; it must be 0 or more")
    if len(np.unique(drawn_Q)) != len(drawn_Q):
        values, counts = np.unique(drawn_Q, return_counts=True)
        twice = values[counts > 1][:5]
        raise UserError(f"drawn_Q has {len(drawn_Q)} queries, {len(values)} distinct: {twice} come twice")
    grades = checked_grades(**vars(grades))
    outcome_QG = grades.reward_QG if grades.outcome_QG is None else grades.outcome_QG
    if len(drawn_Q) != len(grades.valid_QG) or outcome_QG.shape != grades.valid_QG.shape:
        shapes = f"rewards {grades.reward_QG.shape} and outcomes {outcome_QG.shape}; a row a drawn query is wanted"
        raise UserError(f"{len(drawn_Q)} queries were drawn, but the grades hold {shapes}")
    verdict_Q = verdicts(grades, channel)
    accepted_at = np.flatnonzero(verdict_Q == "signal")[:accept]
    return Outcome(drawn_Q, drawn_Q[accepted_at], accepted_at, verdict_Q, grades, int(step), int(seed))


def verdicts(grades: Grades, channel: Literal["reward", "outcome"] = "reward") -> np.ndarray:
    """Return verdict_Q of grades that have passed `records.grades`: "signal", "easy", "hard" or "fault".

    A group is "signal" when the largest of its valid values on the channel exceeds the smallest: exactly, never by a
    standard deviation, as `variance.group_variance_mask` decides on the device of rewards. Otherwise it is "easy" when
    all its valid outcomes are 1 and "hard" when not. With fewer than 2 valid episodes it is a "fault".
    """
    if channel not in ("reward", "outcome"):
        raise UserError(f"channel={channel!r} is neither 'reward' nor 'outcome'")
    outcome_QG = grades.reward_QG if grades.outcome_QG is None else grades.outcome_QG
    value_QG = grades.reward_QG if channel == "reward" else outcome_QG
    infinity = np.float32(np.inf)
    highest_Q = np.where(grades.valid_QG, value_QG, -infinity).max(axis=1, initial=-infinity)
    lowest_Q = np.where(grades.valid_QG, value_QG, infinity).min(axis=1, initial=infinity)
    easy_Q = ((outcome_QG == 1) | ~grades.valid_QG).all(axis=1)
    kinds = [grades.valid_QG.sum(axis=1) < 2, highest_Q > lowest_Q, easy_Q]
    return np.select(kinds, ["fault", "signal", "easy"], default="hard")


def indices(name: str, value: Any, size: int | None) -> np.ndarray:
    """Check indices and return them as int64 [n], each in [0, size) if a size is given."""
    array = np.asarray(value)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise UserError(f"{name} must be a list of integers, found shape {array.shape} of {array.dtype}")
    if size is not None and array.size and (array.min() < 0 or array.max() >= size):
        held = f"{name} holds indices from {array.min()} to {array.max()}"
        raise UserError(f"{held}; the pool's go from 0 to {size - 1}")
    return array.astype(np.int64)
