"""The quickstart's task trained by DAPO: a step draws until 32 groups bear signal; all drawn queries leave the pool.

    qr-jax train configs/dapo.py                     # as the quickstart, fewer steps: a step costs up to 10 rounds
    qr-jax train configs/dapo.py pool.rounds.max_rounds=1    # bounded: one round a step

Yu et al. 2025, arXiv:2503.14476: dynamic sampling (`rounds=refill` with the rule `bounded_dapo`), clip-higher, a mean
over tokens, no KL term. Deviations: no overlong shaping, because no answer here is long; at the cap of rounds the step
trains on what it has, where DAPO raises an error. Compare this config with others by rollouts, not by steps.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from qr_jax.config import use

quickstart = runpy.run_path(str(Path(__file__).with_name("quickstart.py")))["config"]

config = replace(
    quickstart,
    pool=replace(quickstart.pool, queries=32, samples=8, rule=use("bounded_dapo"), rounds=use("refill", max_rounds=10)),
    learner=replace(quickstart.learner, lr=7e-4, loss=use("clip", low=0.2, high=0.28), reduce="token_mean"),
    train=replace(quickstart.train, steps=40),
)
