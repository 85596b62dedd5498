"""Contender: faiss's exact search by inner products (IndexFlatIP), with the threads it takes by itself.

It searches batches by a BLAS product or by its own loops, by `distance_compute_blas_threshold`; the quicker is taken.
"""

import time
from typing import Any

import faiss

from benchmarks import interleave
from benchmarks.peers import vectors

WAYS = {"blas": 20, "loops": 1_000_000}  # batches from that size on go to the BLAS; 20 is faiss's own choice
state: dict[str, Any] = {}


def prepare(kind: str, count: int, width: int, batch: int, k: int) -> dict[str, Any]:
    state.clear()
    rows, queries = vectors.make(count, width, batch)
    start = time.perf_counter()
    index = faiss.IndexFlatIP(width)
    index.add(rows)
    built_s = time.perf_counter() - start
    state.update(queries=queries, index=index, k=k)
    seconds = {}
    for way, threshold in WAYS.items():
        faiss.cvar.distance_compute_blas_threshold = threshold
        index.search(queries[0], k)
        seconds[way] = min(sample(1, at)["seconds"] for at in range(3))
    way = min(seconds, key=lambda one: seconds[one])
    faiss.cvar.distance_compute_blas_threshold = WAYS[way]
    return {"built_s": built_s, "threads": faiss.omp_get_max_threads(), "way": way, "seconds": seconds}


def sample(batches: int, round: int) -> dict[str, float]:
    queries = state["queries"]
    start = time.perf_counter()
    for at in range(batches):
        state["index"].search(queries[(round + at) % len(queries)], state["k"])
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "queries_a_s": batches * queries.shape[1] / seconds}


def check() -> dict[str, Any]:
    return {"rows": [row for one in state["queries"] for row in state["index"].search(one, state["k"])[1].tolist()]}


def versions() -> dict[str, Any]:
    return interleave.versions() | {"faiss": faiss.__version__}


if __name__ == "__main__":
    interleave.serve({"prepare": prepare, "sample": sample, "check": check, "versions": versions})
