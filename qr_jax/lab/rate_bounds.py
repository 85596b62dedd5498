"""Distributions of pass rates that counts of right answers allow: the likeliest, and those at the edges.

K samples a query fix K moments of the distribution of pass rates and nothing else. How often an all-wrong query bears
signal at its next draw depends on higher moments, so it is bounded and not known (Lindsay 1995, Mixture Models, ch. 2;
Tebaldi and West 1998 for the same bounds by linear programs).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.optimize import nnls
from scipy.stats import chi2_contingency

RATE_A = np.sin(np.linspace(0, np.pi / 2, 61)) ** 2  # the pass rates a distribution may have, closer at both ends
ROUNDS = 2000  # of expectation-maximisation; each is a product of a few hundred numbers
HALVINGS = 14  # of the interval in which an edge is looked for
HEAVY = 1e3  # weight of a constraint beside the counts' own standard errors
LEVEL = 0.01  # of the test by which two stretches of draws have different distributions

Weights = Float64[np.ndarray, "A"]  # a distribution over RATE_A


def split(right_N: np.ndarray, valid_N: np.ndarray, few: int) -> list[slice]:
    """Cut draws in order into stretches of at least `few`, halved only where the halves' counts differ (chi-square)."""
    half = len(right_N) // 2
    if half < few:
        return [slice(0, len(right_N))]
    first, second = (split(right_N[part], valid_N[part], few) for part in (slice(half), slice(half, None)))
    if len(first) == len(second) == 1 and not _differ(right_N, valid_N, half):
        return [slice(0, len(right_N))]
    return first + [slice(half + part.start, half + part.stop) for part in second]


def _differ(right_N: np.ndarray, valid_N: np.ndarray, half: int) -> bool:
    cells, cell_N = np.unique(np.stack([right_N, valid_N], axis=1), axis=0, return_inverse=True)
    counts = np.array([np.bincount(part, minlength=len(cells)) for part in np.split(cell_N.reshape(-1), [half])], float)
    tested: Any = chi2_contingency(counts, correction=False)
    return bool(tested.pvalue < LEVEL)


def edges(right_N: np.ndarray, valid_N: np.ndarray, samples: int, slack: float) -> list[Weights]:
    """Return the likeliest distribution, then those at the edges of what the counts allow.

    An edge has the largest or the smallest chance that an all-wrong query is all wrong again in `samples`, that an
    all-right one is all right again, or both together. Allowed: sum over the counts n of n (p / p_likeliest - 1)^2, p
    their probability, is at most `slack`.
    """
    likelihood_CA, count_C = _cells(right_N, valid_N)
    middle_A = _likeliest(likelihood_CA, count_C)
    share_CA = likelihood_CA / (likelihood_CA @ middle_A)[:, None]
    again = [chance_A**2 / (chance_A @ middle_A) for chance_A in filed(samples).values()]
    wishes = [sign * wish_A for wish_A in (*again, again[0] + again[1]) for sign in (1.0, -1.0)]
    return [middle_A, *(_edge(share_CA, count_C, middle_A, wish_A - wish_A.min(), slack) for wish_A in wishes)]


def filed(samples: int) -> dict[str, np.ndarray]:
    """Return the chance [A] at each rate that a group of `samples` is all wrong ("hard"), or all right ("easy")."""
    return {"hard": (1 - RATE_A) ** samples, "easy": RATE_A**samples}


def signal_after(filed_A: np.ndarray, weight_A: Weights, samples: int) -> float | None:
    """Return the chance that a query filed so bears signal in its next group; None where none is filed so."""
    signal_A = 1 - sum(filed(samples).values())
    below = filed_A @ weight_A
    return float((filed_A * signal_A) @ weight_A / below) if below > 0 else None


def quantile(weight_A: Weights, share_N: np.ndarray) -> Float64[np.ndarray, "N"]:
    """Return the pass rates below which these shares of the distribution lie."""
    at_N = np.searchsorted(np.cumsum(weight_A), share_N)
    return RATE_A[np.minimum(at_N, len(RATE_A) - 1)]


def mixed(weights: Sequence[Weights], share_M: np.ndarray) -> Weights:
    """Return a mixture of allowed distributions, which is allowed too; the shares are scaled to sum to 1."""
    return share_M @ np.array(weights) / share_M.sum()


def _cells(right_N: np.ndarray, valid_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the likelihood [C, A] of each (right, valid) at each rate, and how often each was counted [C]."""
    cells, count_C = np.unique(np.stack([right_N, valid_N], axis=1), axis=0, return_counts=True)
    right_C, valid_C = cells.T
    return RATE_A ** right_C[:, None] * (1 - RATE_A) ** (valid_C - right_C)[:, None], count_C


def _likeliest(likelihood_CA: np.ndarray, count_C: np.ndarray) -> Weights:
    """Return the distribution under which the counts are likeliest (Laird 1978), by expectation-maximisation."""
    weight_A = np.full(len(RATE_A), 1 / len(RATE_A))
    for _ in range(ROUNDS):
        weight_A = weight_A * (count_C / (likelihood_CA @ weight_A) @ likelihood_CA) / count_C.sum()
    return weight_A


def _edge(share_CA: np.ndarray, count_C: np.ndarray, middle_A: Weights, wish_A: np.ndarray, slack: float) -> Weights:
    """Find the allowed weights with the largest mean of `wish_A`, by halving and non-negative least squares."""
    root_C = np.sqrt(count_C)
    rows, heavy = share_CA * root_C[:, None], HEAVY * np.sqrt(count_C.sum())
    low, high, best_A = float(wish_A @ middle_A), float(wish_A.max()), middle_A
    for _ in range(HALVINGS):
        wanted = (low + high) / 2
        matrix = np.vstack([rows, np.full(len(RATE_A), heavy), heavy * wish_A])
        weight_A, _ = nnls(matrix, np.concatenate([root_C, [heavy, heavy * wanted]]), maxiter=100 * len(RATE_A))
        weight_A = weight_A / weight_A.sum()
        if ((rows @ weight_A - root_C) ** 2).sum() <= slack and wish_A @ weight_A >= low:
            low, best_A = wanted, weight_A
        else:
            high = wanted
    return best_A
