"""Searches a second through `qr-jax serve-retriever` on loopback, beside the same search called directly.

    python -m benchmarks.retrieval_server                  # benchmarks/results/retrieval_server.json
    python -m benchmarks.retrieval_server --rounds 1 --requests 400 --results /tmp/here

BM25 over MuSiQue's passages, one query a request, k = 3, kept connections, 1, 64 and 200 clients, the 200 with 10,000
requests. The clients (asyncio, written from the protocol alone) run in this process and check every answer against the
direct search. `direct` is the search function called in this process, one query a call and 64. The figures are the
machine's only while it does nothing else.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import interleave
from qr_jax.data import readers
from qr_jax.records import SearchFunction
from qr_jax.search.retrievers.bm25 import bm25

DATA = Path(os.environ.get("QR_JAX_DATA") or interleave.ROOT / ".." / "shared" / "data").resolve()
K = 3
LOADS = ((1, 400), (64, 4096), (200, 10_000))  # clients, requests of all together
HEAD = "POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    corpus = str(DATA / "corpus/musique.corpus.jsonl.gz")
    texts = [query.question for query in readers.read_queries(str(DATA / "dev/musique.questions.jsonl"))][:1000]
    search = bm25(corpus=readers.read_passages(corpus))
    right = {text: [one.id for one in found] for text, found in zip(texts, search(texts, K), strict=True)}
    samples: dict[str, list[dict[str, Any]]] = {}
    with serving(corpus) as url:
        for _ in range(options.rounds):
            for size in (1, 64):
                samples.setdefault(f"direct, {size} a call", []).append(direct(search, texts, size))
            for clients, requests in LOADS:
                requests = max(clients, min(requests, options.requests or requests))
                sample = asyncio.run(ask_all(url, clients, requests, right))
                samples.setdefault(f"served, {clients} clients", []).append(sample)
    figures = {name: {"samples": some} | medians(some) for name, some in samples.items()}
    found = {"k": K, "loads": figures, "versions": interleave.versions()}
    file = interleave.results("retrieval_server", found, (), folder=options.results)
    if options.json:
        print(file.read_text())
    else:
        show(figures)
        print(f"written to {file}")


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = interleave.parser(__doc__, rounds=3, peers=False)
    parser.add_argument("--requests", type=int, help="of each load at most, to try it out")
    return parser.parse_args(words)


@contextlib.contextmanager
def serving(corpus: str) -> Iterator[str]:
    """Serve that corpus in a process of its own; yield its URL."""
    words = [sys.executable, "-m", "qr_jax", "serve-retriever", "--corpus", corpus, "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=interleave.ROOT) as process:
        assert process.stderr
        said = []
        for line in process.stderr:  # what takes long says so before
            said.append(line)
            if "http://" in line:
                break
        else:
            raise SystemExit("".join(said))
        try:
            yield said[-1].split()[-1]
        finally:
            process.terminate()


def direct(search: SearchFunction, texts: Sequence[str], size: int) -> dict[str, Any]:
    begun = time.perf_counter()
    for start in range(0, len(texts), size):
        search(list(texts[start : start + size]), K)
    return {"queries_per_s": len(texts) / (time.perf_counter() - begun)}


async def ask_all(url: str, clients: int, requests: int, right: Mapping[str, list[str]]) -> dict[str, Any]:
    """Queries/s, milliseconds and errors of so many clients, each with an equal part of the requests.

    A client whose connection breaks asks no more; `requests` counts those that were answered.
    """
    place, texts = urllib.parse.urlsplit(url), list(right)
    times: list[float] = []
    errors: list[str] = []

    async def client(number: int) -> None:
        try:
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            with contextlib.closing(writer):
                for at in range(requests // clients):
                    await ask(reader, writer, texts[(number + at * clients) % len(texts)])
        except (OSError, EOFError) as error:
            errors.append(f"client {number}: {error!r}")

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> None:
        body = json.dumps({"queries": [text], "topk": K, "return_scores": True}).encode()
        begun = time.perf_counter()
        writer.write(HEAD.format(len(body)).encode() + body)
        head = await reader.readuntil(b"\r\n\r\n")
        answer = await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
        times.append(1000 * (time.perf_counter() - begun))
        if not head.startswith(b"HTTP/1.1 200 "):
            errors.append(head.decode())
        elif [one["document"]["id"] for one in json.loads(answer)["result"][0]] != right[text]:
            errors.append(f"{text}: {answer[:200]!r}")

    begun = time.perf_counter()
    await asyncio.gather(*map(client, range(clients)))
    seconds = time.perf_counter() - begun
    if not times:
        raise SystemExit(f"no request was answered: {errors[0]}")
    times.sort()
    return {
        "queries_per_s": len(times) / seconds, "requests": len(times), "errors": len(errors), "first": errors[:1],
        "p50_ms": times[len(times) // 2], "p95_ms": times[int(0.95 * len(times))], "most_ms": times[-1],
    }  # fmt: skip


def medians(samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = [name for name in ("queries_per_s", "p50_ms", "p95_ms", "most_ms", "errors") if name in samples[0]]
    return {name: statistics.median(one[name] for one in samples) for name in names}


def show(figures: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"{'':22} {'queries/s':>10} {'p50 ms':>8} {'p95 ms':>8} {'most ms':>8} {'errors':>7}")
    for name, one in figures.items():
        times = "".join(f" {one[key]:>8.1f}" for key in ("p50_ms", "p95_ms", "most_ms") if key in one)
        errors = f" {sum(sample['errors'] for sample in one['samples']):>7}" if "errors" in one else ""
        print(f"{name:22} {one['queries_per_s']:>10.0f}{times}{errors}")


if __name__ == "__main__":
    main()
