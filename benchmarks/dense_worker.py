"""Contender: exact search among vectors, ours or numpy's."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import interleave
from benchmarks.peers import vectors
from qr_jax.search import dense_index, nearest

STORAGE = {"ours": "float32", "ours_bfloat16": "bfloat16", "ours_int8": "int8"}
state: dict[str, Any] = {}


def prepare(kind: str, count: int, width: int, batch: int, k: int) -> dict[str, Any]:
    """Make the vectors, lay them out, and ask once, so that what compiles is compiled."""
    state.clear()
    rows, queries = vectors.make(count, width, batch)
    start = time.perf_counter()
    state.update(queries=queries, search=by_numpy(rows, k) if kind == "numpy" else by_us(rows, k, STORAGE[kind]))
    state["search"](queries[0])
    return {"built_s": time.perf_counter() - start}


def by_us(vector_PD: np.ndarray, k: int, storage: Any) -> Callable[[np.ndarray], np.ndarray]:
    kept = dense_index.in_memory(len(vector_PD), storage, lambda start, stop: vector_PD[start:stop])
    rows = nearest.lay_out(kept.read, len(vector_PD), jax.local_devices()[:1])
    return lambda query_BD: nearest.nearest(rows, query_BD, k)[1]


def by_numpy(vector_PD: np.ndarray, k: int) -> Callable[[np.ndarray], np.ndarray]:
    def search(query_BD: np.ndarray) -> np.ndarray:
        score_BP = query_BD @ vector_PD.T
        some_BK = np.argpartition(score_BP, -k, axis=1)[:, -k:]
        order_BK = np.argsort(-np.take_along_axis(score_BP, some_BK, 1), axis=1)
        return np.take_along_axis(some_BK, order_BK, 1)

    return search


def sample(batches: int, round: int) -> dict[str, float]:
    """Seconds of so many batches; others each round."""
    queries = state["queries"]
    start = time.perf_counter()
    for at in range(batches):
        state["search"](queries[(round + at) % len(queries)])
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "queries_a_s": batches * queries.shape[1] / seconds}


def check() -> dict[str, Any]:
    return {"rows": [row for one in state["queries"] for row in state["search"](one).tolist()]}


if __name__ == "__main__":
    interleave.serve({"prepare": prepare, "sample": sample, "check": check, "versions": interleave.versions})
