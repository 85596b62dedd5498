"""Passes over the pool, for rules that visit every query once before any comes again by itself."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool

from qr_jax.pool.pool import Pool
from qr_jax.records import Memory, Outcome


def begun(pool: Pool, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rule's memory, as writable copies; for a pool without memory, `arrays` and no visits.

    A reset of the pool from outside begins a pass.
    """
    memory = {name: array.copy() for name, array in pool.memory.items()} or arrays | {
        "visited": np.zeros(pool.size, np.bool_), "pass": np.zeros(1, np.int64), "epoch": np.full(1, pool.epoch)
    }  # fmt: skip
    if pool.epoch > memory["epoch"][0]:
        memory["epoch"][0] = pool.epoch
        _next(memory)
    return memory


def unvisited(
    memory: Memory, outcome: Outcome, among: Callable[[], Bool[np.ndarray, "P"]] | None = None
) -> Bool[np.ndarray, "P"]:
    """Mark the graded queries as visited; return those that this pass has still to visit.

    `among` says which a pass visits (None: all). If none is left, the next pass begins, and `among` is asked again: a
    pass may draw random numbers of its own. Writes to the memory of `begun`.
    """
    memory["visited"][outcome.drawn_Q[outcome.verdict_Q != "fault"]] = True
    left_P = ~memory["visited"] & (among() if among else True)
    if not left_P.any():
        _next(memory)
        left_P = ~memory["visited"] & (among() if among else True)
    return left_P


def _next(memory: Memory) -> None:
    memory["visited"][:] = False
    memory["pass"][0] += 1
