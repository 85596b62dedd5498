"""BM25: queries/s of our retriever beside bm25s alone, over HotpotQA's 36k passages, k = 5, one thread.

    make bench-retrieval
    python -m benchmarks.retrieval --rounds 5 --corpus hotpotqa 2wiki musique wiki18
    python -m benchmarks.retrieval --passages 1000000 --corpus hotpotqa 2wiki musique wiki18 --scratch /some/disk

Ours is the retriever plug-in as the engine is given it; `engine` is the same through the engine's own call
(rollout/tools.py: a thread, a deadline, checked passages). bm25s alone has the same words, stop words and constants:
`bm25s` chooses the best by numpy, as our index is set; `bm25s_jax` by jax, bm25s's own choice where jax is installed;
`bm25s_numba` scores by numba, its fastest way, where numba is installed (we do not ask for it). It gives places and
scores; ours gives passages, and orders equal scores by id. Before a ratio is printed, all must find the same scores.
With --passages it makes a corpus of so many (words of real ones), builds its index by `qr-jax index` and searches that
from disk, bm25s too: results in retrieval_N.json. Needs the real passages (QR_JAX_DATA).
"""

import argparse
import importlib.util
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import interleave

BATCHES = (1, 8, 32, 64, 128)
LARGE_BATCHES = (1, 8, 32, 64)  # of a corpus on disk
OURS, ALONE = ("ours", "engine"), ("bm25s", "bm25s_jax")


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    numba = ("bm25s_numba",) if importlib.util.find_spec("numba") else ()
    names = ("ours", *ALONE, *numba) if options.passages else (*OURS, *ALONE, *numba)
    one_thread = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    contenders = [interleave.Contender(name, "benchmarks.retrieval_worker") for name in names]
    workers = [interleave.Worker(contender, one_thread) for contender in contenders]

    def figures() -> dict[str, Any]:
        if options.passages:
            built, index = large(options, one_thread)
            do, more, sizes = "open_index", {"index": str(index), "k": options.k}, LARGE_BATCHES
        else:
            built, do, more, sizes = None, "prepare", {"corpus": options.corpus, "k": options.k}, BATCHES
        prepared = {one.name: one.ask(do, kind=one.name, **more) for one in workers}
        found = measure(options, workers, prepared, sizes) | ({"index": built} if built else {})
        return found | {"peak_bytes": {one.name: one.ask("memory")["peak_bytes"] for one in workers}}

    name = f"retrieval_{options.passages}" if options.passages else "retrieval"
    interleave.run(name, options, workers, figures, show)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = interleave.parser(__doc__, peers=False)
    parser.add_argument("--corpus", nargs="+", default=["hotpotqa"], help="sets of passages, joined (hotpotqa)")
    parser.add_argument("--queries", type=int, default=1024, help="queries of a sample (1,024)")
    parser.add_argument("--k", type=int, default=5, help="passages a query (5)")
    parser.add_argument("--passages", type=int, help="search a made corpus of so many passages, from disk")
    parser.add_argument("--scratch", type=Path, default=Path("runs/scratch"), help="where that lies (runs/scratch)")
    return parser.parse_args(words)


def large(options: argparse.Namespace, one_thread: dict[str, str]) -> tuple[dict[str, Any], Path]:
    """Make the corpus where it is not there yet, and index it anew in a process of its own."""
    options.scratch.mkdir(parents=True, exist_ok=True)
    corpus, index = (options.scratch.resolve() / f"{options.passages}{end}" for end in (".jsonl", ".index"))
    if index.exists():
        shutil.rmtree(index)
    if not corpus.exists():
        alone(one_thread, "make", corpus=options.corpus, passages=options.passages, out=str(corpus))
    built = alone(one_thread, "build", corpus=str(corpus), out=str(index))
    return built | {"corpus_bytes": corpus.stat().st_size}, index


def alone(environment: dict[str, str], do: str, **arguments: Any) -> dict[str, Any]:
    """The answer of a worker that does this and nothing else."""
    worker = interleave.Worker(interleave.Contender(do, "benchmarks.retrieval_worker"), environment)
    try:
        return worker.ask(do, **arguments)
    finally:
        worker.close()


def measure(
    options: argparse.Namespace,
    workers: Sequence[interleave.Worker],
    prepared: dict[str, dict[str, Any]],
    sizes: Sequence[int],
) -> dict[str, Any]:
    """Queries/s by batch size; stops the program where two contenders do not find the same scores."""
    same_scores({worker.name: worker.ask("check") for worker in workers})
    batches: dict[str, Any] = {}
    for batch in sizes:
        samples = interleave.interleave(workers, options.rounds, {"batch": batch, "queries": options.queries})
        rates = {name: interleave.median(taken, "queries_a_s") for name, taken in samples.items()}
        ratios = {
            name: interleave.ratio(samples["ours"], samples[name], "queries_a_s") for name in samples if name != "ours"
        }
        batches[str(batch)] = {"queries_a_s": rates, "ours_over": ratios, "samples": samples}
    of_32 = batches["32"]
    usual = "bm25s_jax" if "bm25s_jax" in of_32["ours_over"] else "bm25s"  # what bm25s does of itself beside jax
    return {
        "queries_a_s": of_32["queries_a_s"]["ours"], "queries_a_s_bm25s": of_32["queries_a_s"][usual],
        "ratio_bm25s": of_32["ours_over"][usual]["ratio"], "passages": prepared["ours"]["passages"],
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
    costs = [
        [what, *(f"{figures['prepared'][name][key]:.2f}" for name in names)]
        for what, key in (("read and indexed, or opened, s", "built_s"), ("first 8 queries, s", "first_s"))
    ]
    costs.append(["peak memory, GB", *(f"{figures['peak_bytes'][name] / 1e9:.2f}" for name in names)])
    print(interleave.table(["", *names], costs))
    print(f"ratio_bm25s: {figures['ratio_bm25s']:.3g}")
    if "index" in figures:
        built, gb = figures["index"], 1e9
        print(
            f"index built in {built['built_s']:.0f} s at a peak of {built['peak_bytes'] / gb:.2f} GB of memory "
            f"(estimated {built['estimate']['memory_bytes'] / gb:.2f}); it has {built['index_bytes'] / gb:.2f} GB, "
            f"of a corpus of {built['corpus_bytes'] / gb:.2f} GB"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
