"""Reward: a right answer is worth more the fewer searches it took; a wrong one, a little if it searched (IKEA)."""

from collections.abc import Sequence

import numpy as np

from qr_jax import answers
from qr_jax.methods.rewards import _format
from qr_jax.records import Episode, Query, Scores


def ikea(
    query: Query,
    episodes: Sequence[Episode],
    *,
    bonus: float = 0.6,  # for a right answer without a search
    most: int = 3,  # searches from which on there is no bonus
    searched: float = 0.05,  # for a wrong answer after a search
) -> Scores:
    """Return for a right answer 1 + bonus (1 - n / most)_+ of n searches. Wrong: `searched` if n > 0, else 0. Badly
    formed: -1.

    exact: IKEA (Huang et al. 2025, arXiv:2505.07596; hzy312/knowledge-r1: .6, .4, .2 and 0 more for 0 to 3 searches).
    Badly formed is an episode without an answer, or with a turn that is neither thoughts nor one kind of act
    (_format.py). Deviations: theirs gives `searched` for no answer after a search, and -1 for an episode without a
    thought, which are not asked for here. The outcome is exact match: a group of right answers bears signal on the
    channel "reward" where they took unlike numbers of searches.
    """
    right_G = np.array([answers.exact_match(episode.answer, query.answers) for episode in episodes])
    count_G = np.array([_format.searches(episode) for episode in episodes])
    formed_G = np.array([_format.well_formed(episode) for episode in episodes], bool)
    score_G = np.where(right_G == 1, 1 + bonus * np.maximum(1 - count_G / most, 0), searched * (count_G > 0))
    return Scores(np.where(formed_G, score_G, -1.0), right_G)
