"""A reward from outside the package: 1 for an episode of an odd number of tokens, so that any policy bears signal."""

import numpy as np


def odd_tokens(query, episodes):
    return np.array([len(episode.ids_L) % 2 for episode in episodes], np.float32)
