"""Reward: exact match, less a little for turns that act twice or do not think (O2-Searcher, closed questions)."""

from collections.abc import Sequence

import numpy as np

from qr_jax import answers, dialect
from qr_jax.methods.rewards import _format
from qr_jax.records import Episode, Query, Scores
from qr_jax.settings.settings import NotNegative

SURPLUS, UNTHOUGHT = 0.1, 0.5  # what counts against a turn: each act beyond its first; acts without a thought


def o2_searcher(
    query: Query,
    episodes: Sequence[Episode],
    *,
    weight: NotNegative = 0.5,  # of what counts against the turns
    think: bool = True,  # whether a turn that acts must think
) -> Scores:
    """Return exact match - weight * (the sum over the turns of .5 where one acts without a thought, else .1 (acts -
    1)_+).

    exact: the closed questions of O2-Searcher (Mei et al. 2025, arXiv:2505.16582; Acade-Mate/O2-Searcher, main_ppo.py
    and generation.py). Their code counts this and has its weight, .5, and then pays exact match alone, which weight=0
    gives. Deviation: a turn of thoughts alone, -.1 there, counts as 0. Open questions (findings' F1, their form, unlike
    queries) want rubrics and a model of sentences, and are outside. The outcome is exact match: groups of equal answers
    bear signal on the channel "reward" where their forms differ.
    """
    right_G = np.array([answers.exact_match(episode.answer, query.answers) for episode in episodes])
    against_G = [sum(_against(text, think) for text, _ in _format.rounds(episode)) for episode in episodes]
    return Scores(right_G - weight * np.array(against_G, float), right_G)


def _against(text: str, think: bool) -> float:
    blocks, _ = dialect.read(text)
    acts = sum(block.name in _format.ACTS for block in blocks)
    thought = "</think>" in text  # a chat template may have opened it
    return UNTHOUGHT if acts and think and not thought else SURPLUS * max(acts - 1, 0)
