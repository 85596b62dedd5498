"""The commands that look at which queries are drawn, without a device: rules simulated, a run's report and its page."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from qr_jax.cli import TRUST, whole


def add(command: Any) -> None:
    """Their parsers, as `cli.make_parser` adds those of the other commands."""
    oracle = command("oracle", _oracle, "run recycling rules on queries of known pass rates, without a model")
    oracle.add_argument(
        "--rates", default="beta:0.35,0.35", metavar="RATES",
        help="beta:A,B; uniform; improving:, drifting: or flipping:A,B[,SHIFT of the log-odds]; or a run's folder",
    )  # fmt: skip
    oracle.add_argument("--rule", default="recycle", metavar="NAMES", help="one, several at commas, or all; dapo too")
    oracle.add_argument("--queries", type=whole(1), metavar="N", help="of the pool; 10000, or as many as the run's has")
    oracle.add_argument("--accept", type=whole(1), default=32, metavar="N", help="groups a step trains on at most")
    oracle.add_argument("--samples", type=whole(2), default=4, metavar="N", help="episodes a query")
    oracle.add_argument("--oversample", type=whole(1), default=2, metavar="N", help="queries drawn / --accept")
    oracle.add_argument("--rollouts", type=whole(1), default=84_480, metavar="N", help="the budget")
    oracle.add_argument("--seeds", type=whole(1), default=5, metavar="N")
    oracle.add_argument("--json", action="store_true", help="print JSON")
    report = command("report", _report, "write a run's report: one HTML file that needs nothing else")
    report.add_argument("--out", type=Path, metavar="FILE", help="where it goes; by default report.html in the run")
    view = command("view", _view, "serve a run's report on this machine, made anew as the run goes on")
    view.add_argument("--port", type=whole(0), default=8770, metavar="N", help="the port; 0: any free one")
    for made in (report, view):
        made.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
        made.add_argument("--allow-plugins", action="append", default=[], metavar="PACKAGE", help=TRUST)


def _oracle(arguments: argparse.Namespace) -> int:
    from qr_jax import oracle

    names = ("samples", "oversample", "rollouts", "seeds")
    chosen = {name: getattr(arguments, name) for name in names}
    rules = oracle.rules(arguments.rule)
    found = oracle.study(arguments.rates, rules, size=arguments.queries, queries=arguments.accept, **chosen)
    if arguments.json:
        print(json.dumps(found[rules[0]] if len(rules) == 1 else found, indent=2))
    else:
        print(oracle.format_table(found))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from qr_jax.report import page

    print(page.write(arguments.run, arguments.out, null=_null(arguments)))
    return 0


def _view(arguments: argparse.Namespace) -> int:
    from qr_jax.report import view

    view.view(arguments.run, port=arguments.port, null=lambda: _null(arguments))
    return 0


def _null(arguments: argparse.Namespace) -> Any:
    """The null control of a run; None, with a word on stderr, where nothing can be said yet."""
    from qr_jax.null_control import null_of_run
    from qr_jax.report.charts import RATE_BINS

    try:
        return null_of_run(arguments.run, points=RATE_BINS, allow_plugins=tuple(arguments.allow_plugins))
    except ValueError as error:
        print(f"no null control: {error}", file=sys.stderr)
        return None
