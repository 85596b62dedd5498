"""Tool: those of an MCP server (Model Context Protocol, by the official package), which this config starts and names.

The server is a program of the user's own config. It gets none of this process's environment variables; only the tools
that are named can be called; what it sends is data.
"""

import asyncio
import atexit
import concurrent.futures
import contextlib
import importlib
import os
import shutil
import threading
from collections.abc import Coroutine, Mapping, Sequence
from typing import Annotated, Any

from qr_jax.config import ABOVE_0
from qr_jax.errors import UserError
from qr_jax.records import Call, Passage
from qr_jax.settings.settings import at_least
from qr_jax.tools._of_run import schema_of

EXAMPLE = {"command": ("an-mcp-server",), "tools": ("add",)}
MOST_PAGES = 100  # of a server's list of tools
INVALID_ARGUMENTS = -32602  # JSON-RPC's
SERVERS: dict[tuple[str, ...], "_Server"] = {}  # one a command, for the run's environment and its searches
LOCK = threading.Lock()


def mcp(
    calls: Sequence[Call],
    *,
    command: tuple[str, ...],  # the server's program and its arguments; it speaks over its standard input and output
    tools: tuple[str, ...],  # that may be called
    prefix: str = "",  # of their names, where another tool has the same
    chars: Annotated[int, at_least(1)] = 4000,  # of one result; the rest is cut
    timeout_s: Annotated[float, ABOVE_0] = 20.0,  # of one call, and of the server's start
) -> list[Passage]:
    """Return each call's text. A tool's own error is a text for the model; a server that fails is a fault: OSError."""
    server = _server(command, timeout_s)
    work = [server.send(_called(server.session, call, tools, prefix, chars, timeout_s)) for call in calls]
    try:
        return [each.result(timeout_s + 1) for each in work]
    except Exception as error:
        with LOCK:  # the next try starts it anew
            if SERVERS.get(command) is server:
                del SERVERS[command]
        server.close()
        raise OSError(f"the MCP server {command[0]!r} failed: {type(error).__name__}: {error}"[:300]) from error


def schemas(
    *, command: tuple[str, ...], tools: tuple[str, ...], prefix: str = "", chars: int = 4000, timeout_s: float = 20.0
) -> list[Mapping[str, Any]]:
    """Return the schemas of the tools that may be called; ValueError if the server has one of them not."""
    server = _server(command, timeout_s)
    try:
        found = {tool.name: tool for tool in server.send(_listed(server.session)).result(timeout_s)}
    except Exception as error:
        raise UserError(f"the MCP server {command[0]!r} lists no tools: {type(error).__name__}: {error}") from error
    if not tools or (missing := [name for name in tools if name not in found]):
        lacks = f"has no tool {', '.join(missing)}" if tools else "may call nothing"
        raise UserError(f"the MCP server {command[0]!r} {lacks}; of its tools name some: {', '.join(found)[:500]}")
    chosen = [found[name] for name in tools]
    return [
        schema_of(prefix + one.name, one.description or "", {"type": "object", **one.input_schema}) for one in chosen
    ]


async def _listed(session: Any) -> list[Any]:
    """Return all tools of a server, which lists them in pages."""
    found, cursor = [], None
    for _ in range(MOST_PAGES):
        page = await session.list_tools(**({"cursor": cursor} if cursor else {}))
        found += page.tools
        if not (cursor := page.next_cursor):
            break
    return found


async def _called(session: Any, call: Call, tools: Sequence[str], prefix: str, chars: int, timeout_s: float) -> Passage:
    name = call.tool.removeprefix(prefix)
    if name not in tools:
        return Passage("", "", f"error: there is no tool {call.tool[:64]!r}")
    try:
        result = await session.call_tool(name, call.given(), read_timeout_seconds=timeout_s)
    except _official("mcp.shared.exceptions").MCPError as error:
        if error.code != INVALID_ARGUMENTS:
            raise
        return Passage("", "", f"error: {error.message}"[:chars])
    texts = [getattr(part, "text", f"({part.type}: not shown)") for part in result.content]
    return Passage("", "", (("error: " if result.is_error else "") + "\n".join(texts))[:chars])


def _official(module: str) -> Any:
    """Import a module of the official package, which has this file's name."""
    return importlib.import_module(module)


def _server(command: tuple[str, ...], timeout_s: float) -> "_Server":
    with LOCK:
        if command not in SERVERS:
            SERVERS[command] = _Server(command, timeout_s)
        return SERVERS[command]


class _Server:
    """A started server and the session with it, in an event loop of its own thread."""

    def __init__(self, command: tuple[str, ...], timeout_s: float):
        program, empty = shutil.which(command[0]) if command else None, shutil.which("env")
        if program is None or empty is None:
            raise UserError(f"there is no program {' '.join(command[:1])!r}: install it, or give its whole path")
        self.ready: concurrent.futures.Future = concurrent.futures.Future()
        self.begun = threading.Event()
        work = self._serve([empty, "-i", program, *command[1:]])
        self.thread = threading.Thread(target=_until_cancelled, args=(work,), name="mcp", daemon=True)
        self.thread.start()
        self.begun.wait()
        atexit.register(self.close)
        try:
            self.session = self.ready.result(timeout_s)
        except Exception as error:
            self.close()
            if isinstance(error, UserError):
                raise
            found = f"{type(error).__name__}: {error}"
            raise UserError(f"the MCP server {command[0]!r} did not start within {timeout_s:g} s ({found})") from error

    def send(self, work: Coroutine[Any, Any, Any]) -> concurrent.futures.Future:
        """Begin the work in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    async def _serve(self, command: list[str]) -> None:
        """Start the server, give the session to `ready`, and keep it until cancelled."""
        self.loop, task = asyncio.get_running_loop(), asyncio.current_task()
        self.cancel = task.cancel if task else self.loop.stop
        self.begun.set()
        try:
            official, over = _official("mcp"), _official("mcp.client.stdio")
            started = official.StdioServerParameters(
                command=command[0], args=command[1:], encoding_error_handler="replace"
            )
            with open(os.devnull, "w") as nowhere:  # what it says on its standard error
                async with over.stdio_client(started, nowhere) as pipes, official.ClientSession(*pipes) as session:
                    await session.initialize()
                    self.ready.set_result(session)
                    await asyncio.Event().wait()
        except ModuleNotFoundError as error:
            self.ready.set_exception(UserError(f"tool 'mcp' needs {error.name}; pip install 'qr_jax[mcp]' brings it"))
        except Exception as error:
            if not self.ready.done():
                self.ready.set_exception(error)

    def close(self) -> None:
        """End the server; a second call does nothing."""
        atexit.unregister(self.close)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self.cancel)
        self.thread.join(5.0)


def _until_cancelled(work: Coroutine[Any, Any, Any]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(work)
