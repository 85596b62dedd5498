"""Reward: another reward less a price on long episodes (DAPO's overlong shaping)."""

from collections.abc import Sequence

import numpy as np

from qr_jax import plugins
from qr_jax.errors import UserError
from qr_jax.records import Episode, Query, Scores
from qr_jax.settings.settings import Use

EXAMPLE = {"of": "exact_match"}


def overlong(
    query: Query,
    episodes: Sequence[Episode],
    *,
    of: Use,  # the reward that is shaped
    most_tokens: int = 20480,  # sampled tokens at which the price is full
    buffer_tokens: int = 4096,  # tokens before that, over which the price grows
    factor: float = 1.0,  # the full price
) -> Scores:
    """Return `of` less factor times how far an episode's sampled tokens have come through the last `buffer_tokens`
    before `most_tokens`: 0 before them, factor at their end and beyond.

    exact: Yu et al. 2025 (arXiv:2503.14476, eq. 13). What is right stays what `of` says: with pool.channel=outcome a
    group of equal answers of different lengths bears no signal. Turn rewards of `of` are lost.
    """
    if not 0 < buffer_tokens <= most_tokens:
        raise UserError(
            f"reward 'overlong' wants 0 < buffer_tokens <= most_tokens; found {buffer_tokens} and {most_tokens}"
        )
    scores = plugins.bind("reward", of)(query, episodes)
    tokens_G = np.array([episode.mask_L.sum() for episode in episodes])
    into_G = np.clip((tokens_G - (most_tokens - buffer_tokens)) / buffer_tokens, 0, 1)
    return Scores(scores.score_G - factor * into_G, scores.outcome_G)
