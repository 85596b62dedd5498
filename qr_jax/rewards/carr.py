"""Reward: a right answer is worth more when the chain of facts that leads to it stands in what was read (CaRR)."""

from collections.abc import Sequence

import numpy as np

from qr_jax import answers
from qr_jax.records import Episode, Query, Scores
from qr_jax.rewards import _format


def carr(
    query: Query,
    episodes: Sequence[Episode],
    *,
    alpha: float = 0.3,  # the weight of the rubrics
) -> Scores:
    """Right: 1 - alpha + alpha R_i / max_j R_j, R the share of the rubrics that lead to the answer. Wrong: 0.

    exact: the mixing rule of C-GRPO (CaRR: arXiv:2601.06021; THUDM/CaRR, alpha .3). Stand-in, rule-based: where the
    paper's judge says which rubrics (facts with named entities) the cited pages support and counts those connected to
    the answer, the rubrics here are `query.entities`, the chain of names that an expert passes, the last next to the
    answer. One counts when one of the episode's own turns names it, a passage that it read holds it, and so for all
    that follow it. All-right groups bear signal on the channel "reward"; the outcome is exact match.
    """
    right_G = np.array([answers.exact_match(episode.answer, query.answers) for episode in episodes])
    share_G = right_G * [_connected(query, episode) for episode in episodes]
    best = share_G.max(initial=0.0)
    return Scores(right_G * (1 - alpha + (alpha * share_G / best if best else 0.0)), right_G)


def _connected(query: Query, episode: Episode) -> float:
    """The share of the query's entities in the unbroken chain of supported ones that ends at the answer."""
    read = f" {' '.join(_format.brought(episode))} "
    said = f" {answers.normalise(' '.join(turn.text for turn in episode.turns if turn.author == 'model'))} "
    count = 0
    for entity in reversed(query.entities):
        name = f" {answers.normalise(entity)} "
        if name not in read or name not in said:
            break
        count += 1
    return count / max(len(query.entities), 1)
