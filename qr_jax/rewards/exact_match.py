"""Reward: 1 for an answer equal to a gold after SQuAD normalisation."""

from collections.abc import Sequence

import numpy as np

from qr_jax import answers
from qr_jax.records import Episode, Query


def exact_match(query: Query, episodes: Sequence[Episode]) -> np.ndarray:
    """Return the exact match of each answer, float32 [G], 0 or 1. Only `Episode.answer` is read, never a transcript."""
    return np.array([answers.exact_match(episode.answer, query.answers) for episode in episodes], np.float32)
