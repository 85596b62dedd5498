"""Reward: exact match, and more where searching or not was what the policy's own knowledge asked for (AdaSearch)."""

from collections.abc import Sequence

import numpy as np

from qr_jax import answers
from qr_jax.methods.rewards import _format
from qr_jax.records import Episode, Query, Scores
from qr_jax.settings.settings import NotNegative, SomeShare


def ada_search(
    query: Query,
    episodes: Sequence[Episode],
    *,
    weight: NotNegative = 0.5,  # of a right decision
    knows: SomeShare = 0.5,  # it knows if this share or more of the answers without a search is right
) -> Scores:
    """Return exact match + weight * (1 where the episode searched and the policy does not know, or answered at once and
    it does). It knows where at least `knows` of the group's answers without a search are right; without such answers
    this is unknown, and all get exact match alone.

    after the abstract: AdaSearch (Lin et al. 2025, arXiv:2512.16883) optimises the decision to search apart from the
    answers, and measures it by its F1 against whether the policy answers right without searches. Filled in: the weight,
    the threshold, and that the group itself tells what the policy knows, of few samples. Within a question the label is
    one, so a decision's part in the F1 is whether it agrees. An episode with neither search nor answer never agrees.
    Groups of equal answers bear signal on the channel "reward" where decisions differ. The outcome is exact match.
    """
    right_G = np.array([answers.exact_match(episode.answer, query.answers) for episode in episodes])
    searched_G = np.array([_format.searches(episode) > 0 for episode in episodes], bool)
    at_once_G = ~searched_G & np.array([episode.answer is not None for episode in episodes], bool)
    if not at_once_G.any():
        return Scores(right_G, right_G)
    agrees_G = at_once_G if right_G[at_once_G].mean() >= knows else searched_G
    return Scores(right_G + weight * agrees_G, right_G)
