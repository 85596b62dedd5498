"""Reward: exact match, and more where what was read tells of the answer (InfoReasoner)."""

from collections.abc import Sequence

import numpy as np

from qr_jax import answers
from qr_jax.methods.rewards import _format
from qr_jax.records import Episode, Query, Scores


def info_reasoner(
    query: Query,
    episodes: Sequence[Episode],
    *,
    weight: float = 0.6,  # of the information gain
) -> Scores:
    """Return exact match + weight * information gain; 0 without an answer, and no gain without a search.

    exact: the mixing rule of InfoReasoner (Hu et al. 2026, arXiv:2602.00845; dl-m9/InfoReasoner, .6). Stand-in,
    rule-based: the paper's gain is the rise of the gold's cluster's probability, of answers sampled with and without
    the passages and clustered by entailment; here it is 1 where a gold stands in a passage that was read,
    else 0 (`answers.first_in`): the clusters want a served model and an entailment model. The outcome is exact match.
    """
    right_G = np.array([answers.exact_match(episode.answer, query.answers) for episode in episodes])
    gain_G = np.array([_format.brings_gold(episode, query) for episode in episodes], float)
    answered_G = np.array([episode.answer is not None for episode in episodes], bool)
    return Scores(np.where(answered_G, right_G + weight * gain_G, 0.0), right_G)
