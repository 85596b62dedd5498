"""Exact search among vectors: queries/s of ours beside numpy and faiss, top 5, batches of 32, all cores of the machine.

    make bench-dense
    python -m benchmarks.dense --rounds 5 --passages 36000 1000000

The vectors are random, of 384 numbers and length 1 (MiniLM's), the same for all; encoding a query is in no figure.
`ours` is what `retriever=dense` searches with (search/nearest.py) on one device; `ours_bfloat16` and `ours_int8`
are the same over smaller numbers; `numpy` is a matrix product and argpartition, `faiss` its IndexFlatIP in the peers'
Python. Before a ratio is printed, those that are exact must find the same rows; of the others the share they find is
printed.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import interleave

OURS = ("ours", "ours_bfloat16", "ours_int8")
EXACT = ("ours", "numpy", "faiss")
WORKER = "benchmarks.dense_worker"


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    contenders = [interleave.Contender(name, WORKER) for name in (*OURS, "numpy")]
    contenders += [] if options.no_peers else [interleave.peer("faiss", "benchmarks.peers.faiss_search")]
    workers = [interleave.Worker(contender) for contender in contenders]

    def figures() -> dict[str, Any]:
        of_counts = {str(count): measure(options, workers, count) for count in options.passages}
        return of_counts | {"k": options.k, "batch": options.batch, "width": options.width}

    interleave.run("dense", options, workers, figures, lambda found: show(found, options.passages))


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = interleave.parser(__doc__)
    parser.add_argument(
        "--passages", nargs="+", type=int, default=[36_000, 1_000_000], help="vectors (36,000 1,000,000)"
    )
    parser.add_argument("--width", type=int, default=384, help="numbers of a vector (384)")
    parser.add_argument("--batches", type=int, default=8, help="batches of a sample (8)")
    parser.add_argument("--batch", type=int, default=32, help="queries of a batch (32)")
    parser.add_argument("--k", type=int, default=5, help="vectors a query (5)")
    return parser.parse_args(words)


def measure(options: argparse.Namespace, workers: Sequence[interleave.Worker], count: int) -> dict[str, Any]:
    """Queries/s of all; stops the program where exact contenders do not find the same rows."""
    load = {"count": count, "width": options.width, "batch": options.batch, "k": options.k}
    prepared = {worker.name: worker.ask("prepare", kind=worker.name, **load) for worker in workers}
    found = {worker.name: worker.ask("check")["rows"] for worker in workers}
    recall = {name: share(rows, found["ours"]) for name, rows in found.items()}
    for name in EXACT:
        if recall.get(name, 1.0) < 1.0:
            raise SystemExit(f"{name} and ours differ in {1 - recall[name]:.2%} of the rows among {count} vectors")
    samples = interleave.interleave(workers, options.rounds, {"batches": options.batches})
    return {
        "queries_a_s": {name: interleave.median(taken, "queries_a_s") for name, taken in samples.items()},
        "ours_over": {
            name: interleave.ratio(samples["ours"], taken, "queries_a_s")
            for name, taken in samples.items()
            if name != "ours"
        },
        "recall": recall, "prepared": prepared, "samples": samples,
    }  # fmt: skip


def share(rows: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]) -> float:
    """Of the rows wanted, how many are found."""
    both = sum(len(set(one) & set(other)) for one, other in zip(rows, wanted, strict=True))
    return both / sum(map(len, wanted))


def show(figures: dict[str, Any], counts: Sequence[int]) -> None:
    names = list(figures[str(counts[0])]["queries_a_s"])
    print(f"queries/s, top {figures['k']}, batches of {figures['batch']}, vectors of {figures['width']}")
    rows: list[list[Any]] = []
    for count in counts:
        of = figures[str(count)]
        rows.append([f"{count:,}", *(of["queries_a_s"][name] for name in names)])
        rows.append(["  ours over it", *(of["ours_over"].get(name, {"ratio": 1.0})["ratio"] for name in names)])
        rows.append(["  recall", *(of["recall"][name] for name in names)])
    print(interleave.table(["vectors", *names], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
