"""What a fork writes: rounds that ask for more, a reward a turn, an advantage that asks for everything."""

import jax.numpy as jnp
import numpy as np

from qr_jax.records import Ask, Scores

MAX_GROUP_SIZE = 6
MAX_TURNS = 4
GRADED: list[tuple[str, tuple[int, ...]]] = []  # each call of a reward: its query, and the samples of the group


def undecided(pool, so_far, *, queries, samples):
    """Draw once; then two more samples of each group whose rewards are all equal, once."""
    if not so_far:
        return Ask(queries)
    dead = so_far[0].drawn_Q[so_far[0].verdict_Q != "signal"]
    return Ask(0, dict.fromkeys(dead.tolist(), 2)) if len(so_far) == 1 and len(dead) else None


def by_turn(query, episodes):
    """1 for an episode of an odd number of tokens; of each turn, its share of the episode's turns."""
    GRADED.append((query.id, tuple(episode.sample for episode in episodes)))
    turns = [int(episode.turn_L.max(initial=-1)) + 1 for episode in episodes]
    odd_G = np.array([len(episode.ids_L) % 2 for episode in episodes], float)
    return Scores(odd_G, odd_G, [np.full(count, 1 / max(count, 1)) for count in turns])


def everything(grades, entropy_NL, gold_logp_NT, mask_NL, turn_NL):
    """A centred reward a token, weighed by entropy; gold and turn rewards enter with weight 1e-3."""
    mean_Q1 = (grades.reward_QG * grades.valid_QG).sum(1, keepdims=True) / jnp.maximum(grades.valid_QG.sum(1), 1)[
        :, None
    ]
    adv_N = jnp.where(grades.valid_QG, grades.reward_QG - mean_Q1, 0).reshape(-1)
    at_NL = jnp.clip(turn_NL, 0, gold_logp_NT.shape[1] - 1)
    gold_NL = jnp.take_along_axis(gold_logp_NT, at_NL, axis=1)
    turn_NT = jnp.where(grades.turn_valid_QGT, grades.turn_reward_QGT, 0).reshape(len(adv_N), -1)
    turn_NL = jnp.take_along_axis(turn_NT, jnp.clip(turn_NL, 0, turn_NT.shape[1] - 1), axis=1)
    return jnp.where(mask_NL, adv_N[:, None] * (1 + entropy_NL) + 1e-3 * (gold_NL + turn_NL), 0.0)


def sometimes_lost(query, episodes):
    """No number for the first sample."""
    return np.array([np.nan if episode.sample == 0 else len(episode.ids_L) % 2 for episode in episodes])


def always_lost(query, episodes):
    return np.full(len(episodes), np.nan)


def of_one(query, episodes):
    return np.ones(1)
