"""Reward: exact match and a rational search, less a price for each turn (AI-SearchPlanner)."""

from collections.abc import Sequence

import numpy as np

from qr_jax import answers
from qr_jax.records import Episode, Query, Scores
from qr_jax.settings.settings import NotNegative


def ai_search_planner(
    query: Query,
    episodes: Sequence[Episode],
    *,
    cost: NotNegative = 0.05,  # of one of the model's turns: the lambda of utility against cost
    process: NotNegative = 0.1,  # the weight of how rational the search was; 0 for fewer turns alone
) -> Scores:
    """Return exact match + process P - cost * turns, P in [0, 1].

    after the abstract: AI-SearchPlanner (Mei et al. 2025, arXiv:2508.20368) trains a planner for a frozen model that
    answers, by that model's gain from the search (outcome), its word on the search (process), and a price of turns and
    queries. Its equations were not read: the sum, a price of turns alone and the weights are filled in. The frozen
    model is outside: the policy answers, and the gain's other side, one number a question, drops out of GRPO. Stand-in,
    rule-based: P is the share of queries not asked before, 1 where there are none. With process=0 this is the bare
    price of methods that ask for fewer turns. The outcome is exact match: groups whose turns differ bear signal on the
    channel "reward", and where all are wrong it speaks for answering at once.
    """
    right_G = np.array([answers.exact_match(episode.answer, query.answers) for episode in episodes])
    turns_G = np.array([episode.model_turns for episode in episodes])
    rational_G = np.array([_unrepeated(episode) for episode in episodes])
    return Scores(right_G + process * rational_G - cost * turns_G, right_G)


def _unrepeated(episode: Episode) -> float:
    asked = [answers.normalise(str(query)) for turn in episode.turns for query in turn.queries]
    return len({*asked}) / len(asked) if asked else 1.0
