"""Foresee: weigh a query by the chance that its next group bears signal; easy and often trained queries weigh less."""

import numpy as np
from jaxtyping import Float64

from qr_jax.errors import UserError
from qr_jax.pool.pool import Pool
from qr_jax.records import Memory, Outcome

READS_KINDS = True
SMALLEST = 1e-300  # least evidence of a family, so that no ratio becomes 0 / 0


def foresee(
    pool: Pool,
    outcome: Outcome,
    *,
    gamma: float = 1.0,  # exponent of the chance of signal; 0: it is ignored
    head: float = 1.0,  # exponent of the room to improve (1 - pass rate): harder queries are drawn more often
    rho: float = 0.6,  # factor for each time a query was trained on since the last reset
    nu: float = 2.0,  # weight in episodes of the mean pass rate of a query's family (dataset, kind, type, hops)
    floor: float = 0.02,  # smaller chances of signal count as this
    fade: float = 0.97,  # factor of a query's evidence after each step
    fade_family: float = 0.98,  # factor of a family's evidence after each step
    fade_drawn: float = 0.3,  # factor of a query's evidence when it is drawn again
) -> tuple[Float64[np.ndarray, "P"], Memory]:
    """Return the next weight_P, from each query's chance of a signal group, room to improve and times trained on.

    Our own rule, opt-in. A query's pass rate has the posterior Beta(A, B): A = a + nu m, B = b + nu (1 - m). Here a and
    b (0 at first) are its own evidence for right and for wrong answers, and m = fa / (fa + fb), with fa and fb 1 at
    first, is the mean of its family: `pool.family_P`, queries alike in dataset, kind, type and hops; one family where
    there is none. A group of the step's K samples per query bears signal with the chance
    P = 1 - prod_{i<K} (A + i)/(A + B + i) - prod_{i<K} (B + i)/(A + B + i), and the weight is
    max(P, floor)^gamma (B / (A + B))^head rho^n, n being how often the query was trained on since the last reset.

    After a step a and b are multiplied by `fade`, fa and fb by `fade_family`; then a drawn query, s of its k valid
    episodes right, adds 2 s/k to its family's fa and 2 (k - s)/k to its fb, and has a <- fade_drawn a + s,
    b <- fade_drawn b + k - s. A fault teaches nothing. With gamma = head = rho = floor = 0 it is `recycle`.
    """
    if not (
        nu > 0
        and min(gamma, head, floor) >= 0
        and all(0 <= factor <= 1 for factor in (rho, fade, fade_family, fade_drawn))
    ):
        given = f"gamma={gamma}, head={head}, nu={nu}, floor={floor}, rho={rho}, fade={fade}, "
        given += f"fade_family={fade_family}, fade_drawn={fade_drawn}"
        raise UserError(f"foresee: found {given}; wanted nu above 0, rho and the fades in [0, 1], the others 0 or more")
    family_P = np.zeros(pool.size, np.int64) if pool.family_P is None else pool.family_P
    if family_P.min() < 0 or family_P.max() >= pool.size:
        raise UserError(f"families go from {family_P.min()} to {family_P.max()}; wanted 0 to {pool.size - 1} at most")
    memory = _learned(pool, outcome, family_P, fade, fade_family, fade_drawn)
    mean_F = memory["family_a"] / (memory["family_a"] + memory["family_b"])
    A_P = memory["a"] + nu * mean_F[family_P]
    B_P = memory["b"] + nu * (1 - mean_F[family_P])
    right_P, wrong_P = np.ones(pool.size), np.ones(pool.size)
    for i in range(outcome.grades.valid_QG.shape[1]):
        right_P *= (A_P + i) / (A_P + B_P + i)
        wrong_P *= (B_P + i) / (A_P + B_P + i)
    signal_P = np.maximum(1 - right_P - wrong_P, floor)
    return signal_P**gamma * (B_P / (A_P + B_P)) ** head * rho ** memory["trained"], memory


def _learned(
    pool: Pool, outcome: Outcome, family_P: np.ndarray, fade: float, fade_family: float, fade_drawn: float
) -> dict[str, np.ndarray]:
    """Return the memory after this step: evidence per query and per family, and how often each query was trained on."""
    families = int(family_P.max()) + 1
    old = pool.memory or {
        "a": np.zeros(pool.size),
        "b": np.zeros(pool.size),
        "family_a": np.ones(families),
        "family_b": np.ones(families),
        "trained": np.zeros(pool.size, np.int64),
        "epoch": np.full(1, pool.epoch),
    }
    a_P, b_P = old["a"] * fade, old["b"] * fade
    drawn = outcome.drawn_Q[outcome.verdict_Q != "fault"]
    s, k = pool.last_successes_P[drawn], pool.last_valid_P[drawn]
    a_P[drawn] = fade_drawn * a_P[drawn] + s
    b_P[drawn] = fade_drawn * b_P[drawn] + (k - s)
    trained_P = old["trained"].copy() if old["epoch"][0] == pool.epoch else np.zeros_like(old["trained"])
    trained_P[outcome.accepted] += 1
    added = {"family_a": 2 * s / k, "family_b": 2 * (k - s) / k}
    families_F = {
        name: np.maximum(old[name] * fade_family, SMALLEST) + np.bincount(family_P[drawn], count_Q, families)
        for name, count_Q in added.items()
    }
    return {"a": a_P, "b": b_P, **families_F, "trained": trained_P, "epoch": np.full(1, pool.epoch)}
