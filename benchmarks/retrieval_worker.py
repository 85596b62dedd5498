"""Contender: one way of asking BM25, ours or bm25s alone; also what makes a large corpus and what indexes one."""

import json
import os
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interleave
from qr_jax.data import readers
from qr_jax.records import Passage
from qr_jax.rollout import tools
from qr_jax.search import bm25_build, index_corpus
from qr_jax.search.retrievers import bm25 as ours

DATA = Path(os.environ.get("QR_JAX_DATA") or interleave.ROOT / ".." / "shared" / "data").resolve()
QUESTIONS = ("hotpotqa", "2wiki", "musique")
CHECKED = 64
state: dict[str, Any] = {}


def prepare(kind: str, corpus: list[str], k: int) -> dict[str, Any]:
    """Read, index, and ask once, so that whatever compiles is compiled."""
    if not (DATA / "corpus").is_dir():
        raise ValueError(f"no real passages in {DATA}; set QR_JAX_DATA to the folder that has corpus/ and dev/")
    start = time.monotonic()
    found = [
        passage for name in corpus for passage in readers.read_passages(str(DATA / f"corpus/{name}.corpus.jsonl.gz"))
    ]
    passages = list({passage.id: passage for passage in found}.values())
    state["ask"], state["scores"] = by_us(kind, passages) if kind in ("ours", "engine") else by_bm25s(kind, passages)
    return first_ask(k, start) | {"passages": len(passages)}


def open_index(kind: str, index: str, k: int) -> dict[str, Any]:
    """Open an index that `build` made, and ask once."""
    start = time.monotonic()
    passages = readers.read_passages(index)
    if kind in ("ours", "engine"):
        state["ask"], state["scores"] = by_us(kind, passages)
    else:
        state["ask"], state["scores"] = by_bm25s(kind, [], index)
    return first_ask(k, start) | {"passages": len(passages)}


def first_ask(k: int, start: float) -> dict[str, Any]:
    lines = [line for name in QUESTIONS for line in (DATA / f"dev/{name}.questions.jsonl").open(encoding="utf-8")]
    state.update(queries=[json.loads(line)["question"] for line in lines], k=k)
    built = time.monotonic()
    state["ask"](state["queries"][:8])
    return {"built_s": built - start, "first_s": time.monotonic() - built}


def make(corpus: list[str], passages: int, out: str) -> dict[str, Any]:
    """A corpus of so many passages, each the beginning of one real passage and the end of another, by keyed numbers.

    Its words are as frequent and its passages as long as the real ones'; its vocabulary is no larger than theirs.
    """
    real = [one for name in corpus for one in readers.read_passages(str(DATA / f"corpus/{name}.corpus.jsonl.gz"))]
    words = [passage.text.split() for passage in real]
    draws = np.random.Philox(key=passages).random_raw(3 * passages).reshape(passages, 3)
    with open(out, "w", encoding="utf-8") as file:
        for at, (a, z, cut) in enumerate(zip(*(draws % np.array([len(real), len(real), 101], np.uint64)).T.tolist())):
            text = words[a][: len(words[a]) * cut // 100] + words[z][len(words[z]) * cut // 100 :]
            file.write(json.dumps({"id": f"p{at}", "title": real[a].title, "text": " ".join(text) or "-"}) + "\n")
    return {"bytes": os.path.getsize(out), "different_words_of": len(real)}


def build(corpus: str, out: str) -> dict[str, Any]:
    """`qr-jax index`: seconds, this process' peak of memory, what the folder holds."""
    before = peak_bytes()
    settings = {"method": "lucene", "k1": 1.5, "b": 0.75, "stopwords": "en"}
    found = index_corpus.index(corpus, Path(out), settings)
    files = {one.name: one.stat().st_size for one in Path(out).iterdir()}
    kept = {name: found[name] for name in ("built_s", "counts", "estimate")}
    return kept | {
        "peak_bytes": peak_bytes(),
        "before_bytes": before,
        "files": files,
        "index_bytes": sum(files.values()),
    }


def memory() -> dict[str, Any]:
    return {"peak_bytes": peak_bytes()}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def by_us(kind: str, passages: Sequence[Passage]) -> tuple[Callable, Callable]:
    search = ours.bm25(corpus=passages)

    def ask(queries: list[str]) -> list[Any]:
        if kind == "ours":
            return list(search(queries, state["k"]))
        searched = tools.run_searches(search, queries, state["k"], deadline_s=30.0, retries=0, passage_chars=20_000)
        return [searched.by_query[query] for query in queries]

    return ask, lambda found: [[passage.score for passage in one] for one in found]


def by_bm25s(kind: str, passages: list[Passage], index: str | None = None) -> tuple[Callable, Callable]:
    import bm25s

    stopwords = frozenset(bm25_build.stop_words("en"))

    def words(texts: list[str]) -> list[list[str]]:
        return [[word for word in bm25_build.words(text) if word not in stopwords] for text in texts]

    backend = "numba" if kind == "bm25s_numba" else "numpy"
    if index is None:
        model = bm25s.BM25(method="lucene", k1=1.5, b=0.75, backend=backend, csc_backend="numpy")
        texts = words([f"{one.title} {one.text}" for one in passages])
        model.index(texts, create_empty_token=False, show_progress=False)
    else:  # our index is in bm25s's own form
        model = bm25s.BM25.load(index, mmap=True, show_progress=False)
        if backend == "numba":
            model.backend = backend
            model.activate_numba_scorer()
    more = {
        "bm25s": {"backend_selection": "numpy"},
        "bm25s_jax": {"backend_selection": "jax"},
        "bm25s_numba": {"n_threads": 1},
    }

    def ask(queries: list[str]) -> Any:
        return model.retrieve(words(queries), k=state["k"], show_progress=False, **more[kind])

    return ask, lambda found: [[float(score) for score in one if score > 0] for one in found.scores]


def sample(batch: int, queries: int, round: int) -> dict[str, float]:
    """Seconds of so many queries in batches of one size; other queries each round."""
    every = state["queries"]
    some = [every[(round * queries + at) % len(every)] for at in range(queries)]
    start = time.perf_counter()
    for at in range(0, queries, batch):
        state["ask"](some[at : at + batch])
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "queries_a_s": queries / seconds}


def check() -> dict[str, Any]:
    return {"scores": state["scores"](state["ask"](state["queries"][:CHECKED]))}


if __name__ == "__main__":
    interleave.serve(
        {"prepare": prepare, "open_index": open_index, "make": make, "build": build, "memory": memory}
        | {"sample": sample, "check": check, "versions": interleave.versions}
    )
