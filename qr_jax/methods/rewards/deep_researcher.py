"""Reward: word-overlap F1, and -1 for a bad format (DeepResearcher)."""

from collections.abc import Sequence

import numpy as np

from qr_jax import answers
from qr_jax.methods.rewards import _format
from qr_jax.records import Episode, Query, Scores


def deep_researcher(query: Query, episodes: Sequence[Episode]) -> Scores:
    """Return the best F1 of a gold, in [0, 1]; -1 where the episode is badly formed. The outcome is exact match.

    exact: DeepResearcher (Zheng et al. 2025, arXiv:2504.03160; GAIR-NLP/DeepResearcher, format_and_f1.py). Badly formed
    is an episode without an answer, or with a turn that is neither thoughts nor one kind of act (_format.py).
    Deviations: F1 is SQuAD's over counted words without articles, yes and no by equality, where theirs is over sets of
    words; and theirs allows words beside the tags.
    """
    f1_G = np.array([answers.f1(episode.answer, query.answers) for episode in episodes])
    formed_G = np.array([_format.well_formed(episode) for episode in episodes], bool)
    right_G = np.array([answers.exact_match(episode.answer, query.answers) for episode in episodes])
    return Scores(np.where(formed_G, f1_G, -1.0), right_G)
