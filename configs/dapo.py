"""The quickstart's task trained by DAPO: draw again until 32 groups bear signal, train on them, use up what was drawn.

    qr-jax train configs/dapo.py                     # as the quickstart, fewer steps: a step costs up to 10 rounds
    qr-jax train configs/dapo.py pool.rounds.max_rounds=1    # bounded: one round a step

Yu et al. 2025, arXiv:2503.14476: dynamic sampling (`rounds=refill` with the rule `bounded_dapo`), clip-higher, a mean
over tokens, no KL term. Not its overlong shaping: no answer here is long. The cap never raises. Compare it with other
configs by rollouts, not by steps.
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
