"""The command that plans a pod before it exists: `qr-jax plan`."""

import argparse
import math
from itertools import starmap
from typing import Any

from qr_jax.cli.commands import options
from qr_jax.logging import terminal

JSON = "print JSON; of several topologies, by name; a program that was refused, or not tried after that, is null"


def add(command: Any) -> None:
    """Add this command's parser, as `cli.make_parser` adds those of the other commands."""
    text = "compile a config's programs for TPU slices that are not there: memory, collectives, time, cost; "
    text += "does it fit?"
    usage = "qr-jax plan CONFIG [setting=value ...] --topology NAME [--topology NAME ...] [options]"
    plan = command("plan", _plan, text, usage=usage)
    plan.set_defaults(takes_settings=True)
    plan.add_argument("config", metavar="CONFIG", help="a Python config (file.py, or file.py:name), or a config.json")
    text = "as in v5e:4x4, v5p:2x2x2, v6e:4x4; repeatable"
    plan.add_argument("--topology", action="append", required=True, metavar="NAME", help=text)
    plan.add_argument("--price", type=dollars, metavar="DOLLARS", help="of one chip for one hour, to say a run's cost")
    plan.add_argument("--json", action="store_true", help=JSON)
    options.add_trust(plan)


def dollars(text: str) -> float:
    """Parse a positive amount of dollars."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}; wanted dollars, as in 1.2")
    return found


def _plan(arguments: argparse.Namespace) -> int:
    """Return 0 if the config fits every topology, else 1."""
    from qr_jax.lab.planning import plan
    from qr_jax.settings import checks

    config = options.load(arguments, arguments.config, arguments.overrides)
    checks.check(config, reads=())  # what a step needs is the config's, not the data's
    names = list(dict.fromkeys(arguments.topology))
    found = plan.plan(config, names, dollars_a_chip_hour=arguments.price, say=terminal.say)
    shown = found[names[0]] if len(names) == 1 else found
    options.show(shown, arguments.json, lambda _: "\n\n".join(starmap(plan.format_plan, found.items())))
    return 0 if all(one["fits"] for one in found.values()) else 1
