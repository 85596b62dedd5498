"""Plug-ins from outside the package that a run refuses: a loss and an advantage without numbers, undeclared turns."""

import jax
import jax.numpy as jnp
import numpy as np

from qr_jax.records import Scores


def nan_loss(logp_NL):
    return logp_NL * float("nan"), {}


def nan_once_it_moved(logp_NL, ref_logp_NL, adv_NL):
    moved_NL = jnp.abs(jax.lax.stop_gradient(logp_NL) - ref_logp_NL) > 1e-3
    return -adv_NL * logp_NL * jnp.where(moved_NL, jnp.nan, 1.0), {}


def lost(grades):
    return jnp.full(grades.reward_QG.shape, jnp.nan)


def by_turn_undeclared(query, episodes):
    odd_G = np.array([len(episode.ids_L) % 2 for episode in episodes], float)
    return Scores(odd_G, odd_G, [np.zeros(episode.model_turns) for episode in episodes])


def scalar_loss(logp_NL):
    return logp_NL.mean(), {}


def of_queries(grades):
    return grades.reward_QG.mean(axis=1)


def weights_alone(pool, outcome):
    return pool.weight_P


def a_number(pool, so_far):
    return 3


def empty_handed():
    return lambda queries, k: []
