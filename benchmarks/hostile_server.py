"""What good clients of `qr-jax serve-retriever` notice of hostile ones: refusals, times, and the server's memory.

    python -m benchmarks.hostile_server                    # benchmarks/results/hostile_server.json
    python -m benchmarks.hostile_server --rounds 1 --requests 1000 --quiet-s 3 --results /tmp/here

BM25 over MuSiQue's passages on loopback. 200 good clients ask one query each every half second on kept connections,
and 20 more on a new connection each time (`anew`); first among themselves and then beside hostile requests from a
process of its own: connections that send nothing, half heads, half bodies of the largest size, JSON of many small
items, malformed heads, answers that are not read (some of 20,000 passages), clients that ask once and stay, and a few
permitted requests of 4,096 long queries with k = 100. They come from the good clients' own address unless `--address
127.0.0.2 127.0.0.3` says otherwise. A good client whose kept connection was closed connects again and repeats its
request. `most_mb` is the largest memory that the server's process had so far.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import re
import subprocess
import sys
import time
import urllib.parse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import interleave
from benchmarks.retrieval_server import DATA, HEAD, serving
from qr_jax.data import readers

CLIENTS = 200
PAUSE_S = 0.5  # of a good client between two requests
BROKEN = {True: "broken", False: "anew_broken"}  # whether it keeps its connection
ANEW = 20  # more good clients, which connect anew for each request
HOSTILE_AT_ONCE = 1000
HOSTILE_S = 20.0  # how long a hostile connection is held, if the server does not close it
LARGE_EVERY = 500  # one hostile request of so many is a permitted one of the largest kind
UNREAD_EVERY = 50  # one of so many asks for 20,000 passages and does not read them
LARGEST_BYTES = 32_000_000


def main(words: Sequence[str] | None = None) -> None:
    options = arguments(words)
    if options.attack:
        print(json.dumps(asyncio.run(attack(options.attack, options.requests, options.address))))
        return
    texts = [query.question for query in readers.read_queries(str(DATA / "dev/musique.questions.jsonl"))][:1000]
    rounds = [one_round(texts, options) for _ in range(options.rounds)]
    times = [each["beside hostile clients"]["p99_ms"] / each["alone"]["p99_ms"] for each in rounds]
    found = {"requests": options.requests, "addresses": options.address, "rounds": rounds, "p99_times_alone": times}
    file = interleave.results("hostile_server", found | {"versions": interleave.versions()}, (), folder=options.results)
    print(file.read_text() if options.json else "\n".join([*map(table, rounds), f"written to {file}"]))


def one_round(texts: Sequence[str], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """A server's good clients by themselves, and then beside the hostile ones."""
    with serving(str(DATA / "corpus/musique.corpus.jsonl.gz")) as (url, process):
        quiet = asyncio.run(good_clients(url, texts, asyncio.sleep(options.quiet_s)))
        quiet["most_mb"] = most_mb(process)
        beside = asyncio.run(good_clients(url, texts, hostile_process(url, options)))
        beside["most_mb"] = most_mb(process)
    return {"alone": quiet, "beside hostile clients": beside}


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = interleave.parser(__doc__, rounds=3, peers=False)
    parser.add_argument("--requests", type=int, default=10_000, help="hostile ones (10000)")
    parser.add_argument("--address", nargs="+", default=["127.0.0.1"], help="where they come from (127.0.0.1)")
    parser.add_argument("--quiet-s", type=float, default=10.0, help="seconds without hostile clients (10)")
    parser.add_argument("--attack", metavar="URL", help="send the hostile requests alone")
    return parser.parse_args(words)


# ---- the good clients


