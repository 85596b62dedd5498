"""A step's effect on the pool: zero-variance rates, who made up the batch, flips and waste, exactly defined.

Every rate in RATIOS is a ratio of two counts that are reported too, so figures over many steps come from summed counts
(`over_steps`), never from averaged rates. A ratio with denominator 0 is None, not 0 or NaN.

A query's origin is its last verdict before the step: "fresh" (never attempted), "ex_hard", "ex_easy", "ex_surplus"
(bore signal, was not accepted) or "ex_consumed" (was accepted; back by a reset or a soft weight). Resets keep origins.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from qr_jax.errors import UserError
from qr_jax.pool.pool import LAST_ACCEPTED, LAST_EASY, LAST_HARD, LAST_NONE, LAST_SURPLUS, STATES, Pool
from qr_jax.records import Outcome

Figures = dict[str, float | int | None]

FEW_DRAWS = 8  # a pool has few eligible queries where they last for fewer draws of a step
ORIGINS = {"fresh": LAST_NONE, "ex_hard": LAST_HARD, "ex_easy": LAST_EASY}
ORIGINS |= {"ex_surplus": LAST_SURPLUS, "ex_consumed": LAST_ACCEPTED}

# The figure -> the count above the line and the count below it.
RATIOS = {
    "zero_variance_rate": ("zero_variance", "drawn"),  # with signal_rate and fault_rate it sums to 1
    "hard_rate": ("hard", "drawn"),
    "easy_rate": ("easy", "drawn"),
    "signal_rate": ("signal", "drawn"),
    "fault_rate": ("fault", "drawn"),
    **{f"zero_variance_rate_{origin}": (f"zero_variance_{origin}", f"drawn_{origin}") for origin in ORIGINS},
    **{origin: (f"accepted_{origin}", "accepted") for origin in ORIGINS},  # shares of accepted groups; they sum to 1
    # accepted queries whose last verdict was zero-variance: ex_hard + ex_easy
    "recycled_share": ("accepted_recycled", "accepted"),
    "seen_share": ("accepted_seen", "accepted"),  # attempted at least once before
    "fill": ("accepted", "wanted"),  # accepted / pool.queries
    "wasted_rollout_share": ("wasted_rollouts", "rollouts"),
    "rollouts_per_signal_group": ("rollouts", "signal"),
}


def step_figures(
    before: Pool, outcome: Outcome, after: Pool, *, accept: int, rollouts_Q: np.ndarray | None = None
) -> Figures:
    """Return one step's counts and ratios under "pool/...", from the pool before, its outcome and the pool after it.

    `accept` is B. `rollouts_Q` is the number of episodes each drawn query cost; by default the width of the grades.
    """
    if rollouts_Q is None:
        rollouts_Q = np.full(len(outcome.drawn_Q), outcome.grades.valid_QG.shape[1])
    counts = _counts(before, outcome, rollouts_Q) | {"wanted": accept}
    return _named({name: int(value) for name, value in counts.items()}) | pool_figures(after)


def _counts(before: Pool, outcome: Outcome, rollouts_Q: np.ndarray) -> dict[str, int]:
    """Count the drawn and the accepted groups by verdict and by origin."""
    drawn_Q, verdict_Q, accepted = outcome.drawn_Q, outcome.verdict_Q, outcome.accepted
    dead_Q = (verdict_Q == "hard") | (verdict_Q == "easy")
    last_Q, last_E = before.last_P[drawn_Q], before.last_P[accepted]
    counts = {
        **{verdict: np.count_nonzero(verdict_Q == verdict) for verdict in ("hard", "easy", "signal", "fault")},
        "drawn": len(drawn_Q),
        "zero_variance": np.count_nonzero(dead_Q),
        "accepted": len(accepted),
        "accepted_recycled": np.count_nonzero((last_E == LAST_HARD) | (last_E == LAST_EASY)),
        "accepted_seen": np.count_nonzero(before.attempts_P[accepted] > 0),
        "rollouts": rollouts_Q.sum(),
        "wasted_rollouts": rollouts_Q[~np.isin(drawn_Q, accepted)].sum(),
    }
    for origin, last in ORIGINS.items():
        counts[f"drawn_{origin}"] = np.count_nonzero(last_Q == last)
        counts[f"zero_variance_{origin}"] = np.count_nonzero(dead_Q & (last_Q == last))
        counts[f"accepted_{origin}"] = np.count_nonzero(last_E == last)
    return counts


def pool_figures(pool: Pool) -> Figures:
    """Return the pool's figures after all steps so far: eligible queries, states, epoch, attempts and flips.

    `flipped`: the share of attempted queries that were accepted after any earlier zero-variance verdict, with or
    without surplus signal in between; a query whose groups were all faults does not count as attempted.
    `never_flipped`: queries with a zero-variance verdict that were never accepted after one.
    """
    attempted = int(np.count_nonzero(pool.attempts_P))
    flipped = int(np.count_nonzero(pool.flipped_P))
    eligible = int(np.count_nonzero(pool.weight_P))
    figures: Figures = {
        "pool/eligible": eligible, "pool/eligible_share": eligible / pool.size, "pool/epoch": pool.epoch,
        "pool/attempted_queries": attempted, "pool/attempts_mean": float(pool.attempts_P.mean()),
        "pool/attempts_max": int(pool.attempts_P.max()), "pool/flipped_queries": flipped,
        "pool/never_flipped": int(np.count_nonzero((pool.zero_variance_P > 0) & ~pool.flipped_P)),
        "pool/flipped": flipped / attempted if attempted else None,
    }  # fmt: skip
    states = np.bincount(pool.state_P, minlength=len(STATES)).tolist()
    return figures | {f"pool/state_{name}": count for name, count in zip(STATES, states, strict=True)}


def over_steps(steps: Sequence[Mapping[str, float | int | None]]) -> Figures:
    """Return several steps' figures as one: counts summed, ratios made anew; all else is the last step's."""
    if not steps:
        raise UserError("figures over 0 steps were asked for; at least 1 is needed")
    counts = {name for ratio in RATIOS.values() for name in ratio}
    summed = {name: sum(int(step[f"pool/{name}"] or 0) for step in steps) for name in sorted(counts)}
    return dict(steps[-1]) | _named(summed)


def warning(steps: Sequence[Mapping[str, float | int | None]], rule: str) -> str | None:
    """Return a warning if the pool was reset at every step, or if it starves; else None.

    Give two steps or more: a reset shows as a rise of the epoch from one step to the next.
    """
    epochs = [int(step["pool/epoch"] or 0) for step in steps]
    if all(before < after for before, after in pairwise(epochs)):
        return (
            f"rule {rule!r} left too few queries to draw, and the pool was reset after every step: "
            "look at its weights and pool.reset_below, or add questions"
        )
    return starvation(over_steps(steps))


def starvation(figures: Mapping[str, float | int | None]) -> str | None:
    """Return a warning with the numbers if few of the drawn groups bear signal, else None.

    Few: under a quarter of the share expected at a pass rate of 1/2, 1 - 2^(1 - K) for K episodes per group. The
    warning suggests a cure that fits: for episodes that are cut or never search, for groups all wrong or all right, or
    for a pool that starves. Without learner.full_groups even a few noisy groups take a full optimizer step, by which
    runs on a small pool lost what they had learned.
    """
    drawn, signal = int(figures["pool/drawn"] or 0), int(figures["pool/signal"] or 0)
    size = int(figures.get("pool/rollouts") or 0) / drawn if drawn else 0.0
    if 4 * signal >= drawn * (1 - 2 ** (1 - size) if size >= 2 else 1):
        return None
    others = ", ".join(f"{verdict} {figures[f'pool/{verdict}']}" for verdict in ("hard", "easy", "fault"))
    bear = f"{signal} of {drawn} drawn groups bear signal ({others}); {figures['pool/eligible']} queries are eligible"
    return f"{bear}. {_cure(figures, drawn)}"


def _cure(figures: Mapping[str, float | int | None], drawn: int) -> str:
    """Suggest a cure for a step with few signal groups."""
    hard, easy = int(figures["pool/hard"] or 0), int(figures["pool/easy"] or 0)
    cut = sum(figures.get(f"rollout/stop_{stop}") or 0.0 for stop in ("length", "context"))
    if 2 * hard > drawn and cut > 0.5:
        todo = "raise rollout.turn_tokens or rollout.context_tokens"
        return f"In the last step {cut:.0%} of the episodes were cut by length: {todo}"
    if 2 * hard > drawn and figures.get("rollout/searches") == 0:
        todo = "see what the model writes (`qr-jax report`); it may need a cold start (sft.steps)"
        return f"No episode of the last step searched: {todo}"
    if hard == drawn:
        return "Every answer was wrong: train a cold start (sft.steps), begin with easier questions, or reward=f1"
    if easy == drawn:
        return "Every answer was right: the questions are too easy for this model; give harder ones, or end the run"
    if 10 * hard > 9 * drawn:
        return "Most groups are all wrong: train the cold start longer (sft.steps), or begin with easier questions"
    if 10 * easy > 9 * drawn:
        return "Most groups are all right: the questions are easy for this model; give harder ones, or end the run"
    if int(figures["pool/eligible"] or 0) < FEW_DRAWS * drawn:
        return "Few queries are left: consider pool.reset_below or pool.min_signal"
    return "If it lasts, consider pool.min_signal or learner.full_groups, so that few groups make no whole update"


def _named(counts: Mapping[str, int]) -> Figures:
    """Return counts and the ratios made from them, under their names in a run's metrics."""
    ratios = {name: counts[top] / counts[bottom] if counts[bottom] else None for name, (top, bottom) in RATIOS.items()}
    return {f"pool/{name}": value for name, value in {**counts, **ratios}.items()}
