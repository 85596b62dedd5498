"""`qr-jax serve-retriever --mcp`: a search function, and its passages by their ids, as the tools of an MCP server."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from qr_jax.dialect import encodable
from qr_jax.logging import terminal
from qr_jax.records import Passage, SearchFunction
from qr_jax.search.http_app import check_address, is_loopback, is_token, listen
from qr_jax.search.limits import Limits
from qr_jax.search.mcp_client import check_package
from qr_jax.search.pages import Pages

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

PATH = "/mcp"
SHOWN = 5  # passages of a search that does not say how many


def make_server(search: SearchFunction, pages: Pages | None, limits: Limits, name: str) -> "MCPServer":
    """Return the server with its tools: `search`, and `open` where there are pages. A search runs alone."""
    check_package()
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from pydantic import Field

    server, one_at_a_time = MCPServer(f"qr_jax {name}", log_level="ERROR"), asyncio.Lock()
    most = Field(ge=1, le=limits.k)

    async def alone(query: str, k: int) -> Any:
        async with one_at_a_time:
            return await asyncio.to_thread(search, [query], k)

    async def searched(query: str, k: Annotated[int, most] = min(SHOWN, limits.k)) -> str:
        """Searches a collection of documents; gives a JSON list of passages, the best first: id, title, text, score."""
        query = encodable(query[: limits.query_chars])
        try:  # shielded: a search that is late goes on in its thread, and no other one begins before it ends
            asked = asyncio.shield(asyncio.ensure_future(alone(query, k)))
            found = await asyncio.wait_for(asked, limits.search_s) if query.strip() else [[]]
        except TimeoutError:
            raise ToolError(f"no passages after {limits.search_s:g} s") from None
        return json.dumps([_told(passage) for passage in found[0][:k]], ensure_ascii=False)

    async def opened(id: str) -> str:
        """Gives one passage by its id, as a search names it: a JSON object of id, title and text."""
        passage = pages.get(id) if pages is not None else None
        if passage is None:
            raise ToolError(f"there is no passage {id!r}")
        return json.dumps(_told(passage), ensure_ascii=False)

    server.add_tool(searched, name="search", structured_output=False)
    if pages is not None:
        server.add_tool(opened, name="open", structured_output=False)
    return server


def _told(passage: Passage) -> dict[str, Any]:
    return {"id": passage.id, "title": passage.title, "text": passage.text, "score": passage.score}


def serve_stdio(search: SearchFunction, *, pages: Pages | None, limits: Limits, name: str) -> None:
    """Answer whoever started this process, over its standard input and output, until the input ends."""
    make_server(search, pages, limits, name).run("stdio")


def serve_http(
    search: SearchFunction,
    *,
    pages: Pages | None,
    limits: Limits,
    name: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    say: Callable[[str], None] = terminal.say,
) -> None:
    """Serve streamable HTTP at /mcp until Ctrl-C. UserError for an address that others can reach, without a token."""
    import uvicorn
    from mcp.server.transport_security import TransportSecuritySettings

    check_address(host, token)
    own = is_loopback(host)  # then a page in a browser must not reach it by a name of its own
    names = [f"{name}:*" for name in ("127.0.0.1", "localhost", "[::1]")]
    security = TransportSecuritySettings(enable_dns_rebinding_protection=own, allowed_hosts=names * own)
    app: Any = make_server(search, pages, limits, name).streamable_http_app(
        streamable_http_path=PATH, stateless_http=True, json_response=True, max_request_body_size=limits.body_bytes,
        transport_security=security, host=host,
    )  # fmt: skip
    app = app if token is None else _with_token(app, token)
    listening, url = listen(host, port)
    logging.getLogger("mcp").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app, log_config=None, log_level="error", access_log=False, server_header=False,
        limit_concurrency=limits.connections + 1, timeout_keep_alive=limits.idle_s,
        timeout_graceful_shutdown=limits.grace_s,
    )  # fmt: skip
    say(url + PATH)
    uvicorn.Server(config).run(sockets=[listening])


def _with_token(app: Any, token: str) -> Any:
    """Refuse requests without the token."""

    async def checked(scope: Any, receive: Any, send: Any) -> None:
        given = next((value for name, value in scope.get("headers", ()) if name == b"authorization"), b"")
        if scope["type"] == "http" and not is_token(given, token):
            await send({"type": "http.response.start", "status": 401, "headers": [(b"www-authenticate", b"Bearer")]})
            await send({"type": "http.response.body", "body": b"wanted Authorization: Bearer and the token"})
            return
        await app(scope, receive, send)

    return checked
