"""The vectors and queries that all contenders of benchmarks/dense.py search, from a seed."""

import numpy as np

BATCHES = 4  # different batches of queries, taken in turn


def make(count: int, width: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Float32 [count, width] and [BATCHES, batch, width], of length 1."""
    rng = np.random.default_rng(0)
    return _unit(rng, (count, width)), _unit(rng, (BATCHES, batch, width))


def _unit(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    found = rng.standard_normal(shape, np.float32)
    found /= np.linalg.norm(found, axis=-1, keepdims=True)
    return found
