"""Judge and settle one step's groups in a call, with a rule's function or its name."""

from dataclasses import dataclass

import numpy as np

from qr_jax import plugins
from qr_jax.pool import pool as pools
from qr_jax.pool.pool import judge
from qr_jax.records import grades


@dataclass(frozen=True, eq=False)
class Settled:
    """The pool after a step; the accepted queries, their positions in what was drawn, and the verdicts."""

    pool: pools.Pool
    accepted: np.ndarray
    accepted_at: np.ndarray
    verdict_Q: np.ndarray


def settle(pool, drawn_Q, graded, *, step=0, accept=9, rule="recycle", channel="reward", seed=0) -> Settled:
    outcome = judge(drawn_Q, graded, step=step, accept=accept, channel=channel, seed=seed)
    after = pools.settle(pool, outcome, plugins.find("rule", rule) if isinstance(rule, str) else rule)
    return Settled(after, outcome.accepted, outcome.accepted_at, outcome.verdict_Q)


def settle_rewards(pool, drawn_Q, reward_QG, rule="recycle", valid_QG=None, **settings) -> Settled:
    """Settle rewards, all valid without `valid_QG`."""
    valid_QG = np.ones(np.shape(reward_QG), bool) if valid_QG is None else valid_QG
    return settle(pool, drawn_Q, grades(reward_QG, valid_QG), rule=rule, **settings)
