"""Reward: exact match and format together, as Search-R1 v0.3 has it."""

from collections.abc import Sequence

import numpy as np

from qr_jax import answers
from qr_jax.methods.rewards import _format
from qr_jax.records import Episode, Query, Scores


def search_r1_format(
    query: Query,
    episodes: Sequence[Episode],
    *,
    structure: float = 0.2,  # what good form is worth
    final: float = 0.1,  # for an answer in bad form
    retrieval: float = 0.0,  # more where a gold answer stands in a passage
    think: bool = True,  # whether good form wants thoughts in each turn
) -> Scores:
    """Return for a right answer 1 if well formed, else 1 - structure. Wrong: `structure` if well formed, and
    `retrieval` more where a gold stands in a passage; else `final` where there is an answer, and 0 where there is none.
    The outcome is exact match.

    exact: Search-R1 v0.3 (Jin et al. 2025, arXiv:2505.15117; PeterGriffinJin/Search-R1, train_grpo_format.sh). Well
    formed is every turn that thinks (unless think=false), then acts, and says nothing beside (_format.py). Deviation: a
    gold must stand in a passage word for word, and yes, no or a single character does not count; theirs is a substring.
    """
    right_G = np.array([answers.exact_match(episode.answer, query.answers) for episode in episodes])
    formed_G = np.array([_format.well_formed(episode, think=think) for episode in episodes], bool)
    found_G = np.array([_format.brings_gold(episode, query) for episode in episodes], float)
    answered_G = np.array([episode.answer is not None for episode in episodes], bool)
    formed_score_G = np.where(right_G == 1, 1.0, structure + retrieval * found_G)
    other_score_G = np.where(right_G == 1, 1.0 - structure, final * answered_G)
    return Scores(np.where(formed_G, formed_score_G, other_score_G), right_G)
