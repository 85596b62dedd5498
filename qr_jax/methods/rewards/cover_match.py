"""Reward: 1 for an answer that contains a gold.

Stricter than the figure of that name (`answers.cover_match`, Search-R1's), which takes any substring: a policy would
learn that "1982" is right where the gold is "2". Here a gold counts where it stands in the answer word for word and
proves something (`answers.first_in`); yes, no, function words and single characters must be the whole answer.
"""

from collections.abc import Sequence

import numpy as np

from qr_jax import answers
from qr_jax.records import Episode, Query


def cover_match(query: Query, episodes: Sequence[Episode]) -> np.ndarray:
    """Return 1 for each episode whose answer contains a gold, else 0: float32 [G].

    own: stricter than Search-R1's figure of that name (above). Only `Episode.answer` is read, never a transcript.
    """
    given = [episode.answer or "" for episode in episodes]
    is_right = [
        answers.exact_match(answer, query.answers) or answers.first_in(answer, query.answers) for answer in given
    ]
    return np.array(list(map(bool, is_right)), np.float32)
