"""A run that every recycling rule can be put through, whose draws two implementations of the rule must agree on.

60 queries in 3 families; before each of 200 steps a reset below a tenth eligible; 16 drawn, K = 4, 8 accepted, seed 3.
Query q is right with probability clip((q + 1/2) / 60 + 0.3 sin(t / 30), 0, 1) at step t, by numbers keyed (91, 3, t);
at every fifth step query 7 is a fault.
"""

import numpy as np
from settling import settle as settled_step

from qr_jax import plugins
from qr_jax.interfaces import EXAMPLE
from qr_jax.pool import pool as pools
from qr_jax.pool.noise import uniforms
from qr_jax.records import grades
from qr_jax.settings.settings import Use

SIZE, STEPS, SEED, SAMPLES = 60, 200, 3, 4


def outcomes(drawn_Q, step):
    """Binary rewards of the drawn queries, all of query 7 invalid at every fifth step."""
    rate_P = np.clip((np.arange(SIZE) + 0.5) / SIZE + 0.3 * np.sin(step / 30), 0, 1)
    right_PG = uniforms(SIZE * SAMPLES, 91, SEED, step).reshape(SIZE, SAMPLES) < rate_P[:, None]
    valid_PG = np.ones((SIZE, SAMPLES), bool)
    valid_PG[7] = step % 5 != 0
    return grades(right_PG[drawn_Q], valid_PG[drawn_Q])


def draws(rule, by="chance", steps=STEPS):
    """The drawn ids of each step."""
    if isinstance(rule, str):
        rule = plugins.bind("rule", Use(rule, plugins.constants("rule", rule).get(EXAMPLE, {})))
    pool, history = pools.create(SIZE, np.arange(SIZE) % 3), []
    for step in range(steps):
        pool = pools.refresh(pool, below=0.1)
        drawn_Q = pools.draw(pool, 16, seed=SEED, step=step, by=by)
        history.append(drawn_Q.tolist())
        graded = outcomes(drawn_Q, step)
        pool = settled_step(pool, drawn_Q, graded, step=step, accept=8, rule=rule, seed=SEED).pool
    return history
