"""Reinforce-Ada: sample in rounds, and let a query go once it has shown enough right and wrong answers."""

from collections.abc import Sequence
from typing import Annotated, Literal

from qr_jax.methods.rounds import _room
from qr_jax.pool.pool import Pool
from qr_jax.records import Ask, Outcome
from qr_jax.settings.settings import Count, at_least

MAX_GROUP_SIZE = 32


def reinforce_ada(
    pool: Pool,
    so_far: Sequence[Outcome],
    *,
    queries: int,
    samples: int,
    oversample: int = 1,
    # what ends a query: right and wrong answers, or one right answer
    enough: Literal["balanced", "positive"] = "balanced",
    keep: Annotated[int, at_least(2)] = 4,  # episodes that `balanced` wants, half of them right
    right: float = 0.7,  # an answer is right above this reward
    max_rounds: Count = 4,  # rounds that a query gets, at most
) -> Ask | None:
    """Draw k * B queries; ask for `samples` more of each until it has keep // 2 rewards above `right` and keep -
    keep // 2 others ("positive": one above), or had `max_rounds` rounds.

    exact: Reinforce-Ada (Xiong et al. 2025, arXiv:2510.04996; RLHFlow/Reinforce-Ada: pool.samples=8). Deviation: all
    samples of a group are trained on, where theirs keeps `keep` of them, half right and half wrong as far as there are;
    mean and standard deviation are over all of them in both (its global statistics). So `grpo` weighs a group by its
    size. A step costs at most k * B * samples * max_rounds rollouts.
    """
    grown = f"pool.samples={samples} in max_rounds={max_rounds} rounds"
    _room.check("reinforce_ada", samples * max_rounds, MAX_GROUP_SIZE, grown)
    if not so_far:
        return Ask(draw=queries * oversample)
    if len(so_far) == max_rounds:
        return None
    last, grades = so_far[-1], so_far[-1].grades
    positive_QG = grades.valid_QG & (grades.reward_QG > right)
    positive_Q, negative_Q = positive_QG.sum(axis=1), (grades.valid_QG & ~positive_QG).sum(axis=1)
    if enough == "balanced":
        done_Q = (positive_Q >= keep // 2) & (negative_Q >= keep - keep // 2)
    else:
        done_Q = positive_Q >= 1
    more = dict.fromkeys(last.drawn_Q[~done_Q].tolist(), samples)
    return Ask(draw=0, more=more) if more else None
