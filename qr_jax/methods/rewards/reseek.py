"""Reward: exact match, and for each search whether the model's verdict on what it brought was right (ReSeek)."""

from collections.abc import Sequence

import numpy as np

from qr_jax import answers, dialect
from qr_jax.methods.envs.reseek import TAGS
from qr_jax.methods.rewards import _format
from qr_jax.records import Episode, Query, Scores


def reseek(
    query: Query,
    episodes: Sequence[Episode],
    *,
    agrees: float = 0.3,  # for a verdict that is right
    answered: float = 0.1,  # beside it, where the episode's answer is right
    wrong_yes: float = -0.6,  # for a "yes" to what holds no gold
    wrong_no: float = -0.3,  # for a "no" to what holds one
) -> Scores:
    """Return exact match + the sum over searches of what the verdict on their passages is worth; 0 without an answer.

    A verdict is right if it is "yes" and a passage holds a gold answer, or "no" and none does; a "yes" also if the
    answer is right. Of several verdicts the first after the passages counts; passages without one count nothing.

    exact: the rule-based code for ReSeek (Li et al. 2025, arXiv:2510.00568; TencentBAC/ReSeek@d5a83308,
    reseek_regex.py); beside it stands one that asks a reranker how near gold and passages are, as the paper does.
    Deviations: golds are looked for in normalised words, and where these are yes or no or single characters, which
    stand in passages of any kind, verdicts count nothing. Each judged search of a right episode adds up to agrees +
    answered, so that searching more pays. The outcome is exact match: groups of equal answers bear signal on the
    channel "reward".
    """
    right_G = np.array([answers.exact_match(episode.answer, query.answers) for episode in episodes])
    score_G = right_G.copy()
    for g, episode in enumerate(episodes):
        for says_yes, holds in _judged(query, episode) if episode.answer else ():
            if says_yes == holds or (says_yes and right_G[g]):
                score_G[g] += agrees + answered * right_G[g]
            else:
                score_G[g] += wrong_yes if says_yes else wrong_no
    return Scores(score_G, right_G)


def _judged(query: Query, episode: Episode) -> list[tuple[bool, bool]]:
    """Return, for each judged search, whether the verdict is "yes", and whether a passage holds a gold."""
    judged, waiting = [], []
    if not answers.proving(query.answers):
        return judged
    for turn in episode.turns:
        found = [passage for passages in turn.passages for passage in passages]
        if found:
            waiting.append(answers.first_in(_format.shown(found), query.answers) is not None)
        blocks = dialect.read(turn.text, TAGS)[0] if turn.author == "model" else ()
        said = [block.text.strip().lower() for block in blocks if block.name in TAGS]
        verdict = next((word for word in said if word in ("yes", "no")), None)
        if verdict:
            judged += [(verdict == "yes", holds) for holds in waiting]
            waiting = []
    return judged
