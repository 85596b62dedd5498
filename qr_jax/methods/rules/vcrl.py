"""VCRL: queries whose rewards vary most are kept in a bank, from which they fill the places of those that vary less."""

import numpy as np
from jaxtyping import Float64

from qr_jax.methods.rules import _passes
from qr_jax.pool.pool import Pool
from qr_jax.records import Memory, Outcome
from qr_jax.settings.settings import Share

DRAWS = "largest"


def vcrl(
    pool: Pool,
    outcome: Outcome,
    *,
    kappa: Share = 0.3,  # the least share of the largest variance, below which a query leaves the bank
    late: Share = 0.8,  # the same from step late_from on
    late_from: int = 20,  # the first step for which `late` counts
    momentum: Share = 0.9,  # of a query's priority in the bank
) -> tuple[Float64[np.ndarray, "P"], Memory]:
    """Return the next weight_P: 1 + priority for queries to be replayed, 1 for those that this pass has still to visit,
    0 for all others.

    after the abstract: VCRL (Jiang et al. 2025, arXiv:2509.19803): the variance of k right of G over the largest there
    can be, p = k (G - k) / (floor(G/2) ceil(G/2)), is how much a query teaches. One with p of at least `kappa` (`late`
    from step `late_from` on) is in the bank at priority P <- momentum P + (1 - momentum) p, at first p; the others
    leave it. Filled in: these four constants; as many of the bank's first come in the next step as this step had under
    `kappa`, where the paper puts them into the same batch; a group under `kappa` that bears signal is trained on,
    where the paper drops it.
    """
    memory = _passes.begun(pool, priority=np.zeros(pool.size))
    priority_P, drawn = memory["priority"], outcome.drawn_Q[outcome.verdict_Q != "fault"]
    k, size = pool.last_successes_P[drawn], pool.last_valid_P[drawn]
    varies = k * (size - k) / np.maximum(size // 2 * ((size + 1) // 2), 1)
    stays = (varies >= (kappa if outcome.step < late_from else late)) & (varies > 0)
    old = np.where(priority_P[drawn] > 0, priority_P[drawn], varies)
    priority_P[drawn] = np.where(stays, momentum * old + (1 - momentum) * varies, 0.0)
    weight_P = _passes.unvisited(memory, outcome).astype(np.float64)
    bank = np.flatnonzero(priority_P)
    first = bank[np.argsort(-priority_P[bank], kind="stable")][: np.count_nonzero(~stays)]
    weight_P[first] = 1 + priority_P[first]
    return weight_P, memory
