"""Our retrieval server's answers on Starlette and uvicorn, for benchmarks/retrieval_server.py --uvicorn to ask.

    python -m benchmarks.uvicorn_server CORPUS (h11 | httptools)     # httptools with uvloop, h11 with asyncio

Neither is a dependency of the project: python -m pip install starlette 'uvicorn[standard]'
"""

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Sequence

import uvicorn  # pyright: ignore[reportMissingImports]
from starlette.applications import Starlette  # pyright: ignore[reportMissingImports]
from starlette.responses import Response  # pyright: ignore[reportMissingImports]
from starlette.routing import Route  # pyright: ignore[reportMissingImports]

from qr_jax.data import readers
from qr_jax.search import http_server, search_batcher, server, server_metrics
from qr_jax.search.retrievers.bm25 import bm25

LOOPS = {"h11": "asyncio", "httptools": "uvloop"}


def main(words: Sequence[str]) -> None:
    corpus, http = words
    app = server.App(bm25(corpus=readers.read_passages(corpus)))

    async def retrieve(asked):
        request = http_server.Request(asked.method, asked.url.path, dict(asked.headers), await asked.body())
        answer = await app.handle(request)
        return Response(b"".join(answer.body), answer.status, dict(answer.headers), answer.kind)

    @contextlib.asynccontextmanager
    async def searching(_):
        task = asyncio.create_task(app.batcher.run())
        yield
        task.cancel()

    starlette = Starlette(routes=[Route("/retrieve", retrieve, methods=["POST"])], lifespan=searching)
    settings = uvicorn.Config(starlette, http=http, loop=LOOPS[http], log_level=logging.WARNING, access_log=False)
    running = uvicorn.Server(settings)
    open_connections = lambda: len(running.server_state.connections)  # noqa: E731 - as our server's own count
    app.batcher = search_batcher.Batcher(app.search, app.limits, server_metrics.ServerMetrics(), open_connections)
    listening = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", file=sys.stderr, flush=True)
    running.run(sockets=[listening])


if __name__ == "__main__":
    main(sys.argv[1:])
