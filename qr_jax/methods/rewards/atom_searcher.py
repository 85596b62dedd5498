"""Reward: F1 mixed with what the thoughts on the way are worth; their weight falls to nothing (Atom-Searcher)."""

from collections.abc import Sequence

import numpy as np

from qr_jax import answers
from qr_jax.methods.rewards import _format
from qr_jax.records import Episode, Query, Scores
from qr_jax.settings.settings import Count, Share

EXAMPLE = {"steps": 100}


def atom_searcher(
    query: Query,
    episodes: Sequence[Episode],
    *,
    steps: Count,  # of the run (train.steps), over which the weight falls to 0
    first: Share = 0.5,  # the weight of the thoughts at the first step
) -> Scores:
    """Return a T_i + (1 - a) F1_i, a = first (1 - t / steps)_+ at step t; -1 for a bad format. The outcome is exact
    match.

    after the abstract: Atom-Searcher (arXiv:2508.12800) adds atomic thought rewards whose weight decays; the linear
    decay from .5 and the -1 are remembered, not read. Stand-in, rule-based: T_i is the share of the episode's searches
    that were the first to bring a gold answer or one of `query.entities`.
    """
    right_G = np.array([answers.exact_match(episode.answer, query.answers) for episode in episodes])
    weight_G = first * np.maximum(1 - np.array([episode.step for episode in episodes]) / steps, 0)
    f1_G = np.array([answers.f1(episode.answer, query.answers) for episode in episodes])
    formed_G = np.array([_format.well_formed(episode) for episode in episodes], bool)
    thought_G = np.array([_useful(query, episode) for episode in episodes])
    return Scores(np.where(formed_G, weight_G * thought_G + (1 - weight_G) * f1_G, -1.0), right_G)


def _useful(query: Query, episode: Episode) -> float:
    """Return the share of the searches that brought a name for the first time; 0 without searches."""
    names = (*query.entities, *answers.proving(query.answers))
    useful = _format.first_named(names, _format.brought(episode))
    return float(np.mean(np.array(useful) > 0)) if useful else 0.0
