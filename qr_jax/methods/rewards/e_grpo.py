"""Reward of entities on the way: a wrong answer is worth something when its turns named some of `query.entities`."""

from collections.abc import Sequence

import numpy as np

from qr_jax import answers
from qr_jax.methods.rewards import _format
from qr_jax.records import Episode, Query, Scores

MAX_TURNS = 8


def e_grpo(
    query: Query,
    episodes: Sequence[Episode],
    *,
    alpha: float = 0.3,  # what a wrong answer is worth whose turns name the most entities
) -> Scores:
    """Return 1 where the answer is right, alpha g_i / max_j g_j where it is wrong, g_i the share of `query.entities`
    that episode i's own turns name; 0 where it ended by length or context.

    exact: E-GRPO (arXiv:2510.24694, eq. 1 to 5; alpha .3 was best of 0, .1, .3, .5), normalised words for its verbatim
    phrases. Deviation: named anywhere in a turn, also in queries and the answer, where theirs reads thoughts. A badly
    formed wrong answer is no error here but simply wrong, so it keeps what it named. The outcome is exact match.
    Turn rewards, for advantages that take them: alpha / entities for each entity in the turn that names it first, and
    in the last turn of a right episode what is left to 1; none in an episode that was cut. The setting
    rollout.overlong=mask takes it out of the loss, as in the paper.
    """
    named_G = [_first_named(query, episode) for episode in episodes]
    right_G = np.array([answers.exact_match(episode.answer, query.answers) for episode in episodes])
    wanted = max(len(query.entities), 1)
    share_G = np.array([sum(turns) / wanted for turns in named_G])
    cut_G = np.array([episode.stop in ("length", "context") for episode in episodes], bool)
    best = share_G.max(initial=0.0, where=np.array([episode.valid for episode in episodes], bool))
    wrong_G = np.where(cut_G, 0.0, alpha * share_G / best) if best else 0.0
    score_G = np.where(right_G == 1, 1.0, wrong_G)
    turn_GT = []
    for turns, right, cut in zip(named_G, right_G, cut_G, strict=True):
        rewards = (0.0 if cut else alpha) * np.array(turns, float) / wanted
        if right and len(rewards):
            rewards[-1] += 1 - rewards.sum()
        turn_GT.append(rewards)
    return Scores(score_G, right_G, turn_GT)


def _first_named(query: Query, episode: Episode) -> list[int]:
    """Return, for each model turn, the number of entities that it is the first to name."""
    texts = [answers.normalise(turn.text) for turn in episode.turns if turn.author == "model"]
    return _format.first_named(query.entities, texts) + [0] * (episode.model_turns - len(texts))
