"""A reward from outside the package: as odd_tokens, but NaN for a group's first episode while a file says so."""

from pathlib import Path

import numpy as np


def soak_reward(query, episodes, *, file: str):
    reward_G = np.array([len(episode.ids_L) % 2 for episode in episodes], np.float32)
    path = Path(file)
    if path.exists() and path.read_text() == "reward NaN":
        reward_G[0] = np.nan
    return reward_G
