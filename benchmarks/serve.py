"""Tokens a second through `qr-jax serve`, beside the engine alone: SmolLM2-135M's shape, random weights, 32 clients.

    python -m benchmarks.serve                   # benchmarks/results/serve.json
    python -m benchmarks.serve --rounds 1 --requests 1 --results /tmp/here

Each client sends its requests one after another: 64 tokens of prompt, all different, and 64 new ones at temperature 1.
`engine` rolls out as many prompts in one call, on as many slots. `served` answers whole, `streamed` by events. Clients
(asyncio, in this process) and server share the machine's cores. The figures are the machine's only while it does
nothing else.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any

from benchmarks import interleave
from benchmarks.serve_load import NEW_TOKENS, prompts

WANTED = 0.8  # of the engine alone
HEAD = (
    "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
)


def main(words: Sequence[str] | None = None) -> None:
    parser = interleave.parser(__doc__, rounds=3, peers=False)
    parser.add_argument("--clients", type=int, default=32, help="clients, and slots (32)")
    parser.add_argument("--requests", type=int, default=3, help="of each client, in a sample (3)")
    options = parser.parse_args(words)
    worker = interleave.Worker(interleave.Contender("ours", "benchmarks.serve_ours"))
    interleave.run("serve", options, [worker], lambda: measure(options, worker), show)


def measure(options: argparse.Namespace, worker: interleave.Worker) -> dict[str, Any]:
    """Return samples of all three ways in turn, their medians, and the ratios to the engine alone."""
    url, count = worker.ask("prepare", slots=options.clients)["url"], options.clients * options.requests
    samples: dict[str, list[dict[str, Any]]] = {"engine": [], "served": [], "streamed": []}
    for at in range(-1, options.rounds):  # the first compiles, and does not count
        texts = prompts(count if at >= 0 else options.clients, at)
        each = {
            "engine": worker.ask("engine", prompts=texts, round=at + 1),
            "served": asyncio.run(ask_all(url, options.clients, texts, stream=False)),
            "streamed": asyncio.run(ask_all(url, options.clients, texts, stream=True)),
        }
        for name, sample in each.items():
            samples[name] += [sample] if at >= 0 else []
    ratios = {name: interleave.ratio(samples[name], samples["engine"], "tokens_a_s") for name in ("served", "streamed")}
    return {
        "tokens_a_s": {name: interleave.median(found, "tokens_a_s") for name, found in samples.items()},
        "ratios": ratios, "wanted": WANTED, "new_tokens": NEW_TOKENS, "samples": samples,
        "options": {"clients": options.clients, "requests": options.requests, "rounds": options.rounds},
    }  # fmt: skip


async def ask_all(url: str, clients: int, texts: Sequence[str], *, stream: bool) -> dict[str, Any]:
    """Return tokens a second and seconds to the first and the last byte; a wrong answer ends the program."""
    place = urllib.parse.urlsplit(url)
    tokens, first_s, whole_s = 0, [], []

    async def client(own: Sequence[str]) -> None:
        nonlocal tokens
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        with contextlib.closing(writer):
            for text in own:
                asked = {"prompt": text, "max_tokens": NEW_TOKENS, "temperature": 1, "stream": stream}
                asked |= {"stream_options": {"include_usage": True}} if stream else {}
                body, start = json.dumps(asked).encode(), time.monotonic()
                writer.write(HEAD.format(len(body)).encode() + body)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                if not head.startswith(b"http/1.1 200 "):
                    raise SystemExit(head.decode())
                usage = await (streamed if stream else whole)(
                    reader, head, lambda start=start: first_s.append(since(start))
                )
                whole_s.append(since(start))
                tokens += usage["completion_tokens"]

    begun = time.monotonic()
    await asyncio.gather(*(client(texts[at::clients]) for at in range(clients)))
    seconds = since(begun)
    return {
        "tokens": tokens, "seconds": seconds, "tokens_a_s": tokens / seconds,
        "first_s": sorted(first_s)[len(first_s) // 2], "whole_s": sorted(whole_s)[len(whole_s) // 2],
    }  # fmt: skip


def since(start: float) -> float:
    return time.monotonic() - start


async def whole(reader: asyncio.StreamReader, head: bytes, came) -> dict[str, int]:
    body = await reader.readexactly(int(head.split(b"content-length:")[1].split()[0]))
    came()
    return json.loads(body)["usage"]


async def streamed(reader: asyncio.StreamReader, head: bytes, came) -> dict[str, int]:
    """Read the chunks of a stream, each event by itself, to its end; return the usage that the last one tells."""
    usage, came_once = {}, False
    while size := int(await reader.readline(), 16):
        data = (await reader.readexactly(size + 2)).strip().removeprefix(b"data: ")
        if not came_once:
            came()
        came_once = True
        if data != b"[DONE]":
            usage = json.loads(data)["usage"]
    await reader.readexactly(2)
    return usage


def show(figures: dict[str, Any]) -> None:
    rows = [
        [name, value, figures["ratios"].get(name, {}).get("ratio", 1.0)]
        for name, value in figures["tokens_a_s"].items()
    ]
    print(interleave.table(["way", "tokens/s", "of the engine alone"], rows))
    print(f"wanted: served at {figures['wanted']} of the engine alone")


if __name__ == "__main__":
    main(sys.argv[1:])
