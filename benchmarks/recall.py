"""Recall and all-gold at k (5) of bm25, dense and hybrid over all questions of the seven sets and their corpora.

    make minilm && python -m benchmarks.recall                  # a table, and benchmarks/results/recall.json
    python -m benchmarks.recall --sets hotpotqa musique --retrievers bm25

It is `qr-jax recall` of every set and retriever, a question as it stands the query. Vectors (MiniLM's) are kept in
`--indexes`, so that what was stopped goes on; 89,251 passages take 20 to 45 minutes on two cores. The gold
of nq, triviaqa, popqa and bamboogle is weak: passages in which an answer stands. The file is written after each figure.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks import interleave
from qr_jax.lab import suite
from qr_jax.parallel import compile_cache
from qr_jax.search.recall import recall
from qr_jax.settings.settings import Use, use

SETS = suite.sets("qa7")
RETRIEVERS = ("bm25", "dense", "hybrid")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="NAME", help=", ".join(SETS))
    parser.add_argument("--retrievers", nargs="+", choices=RETRIEVERS, default=list(RETRIEVERS), metavar="NAME")
    parser.add_argument("--k", type=int, default=5, help="passages a question (5)")
    parser.add_argument("--indexes", type=Path, default=Path("runs/indexes"), help="folder of vectors (runs/indexes)")
    parser.add_argument("--results", type=Path, default=None, help="folder for the JSON (benchmarks/results)")
    options = parser.parse_args(words)
    compile_cache.enable()
    file = (options.results or interleave.ROOT / "benchmarks/results") / "recall.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(file.read_text()) if file.exists() else {}
    if other := {found["k"] for by in kept.values() for found in by.values()} - {options.k}:
        raise SystemExit(f"{file} has figures at k={other}, and {options.k} was asked for: name another --results")
    for name in options.sets:
        for retriever in options.retrievers:
            corpus = SETS[name]
            chosen = retrievers(options.indexes / f"{corpus}.minilm")[retriever]
            found = recall(suite.corpus_file(corpus), suite.QUESTIONS % name, chosen, k=options.k)
            about = {**interleave.commit(), "machine": interleave.machine(), "packages": interleave.versions()}
            kept.setdefault(name, {})[retriever] = found | about
            ordered = {each: {r: kept[each][r] for r in RETRIEVERS if r in kept[each]} for each in SETS if each in kept}
            file.write_text(json.dumps(ordered, indent=1) + "\n")
            print(f"{name} {retriever}: recall {found['recall']:.3f}, all gold {found['all_gold']:.3f}", flush=True)
    print(f"written to {file}")


def retrievers(vectors: Path) -> dict[str, Use]:
    """The three, MiniLM's vectors in one folder for both that use them."""
    dense = use("dense", index=str(vectors))
    return {"bm25": use("bm25"), "dense": dense, "hybrid": use("hybrid", parts=(use("bm25"), dense))}


if __name__ == "__main__":
    main()
