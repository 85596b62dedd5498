"""BM25: queries/s of our retriever beside bm25s alone, over HotpotQA's 36k passages, k = 5, one thread.

    make bench-retrieval
    python -m benchmarks.retrieval --rounds 5 --corpus hotpotqa 2wiki musique wiki18

Ours is the retriever plug-in as the engine is given it; `engine` is the same through the engine's own call
(rollout/tools.py: a thread, a deadline, checked passages). bm25s alone has the same words, stop words and constants:
`bm25s` chooses the best by numpy, as our index is set; `bm25s_jax` by jax, bm25s's own choice where jax is installed;
`bm25s_numba` scores by numba, its fastest way, where numba is installed (we do not ask for it). It gives places and
scores; ours gives passages, and orders equal scores by id. Before a ratio is printed, all must find the same scores.
Needs the real passages (QR_JAX_DATA).
"""

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import interleave

BATCHES = (1, 8, 32, 128)
OURS, ALONE = ("ours", "engine"), ("bm25s", "bm25s_jax")


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    names = (*OURS, *ALONE, *(["bm25s_numba"] if importlib.util.find_spec("numba") else []))
    one_thread = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    contenders = [interleave.Contender(name, "benchmarks.retrieval_worker") for name in names]
    workers = [interleave.Worker(contender, one_thread) for contender in contenders]
    try:
        prepared = {one.name: one.ask("prepare", kind=one.name, corpus=options.corpus, k=options.k) for one in workers}
        figures = measure(options, workers, prepared)
        file = interleave.results("retrieval", figures, workers, folder=options.results)
    finally:
        for worker in workers:
            worker.close()
    if options.json:
        print(json.dumps(json.loads(file.read_text()), indent=1))
    else:
        show(figures)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = interleave.parser(__doc__)
    parser.add_argument("--corpus", nargs="+", default=["hotpotqa"], help="sets of passages, joined (hotpotqa)")
    parser.add_argument("--queries", type=int, default=1024, help="queries of a sample (1,024)")
    parser.add_argument("--k", type=int, default=5, help="passages a query (5)")
    return parser.parse_args(words)


def measure(
    options: argparse.Namespace, workers: Sequence[interleave.Worker], prepared: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Queries/s by batch size; stops the program where two contenders do not find the same scores."""
    same_scores({worker.name: worker.ask("check") for worker in workers})
    batches: dict[str, Any] = {}
    for batch in BATCHES:
        samples = interleave.interleave(workers, options.rounds, {"batch": batch, "queries": options.queries})
        rates = {name: interleave.median(taken, "queries_a_s") for name, taken in samples.items()}
        ratios = {
            name: interleave.ratio(samples["ours"], samples[name], "queries_a_s") for name in samples if name != "ours"
        }
        batches[str(batch)] = {"queries_a_s": rates, "ours_over": ratios, "samples": samples}
    of_32 = batches["32"]
    return {
        "queries_a_s": of_32["queries_a_s"]["ours"], "queries_a_s_bm25s": of_32["queries_a_s"]["bm25s"],
        "ratio_bm25s": of_32["ours_over"]["bm25s"]["ratio"], "passages": prepared["ours"]["passages"],
        "corpus": options.corpus, "k": options.k, "prepared": prepared, "batches": batches,
    }  # fmt: skip


def same_scores(found: dict[str, dict[str, Any]]) -> None:
    """Zero scores, which ours leaves out and bm25s pads with, are left out on both sides."""
    ours = found["ours"]["scores"]
    for name, answer in found.items():
        for at, (mine, theirs) in enumerate(zip(ours, answer["scores"], strict=True)):
            if len(mine) != len(theirs) or not all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(mine, theirs)):
                raise SystemExit(f"{name} finds other scores than ours for query {at}: {theirs}, not {mine}")


def show(figures: dict[str, Any]) -> None:
    names = list(figures["batches"]["1"]["queries_a_s"])
    rows = [[batch, *(round(one["queries_a_s"][name]) for name in names)] for batch, one in figures["batches"].items()]
    print(f"queries/s over {figures['passages']} passages, k = {figures['k']}")
    print(interleave.table(["batch", *names], rows))
    print(f"ratio_bm25s: {figures['ratio_bm25s']:.3g}")


if __name__ == "__main__":
    main(sys.argv[1:])
