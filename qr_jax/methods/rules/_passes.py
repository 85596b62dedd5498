"""Passes over the pool, for rules that visit every query once before any comes again by itself."""

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


def unvisited(memory: Memory, outcome: Outcome, among_P: Bool[np.ndarray, "P"]) -> Bool[np.ndarray, "P"]:
    """Mark the graded queries as visited; return those of `among_P` that this pass has still to visit.

    If none is left, the next pass begins. Writes to the memory of `begun`.
    """
    memory["visited"][outcome.drawn_Q[outcome.verdict_Q != "fault"]] = True
    if not (among_P & ~memory["visited"]).any():
        _next(memory)
    return among_P & ~memory["visited"]


def _next(memory: Memory) -> None:
    memory["visited"][:] = False
    memory["pass"][0] += 1
