"""Noise for retrievers: whether a query's results are spoilt is a function of the query and a seed alone."""

import hashlib

import numpy as np

from qr_jax.errors import UserError
from qr_jax.pool.noise import uniforms

NOISE = 13  # the first part of the keys of its random numbers


def share(start: float, end: float, done: float) -> float:
    """Return start + (4^done - 1) / 3 (end - start): ZeroSearch's curriculum (arXiv:2505.04588), of which the share
    `done` is over.
    """
    if not (0 <= start <= 1 and 0 <= end <= 1 and 0 <= done <= 1):
        raise UserError(f"start={start}, end={end} and done={done} must all be shares, in [0, 1]")
    return start + (4**done - 1) / 3 * (end - start)


def draws(query: str, count: int, seed: int) -> np.ndarray:
    """Draw `count` numbers in (0, 1), the same whenever the query is asked."""
    folded = int.from_bytes(hashlib.sha256(query.encode("utf-8", "replace")).digest()[:8], "little")
    return uniforms(count, NOISE, seed, folded)
