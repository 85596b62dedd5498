"""The command that serves a trained agent's model behind OpenAI's API."""

import argparse
from dataclasses import replace
from typing import Any

from qr_jax.cli.commands.asked import add_asked, asked
from qr_jax.cli.commands.options import add_server, add_trust, limits_of, server_token, start, whole
from qr_jax.logging import terminal


def add(command: Any) -> None:
    """Add this command's parser, as `cli.make_parser` adds those of the other commands."""
    text = "serve a run's model, or a Hugging Face folder's, behind OpenAI's API"
    serve = command("serve", _serve, text, usage="qr-jax serve RUN [setting=value ...] [options]")
    serve.set_defaults(takes_settings=True)
    add_asked(serve)
    serve.epilog = f"{serve.epilog} The server needs pip install 'qr_jax[search]'."
    text = "a chat message is a question; the answer comes after searches"
    serve.add_argument("--agent", action="store_true", help=text)
    serve.add_argument("--name", metavar="NAME", help="the model's name in requests (the folder's)")
    serve.add_argument("--step", type=whole(0), metavar="N", help="the run's checkpoint; by default the last")
    serve.add_argument("--queue", type=whole(0), metavar="N", help="samples that wait for a slot, then 429 (1024)")
    add_server(serve, 8_000_000)
    add_trust(serve)


def _serve(arguments: argparse.Namespace) -> int:
    with terminal.phase("loading the model"):
        from qr_jax.search import http_app

        token = server_token(arguments, "serve")
        settings, run = asked(arguments, *(["corpus"] if arguments.agent else []))
        start(settings)
        from qr_jax.serve import app as apps
        from qr_jax.serve import opening

        name = arguments.name or arguments.run.resolve().name
        config = replace(settings, rollout=opening.settings(settings.rollout))
        served, begin = opening.open_model(config, run, arguments.step, name=name, agent=arguments.agent)
    app = apps.App(served, begin, limits_of(arguments, apps.ServeLimits), token, http_app.is_loopback(arguments.host))
    apps.serve(app, arguments.host, arguments.port)
    return 0
