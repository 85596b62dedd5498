"""GRESO: passes over the pool that skip, by chance, queries whose last passes showed no variance."""

from functools import partial

import numpy as np
from jaxtyping import Float64

from qr_jax.errors import UserError
from qr_jax.methods.rules import _passes
from qr_jax.pool.noise import uniforms
from qr_jax.pool.pool import Pool
from qr_jax.records import Memory, Outcome
from qr_jax.settings.settings import NotNegative, SomeShare

GRESO = 4  # the first part of the keys of its random numbers


def greso(
    pool: Pool,
    outcome: Outcome,
    *,
    target_zero_variance: float = 0.25,  # share of zero-variance groups that is aimed at
    start: float = 0.5,  # first chance of keeping an easy, or a hard, query
    change: NotNegative = 0.01,  # how far that chance moves in a step
    bounds: tuple[float, float] = (0.05, 0.95),  # the least and the largest that it may be
    floor: SomeShare = 0.01,  # least chance of keeping any query
) -> tuple[Float64[np.ndarray, "P"], Memory]:
    """Return the next weight_P: 1 for queries that this pass has still to visit and does not skip, 0 for all others.

    exact: GRESO (Zheng et al. 2025, arXiv:2506.02177; Infini-AI-Lab/GRESO). A query all of whose last z visits were
    easy is kept with probability max(p_easy^z, floor); so for hard ones. After each step but those of the first pass,
    p_easy goes down by `change` when the easy share of the graded groups is at least a third of the target, otherwise
    up; p_hard likewise with two thirds. When no query is left the rule starts the next pass, filtered from its first
    draw: leave `pool.reset_below` at 0, because a reset from outside starts a pass whose first draw is not filtered.

    Deviations: easy and hard are exact, where theirs are a mean reward of .98 and .11 (for groups of 8). A query's coin
    is one number a pass, keyed by (4, seed, pass, query) and held against the p of the moment, so that a query already
    skipped comes back when p rises. The adaptive batch size is not here: the rounds decide how many are drawn.
    """
    if not 0 <= bounds[0] <= start <= bounds[1] <= 1:
        raise UserError(f"bounds={bounds} and start={start}: wanted bounds that grow within [0, 1], start between them")
    streaks = {f"streak_{kind}": np.zeros(pool.size, np.int32) for kind in ("easy", "hard")}
    memory = _passes.begun(pool, **streaks, p_easy=np.full(1, start), p_hard=np.full(1, start))
    verdict_Q, drawn_Q = outcome.verdict_Q, outcome.drawn_Q
    for kind, share in (("easy", 1 / 3), ("hard", 2 / 3)):
        streak_P, ends = memory[f"streak_{kind}"], (verdict_Q != kind) & (verdict_Q != "fault")
        streak_P[drawn_Q[verdict_Q == kind]] += 1
        streak_P[drawn_Q[ends]] = 0
        graded = np.count_nonzero(verdict_Q != "fault")
        if memory["pass"][0] > 0 and graded:
            enough = np.count_nonzero(verdict_Q == kind) / graded >= share * target_zero_variance
            memory[f"p_{kind}"] = np.clip(memory[f"p_{kind}"] + (-change if enough else change), *bounds)
    weight_P = _passes.unvisited(memory, outcome, partial(_kept, memory, outcome.seed, floor)).astype(np.float64)
    return weight_P, memory


def _kept(memory: dict[str, np.ndarray], seed: int, floor: float) -> np.ndarray:
    """Return True for each query that its random number of this pass keeps."""
    keep_P = np.maximum(memory["p_easy"] ** memory["streak_easy"], floor)
    keep_P = keep_P * np.maximum(memory["p_hard"] ** memory["streak_hard"], floor)
    coin_P = uniforms(len(keep_P), GRESO, seed, int(memory["pass"][0]))
    return coin_P < keep_P