async def good_clients(url: str, texts: Sequence[str], meanwhile: Any) -> dict[str, Any]:
    """Statuses, reconnections and times of the good clients while `meanwhile` lasts, and what it returns."""
    over = asyncio.Event()
    counts: Counter[str] = Counter()
    times: list[float] = []
    anew: list[float] = []  # of those that connect anew
    of = lambda n: (times, True) if n < CLIENTS else (anew, False)  # noqa: E731
    clients = [asyncio.create_task(good_client(url, texts, n, over, counts, *of(n))) for n in range(CLIENTS + ANEW)]
    result = await meanwhile
    over.set()
    await asyncio.gather(*clients)
    times.sort()
    anew.sort()
    return {
        "requests": len(times) + len(anew), "status_200": counts["200"], "status_5xx": counts["5xx"],
        "broken": counts["broken"], "reconnected": counts["reconnected"], "p50_ms": times[len(times) // 2],
        "p99_ms": times[int(0.99 * len(times))], "most_ms": times[-1], "anew_broken": counts["anew_broken"],
        "anew_p50_ms": anew[len(anew) // 2], "anew_p99_ms": anew[int(0.99 * len(anew))],
        "hostile": result,
    }  # fmt: skip


async def good_client(
    url: str,
    texts: Sequence[str],
    number: int,
    over: asyncio.Event,
    counts: Counter[str],
    times: list[float],
    keep: bool,
) -> None:
    streams = None
    await asyncio.sleep(PAUSE_S * random.random())
    for at in itertools.count(number):
        begun, status, kept = time.perf_counter(), 0, False
        for _ in range(2):  # a kept connection may be closed at any time
            try:
                streams = streams or await connect(url)
                status, kept = await ask(*streams, {"queries": [texts[at % len(texts)]], "topk": 3})
                break
            except (OSError, EOFError):
                counts["reconnected"] += 1
                close(streams)
                streams = None
        times.append(1000 * (time.perf_counter() - begun))
        counts[BROKEN[keep] if status == 0 else "5xx" if status >= 500 else str(status)] += 1
        if not (kept and keep):
            close(streams)
            streams = None
        if over.is_set():
            break
        await asyncio.sleep(PAUSE_S)
    close(streams)


async def connect(url: str, address: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    place = urllib.parse.urlsplit(url)
    return await asyncio.open_connection(place.hostname, place.port, local_addr=(address, 0))


def close(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None) -> None:
    if streams is not None:
        streams[1].close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: Any) -> tuple[int, bool]:
    """The status, and whether the connection is kept."""
    body = json.dumps(asked).encode()
    writer.write(HEAD.format(len(body)).encode() + body)
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
    return int(head.split()[1]), b"keep-alive" in head


# ---- the hostile ones


async def hostile_process(url: str, options: argparse.Namespace) -> Any:
    words = ["-m", "benchmarks.hostile_server", "--attack", url, "--address", *options.address]
    words += ["--requests", str(options.requests)]
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=subprocess.PIPE, cwd=interleave.ROOT)
    said, _ = await process.communicate()
    return json.loads(said)


def hostile_requests() -> dict[str, bytes]:
    """What each kind sends; none is answered with 200, but those that are not read or stay idle."""
    small = json.dumps({"queries": ["x"], "topk": 100}).encode()
    items = b"[" + b"[]," * 333_333
    long = [f"{n} {'dune novel capital ' * 400}"[:4096] for n in range(4096)]
    large = json.dumps({"queries": long, "topk": 100}).encode()
    much = json.dumps({"queries": [f"the novel {n}" for n in range(200)], "topk": 100}).encode()
    head = lambda size: HEAD.format(size).encode()  # noqa: E731
    return {
        "nothing": b"", "half head": b"POST /retr", "half body": head(LARGEST_BYTES) + b" " * 500_000,
        "stopped body": head(60_000), "small items": head(len(items)) + items, "malformed": b"nonsense\r\n\r\n",
        "idle": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "not read": (head(len(small)) + small) * 4, "large": head(len(large)) + large,
        "much unread": head(len(much)) + much,
    }  # fmt: skip


async def attack(url: str, requests: int, addresses: Sequence[str]) -> dict[str, Any]:
    """The hostile requests; seconds, and how often each kind got each status (0: none)."""
    kinds = hostile_requests()
    rare = {"large": LARGE_EVERY, "much unread": UNREAD_EVERY}
    names = [name for name in kinds if name not in rare]
    counts: Counter[str] = Counter()
    places = asyncio.Semaphore(HOSTILE_AT_ONCE)

    async def hostile(number: int) -> None:
        name = next((name for name, every in rare.items() if number % every == 0), names[number % len(names)])
        async with places:
            address = addresses[number // len(names) % len(addresses)]
            counts[f"{name}: {await send(url, address, kinds[name], name)}"] += 1

    begun = time.perf_counter()
    await asyncio.gather(*map(hostile, range(requests)))
    return {"seconds": time.perf_counter() - begun, "answers": dict(sorted(counts.items()))}


async def send(url: str, address: str, data: bytes, name: str) -> int:
    """Send it and read how the answer begins; its status, 0 without one. Some stay then, reading or not."""
    status = 0
    with contextlib.suppress(OSError, EOFError, TimeoutError):
        async with asyncio.timeout(HOSTILE_S):
            reader, writer = await connect(url, address)
            with contextlib.closing(writer):
                writer.write(data)
                head = await reader.readuntil(b"\r\n")
                status = int(head.split()[1])
                if name == "not read":
                    await asyncio.sleep(2.0)
                elif name == "much unread":
                    await asyncio.sleep(HOSTILE_S)
                elif name == "idle":
                    await reader.read()
    return status


# ---- the figures


def most_mb(process: subprocess.Popen) -> float:
    """The largest resident memory so far, in 10^6 bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024 / 1e6


def table(loads: Mapping[str, Mapping[str, Any]]) -> str:
    names = (
        "requests",
        "status_5xx",
        "broken",
        "reconnected",
        "p50_ms",
        "p99_ms",
        "most_ms",
        "anew_broken",
        "anew_p50_ms",
        "anew_p99_ms",
        "most_mb",
    )
    lines = [f"{'':24}" + "".join(f"{name:>12}" for name in names)]
    lines += [f"{load:24}" + "".join(f"{figures[name]:>12.0f}" for name in names) for load, figures in loads.items()]
    hostile = loads["beside hostile clients"]["hostile"]
    answers = ", ".join(f"{kind} {count}" for kind, count in hostile["answers"].items())
    return "\n".join([*lines, f"hostile, in {hostile['seconds']:.0f} s (kind: status count): {answers}"])


if __name__ == "__main__":
    main()
