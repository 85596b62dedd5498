"""Wikipedia's 21 million passages, planned from measured rates over 1, 4 and 16 processes, and a corpus really cut.

    make minilm && python -m benchmarks.shards      # 5 minutes on 2 cores, and benchmarks/results/shards.json

Rates come from results/retrieval_1000000.json (BM25 over a million passages) and results/dense.json (a million random
vectors); how many passages MiniLM embeds a second is measured here. What is really cut is HotpotQA's corpus: dealt over
4 servers (`qr-jax serve-retriever`) on this machine, which `retriever=sharded` asks, beside one server of all of it.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import interleave, kept_runs
from benchmarks.tables import markdown
from qr_jax import plugins
from qr_jax.data import readers
from qr_jax.lab import suite
from qr_jax.records import Passage
from qr_jax.search import index_corpus
from qr_jax.search.recall import recall
from qr_jax.settings.settings import Use, use

SET, K = "hotpotqa", 5
PARTS = 4
PASSAGES, WORDS = 21_000_000, 100  # of the Wikipedia of 2018 that Search-R1 searches
PROCESSES = (1, 4, 16)
EMBEDDED = 512  # passages whose embedding is timed, after as many that are not
GB = 1e9


def main() -> None:
    """Measure, write the results and print them."""
    interleave.no_options(__doc__)
    corpus = readers.read_passages(suite.corpus_file(suite.sets("qa7")[SET]))
    found = {"rates": {**rates(), "embedded_a_s": embedded_a_s(corpus)}, "recall": {}}
    for parts in (1, PARTS):
        with tempfile.TemporaryDirectory() as folder, servers(cut(corpus, parts, Path(folder))) as asked:
            chosen = asked[0] if parts == 1 else use("sharded", parts=tuple(asked))
            found["recall"][str(parts)] = recall(None, suite.QUESTIONS % SET, chosen, k=K)
    file = interleave.results("shards", found, ())
    print(table(json.loads(file.read_text())))


def rates() -> dict[str, Any]:
    """What was measured of a million passages, and by which commit."""
    bm25, dense = (json.loads(kept_runs.file_of(name).read_text()) for name in ("retrieval_1000000", "dense"))
    index = bm25["index"]
    return {
        "bm25": {
            "words": index["counts"]["words"],
            "different_words": index["estimate"]["different_words"],  # of real passages; those made have fewer
            "scores": index["counts"]["scores"],
            "text_bytes": index["files"]["passages.bin"],
            "built_s": index["built_s"],
            "queries_a_s": bm25["queries_a_s"],
            "commit": bm25["commit"],
        },
        "dense": {
            "vectors": 1_000_000,
            "width": dense["width"],
            "queries_a_s": dense["1000000"]["queries_a_s"]["ours_bfloat16"],
            "commit": dense["commit"],
        },
    }


def embedded_a_s(corpus: Sequence[Passage]) -> float:
    """Passages a second that MiniLM embeds here, what is compiled left out."""
    make = plugins.bind("retriever", use("dense"))
    make(corpus=corpus[:EMBEDDED])
    begun = time.perf_counter()
    make(corpus=corpus[EMBEDDED : 2 * EMBEDDED])
    return EMBEDDED / (time.perf_counter() - begun)


def cut(corpus: Sequence[Passage], parts: int, folder: Path) -> list[Path]:
    """The corpus dealt over so many files, passage by passage."""
    files = [folder / f"part_{part}.jsonl" for part in range(parts)]
    for part, file in enumerate(files):
        rows = ({"id": one.id, "title": one.title, "text": one.text} for one in corpus[part::parts])
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files


@contextlib.contextmanager
def servers(files: Sequence[Path]) -> Iterator[list[Use]]:
    """The files behind a server each; yields the retriever that asks each."""
    with contextlib.ExitStack() as stack:
        processes = []
        for file in files:
            words = ["serve-retriever", "--corpus", str(file), "--port", "0"]
            command = [sys.executable, "-m", "qr_jax", *words]
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
            stack.callback(process.terminate)
            processes.append(process)
        yield [use("http", url=address(process)) for process in processes]


def address(process: subprocess.Popen) -> str:
    """Where the server listens, when it does; SystemExit where it ends instead."""
    told = []
    for line in process.stderr or ():
        told.append(line)
        if "http://" in line:
            return line.split()[-1]
    raise SystemExit(f"a server ended before it listened:\n{''.join(told)}")


def table(found: Mapping[str, Any]) -> str:
    """Markdown: what each of so many processes builds, holds and answers; then what a corpus that is cut finds."""
    head = ("21 million passages over", *(f"{count} process{'es' * (count > 1)}" for count in PROCESSES))
    plans = [planned(found["rates"], count) for count in PROCESSES]
    rows = [(what, *(plan[what] for plan in plans)) for what in plans[0]]
    parts = [("HotpotQA's corpus", "recall@5", "all gold@5")]
    for count, one in found["recall"].items():
        called = "one server" if count == "1" else f"{count} servers, `sharded`"
        parts.append((called, f"{one['recall']:.3f}", f"{one['all_gold']:.3f}"))
    return markdown([head, *rows]) + "\n" + markdown(parts)


def planned(rates: Mapping[str, Any], processes: int) -> dict[str, str]:
    """What each process builds, holds and answers; memory and disk of BM25 as `qr-jax index` estimates them."""
    bm25, dense, share = rates["bm25"], rates["dense"], PASSAGES / processes
    times = share * WORDS / bm25["words"]  # a word costs the same wherever it stands
    different = bm25["different_words"] * times**index_corpus.GROWTH
    text_bytes, scores = bm25["text_bytes"] * times, bm25["scores"] * times
    takes = index_corpus.needed(
        share, text_bytes, id_bytes=8 * share, scores=scores, words=share * WORDS, different=different
    )
    vectors = share * dense["width"]
    searched = dense["queries_a_s"] * dense["vectors"] / share
    return {
        "BM25: built in": f"{bm25['built_s'] * times / 60:.0f} minutes",
        "BM25: memory while it is built": f"{takes.memory_bytes / GB:.1f} GB",
        "BM25: disk while it is built": f"{takes.disk_bytes / GB:.1f} GB",
        "BM25: disk, index and texts": f"{takes.index_bytes / GB:.1f} GB",
        "BM25: queries per second (each asks all processes)": f"{bm25['queries_a_s'] / times:.0f}",
        "dense: embedded on two cores in": f"{share / rates['embedded_a_s'] / 86400:.1f} days",
        "dense: vectors in bfloat16, on disk and in memory": f"{vectors * 2 / GB:.1f} GB",
        "dense: texts, on disk": f"{text_bytes / GB:.1f} GB",
        "dense: queries per second (each asks all processes)": f"{searched:.0f}",
    }


if __name__ == "__main__":
    main()
