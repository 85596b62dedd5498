"""The command that serves a trained agent's model behind OpenAI's API."""

import argparse
from dataclasses import replace
from typing import Any

from qr_jax.cli.commands.asked import add_asked, asked
from qr_jax.cli.commands.options import add_trust, port, start, whole
from qr_jax.errors import UserError
from qr_jax.logging import terminal


def add(command: Any) -> None:
    """Add this command's parser, as `cli.make_parser` adds those of the other commands."""
    text = "serve a run's model, or a Hugging Face folder's, behind OpenAI's API"
    serve = command("serve", _serve, text, usage="qr-jax serve RUN [setting=value ...] [options]")
    serve.set_defaults(takes_settings=True)
    add_asked(serve)
    serve.epilog = f"{serve.epilog} The server needs pip install 'qr_jax[search]'."
    serve.add_argument("--agent", action="store_true", help="a chat answers a question, with its searches inside")
    serve.add_argument("--name", metavar="NAME", help="the model's name in requests (the folder's)")
    serve.add_argument("--step", type=whole(0), metavar="N", help="the run's checkpoint; by default the last")
    serve.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen; others need a token")
    serve.add_argument("--port", type=port, default=8000, metavar="N", help="0: a free one, which is said (8000)")
    serve.add_argument("--token-env", metavar="NAME", help="the environment variable with the token clients must send")
    serve.add_argument("--queue", type=whole(0), metavar="N", help="samples that wait for a slot, then 429 (1024)")
    serve.add_argument("--max-body", dest="body_bytes", type=whole(1), metavar="N", help="bytes a request (8000000)")
    text = "open at once; while there are more, each request gets 503 (1024)"
    serve.add_argument("--max-connections", dest="connections", type=whole(1), metavar="N", help=text)
    add_trust(serve)


def _serve(arguments: argparse.Namespace) -> int:
    from qr_jax.search import http_app, http_post

    http_app.check_packages("serve")
    token = http_post.secret(arguments.token_env) if arguments.token_env else None
    http_app.check_address(arguments.host, token)
    subject = asked(arguments, needs=("corpus",) if arguments.agent else ())
    if arguments.step is not None and not subject.run:
        raise UserError(f"--step names a run's checkpoint, and {arguments.run} is no run of ours")
    start(subject.config)
    from qr_jax.serve import app as apps
    from qr_jax.serve import opening

    limits = {name: value for name in ("queue", "body_bytes", "connections") if (value := getattr(arguments, name))}
    limits |= {"queue": 0} if arguments.queue == 0 else {}
    name = arguments.name or arguments.run.resolve().name
    config = replace(subject.config, rollout=opening.settings(subject.config.rollout))
    with terminal.phase("loading the model"):
        served, begin = opening.open_model(config, subject.run, arguments.step, name=name, agent=arguments.agent)
    app = apps.App(served, begin, apps.ServeLimits(**limits), token, http_app.is_loopback(arguments.host))
    apps.serve(app, arguments.host, arguments.port)
    return 0
