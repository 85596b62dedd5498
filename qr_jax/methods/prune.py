"""Pruning: episodes that teach little are left out of an update at random, and the others are weighted to match."""

import numpy as np
from jaxtyping import Float32

from qr_jax.pool.noise import uniforms
from qr_jax.records import Grades

PRUNE = 17  # the first part of a key of `uniforms`


def weights(grades: Grades, chance: float, seed: int, step: int) -> Float32[np.ndarray, "Q G"]:
    """Return each episode's weight: 0 by `chance`, else 1 / (1 - chance), if it is near its group's mean; else 1.

    It is near if |reward - group mean| is under that distance's mean over the batch. Invalid episodes, which train
    nothing, have 1. The mean over all draws is 1 for every episode (Horvitz and Thompson 1952), and pruned ones stay in
    the group's statistics and in the denominators, so that the expected gradient is that of the whole batch.

    after the abstract: dynamic pruning (Zhu et al. 2026, arXiv:2603.04135) leaves out prompts and completions by chance
    and divides by the chance to stay. The definition of "near" is filled in here; its pruning of prompts before
    rollouts and its packing are not built (pool rules draw queries; pack.py packs). An advantage that reads tokens
    (mask_NL and the like) sees only what was kept.
    """
    valid_QG, reward_QG = grades.valid_QG, np.asarray(grades.reward_QG, np.float64)
    count_Q1 = np.maximum(valid_QG.sum(axis=1, keepdims=True), 1)
    distance_QG = np.where(valid_QG, np.abs(reward_QG - reward_QG.sum(axis=1, keepdims=True) / count_Q1), 0.0)
    mean = distance_QG.sum() / max(int(valid_QG.sum()), 1)
    small_QG = valid_QG & (distance_QG < mean * (1 - 1e-9))  # equal distances are not small by rounding
    stays_QG = uniforms(reward_QG.size, PRUNE, seed, step).reshape(reward_QG.shape) >= chance
    return np.where(small_QG, stays_QG / (1 - chance), 1.0).astype(np.float32)
