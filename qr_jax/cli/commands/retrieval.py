"""Commands for retrieval over HTTP: serve a retriever, and check a server."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from qr_jax.cli.commands.options import add_json, add_server, limits_of, parts_of, server_token, show, whole
from qr_jax.errors import UNSOUND, UserError
from qr_jax.logging import terminal
from qr_jax.settings.settings import Use

PROTOCOLS = ("search_r1", "skyrl", "flashrag", "r1_searcher", "deepresearchgym")  # those of search/protocols.py
SETTINGS = "of the retriever, as in k1=0.9, of=http of.url=URL, or parts=bm25,dense parts.dense.index=FOLDER"


def add(command: Any) -> None:
    """Add these commands' parsers, as `cli.make_parser` adds those of the other commands."""
    text = "answer searches over HTTP (Search-R1's POST /retrieve, and others')"
    serve = command("serve-retriever", _serve, text, usage="qr-jax serve-retriever [setting=value ...] [options]")
    serve.set_defaults(takes_settings=True)
    serve.epilog = f"setting=value: {SETTINGS}; `qr-jax settings retriever` lists them. "
    serve.epilog += "The server needs pip install 'qr_jax[search]'."
    serve.add_argument("--retriever", default="bm25", metavar="NAME", help="a plug-in's name (bm25)")
    serve.add_argument("--corpus", action="append", metavar="FILE", help="passages; repeat it for more. Or one index")
    serve.add_argument("--access", action="store_true", help="answer POST /access (ASearcher's): passages by their ids")
    text = "serve an MCP server's tools, search and (with --access) open, over stdin and stdout or at /mcp"
    serve.add_argument("--mcp", choices=("stdio", "http"), help=text)
    add_server(serve, 32_000_000)
    serve.add_argument("--batch", type=whole(1), metavar="N", help="queries of one search call (64)")
    serve.add_argument("--wait-ms", dest="wait_s", type=_seconds, metavar="N", help="for others to search with (3)")
    serve.add_argument("--max-k", dest="k", type=whole(1), metavar="N", help="passages a query (100)")
    serve.add_argument("--max-queries", dest="queries", type=whole(1), metavar="N", help="queries a request (4096)")
    serve.add_argument(
        "--max-chars", dest="query_chars", type=whole(1), metavar="N", help="of a query; a longer is cut (4096)"
    )
    serve.add_argument("--search-s", type=whole(1), metavar="N", help="seconds until a request gets 504 (30)")
    part = parts_of(command, "retriever", "check a retrieval server")
    check = part("check", _check, "ask a retrieval server what can go wrong; what is wrong exits with 1")
    text = "as in http://127.0.0.1:8000; without a path, the protocol's is taken"
    check.add_argument("url", metavar="URL", help=text)
    check.add_argument("--protocol", choices=PROTOCOLS, default="search_r1", help="how it is asked (search_r1)")
    check.add_argument("--k", type=whole(1), default=3, metavar="N", help="passages a query (3)")
    check.add_argument("--calls", type=whole(1), default=50, metavar="N", help="whose times are taken (50)")
    check.add_argument("--query", action="append", metavar="TEXT", help="to ask; repeat it (some general questions)")
    check.add_argument("--token-env", metavar="NAME", help="the environment variable with the server's token")
    add_json(check)


def _seconds(milliseconds: str) -> float:
    return whole(0)(milliseconds) / 1000


def chosen_retriever(name: str, typed: Sequence[str]) -> Use:
    """Return the named retriever with settings typed as for `train`; their prefix `retriever.` is optional."""
    from qr_jax.cli.overrides import override
    from qr_jax.config import Config

    words = [word if word.startswith("retriever.") else f"retriever.{word}" for word in typed]
    return override(Config(retriever=Use(name)), words).retriever


def _serve(arguments: argparse.Namespace) -> int:
    from qr_jax import plugins

    with terminal.phase("opening the retriever"):
        chosen = chosen_retriever(arguments.retriever, arguments.overrides)
        parts = plugins.with_parts(chosen)
        if not any(plugins.constants("retriever", part.name).get("DEVICES") for part in parts):
            os.environ["JAX_PLATFORMS"] = "cpu"  # before anything can start jax: devices are left to whoever trains
        from qr_jax.search import server
        from qr_jax.search.limits import Limits

        token, limits = server_token(arguments, "serve-retriever"), limits_of(arguments, Limits)
        search, about, pages = _open(chosen, arguments.corpus, arguments.access)
    how: dict[str, Any] = {"search": search, "limits": limits, "pages": pages}
    where: dict[str, Any] = {"host": arguments.host, "port": arguments.port, "token": token}
    where["say"] = lambda url: terminal.say(f"{chosen.name} serves until Ctrl-C: {url}")
    if not arguments.mcp:
        server.serve(**how, **where, about=about)
        return 0
    unread = {"batch": "--batch", "wait_s": "--wait-ms", "queries": "--max-queries"}
    if given := [flag for name, flag in unread.items() if getattr(arguments, name) is not None]:
        raise UserError(f"{', '.join(given)} cannot be given with --mcp, whose calls are single searches")
    from qr_jax.search import mcp_server

    if arguments.mcp == "stdio":
        mcp_server.serve_stdio(**how, name=chosen.name)
    else:
        mcp_server.serve_http(**how, **where, name=chosen.name)
    return 0


def _open(chosen: Use, files: Sequence[str] | None, access: bool) -> tuple[Any, dict[str, Any], Any]:
    """Return the search, the server's description, and its pages.

    ValueError if retriever, corpus and flags disagree.
    """
    from qr_jax import plugins
    from qr_jax.data import readers
    from qr_jax.search.pages import Pages

    make = plugins.bind("retriever", chosen)
    corpus = plugins.signature("retriever", chosen.name).settings.get("corpus")
    if access and not files:
        raise UserError("--access gives passages of a corpus: name its files with --corpus")
    if files and not plugins.wants_corpus(chosen):
        raise UserError(f"the retriever {chosen.name!r} searches no corpus of files: leave --corpus out")
    if not files and corpus is not None and corpus.required:
        raise UserError(f"the retriever {chosen.name!r} searches a corpus: name its files with --corpus")
    if not files:
        return make(), {"retriever": chosen.name}, None
    passages = readers.read_passages(",".join(files))
    about = {"retriever": chosen.name, "passages": len(passages)}
    return make(corpus=passages), about, Pages(passages) if access else None


def _check(arguments: argparse.Namespace) -> int:
    from qr_jax.search import check

    how = {"k": arguments.k, "calls": arguments.calls, "queries": arguments.query, "token_env": arguments.token_env}
    found = check.check(arguments.url, arguments.protocol, **how)
    show(found, arguments.json, check.format_report)
    return UNSOUND if found["problems"] else 0
