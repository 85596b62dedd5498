"""Reward: word-overlap F1 with the nearest gold."""

from collections.abc import Sequence

import numpy as np

from qr_jax import answers
from qr_jax.records import Episode, Query


def f1(query: Query, episodes: Sequence[Episode]) -> np.ndarray:
    """Return the F1 of each answer, float32 [G] in [0, 1]. Only `Episode.answer` is read, never a transcript."""
    return np.array([answers.f1(episode.answer, query.answers) for episode in episodes], np.float32)
