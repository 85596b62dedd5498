"""The command that plans a pod, or a GPU, before it is there: `qr-jax plan`."""

import argparse
import math
from itertools import starmap
from typing import Any

from qr_jax.cli.commands import options
from qr_jax.errors import UNSOUND, UserError
from qr_jax.logging import terminal

JSON = "print JSON; of several topologies, by name; a program that was refused, or not tried after that, is null"


def add(command: Any) -> None:
    """Add this command's parser, as `cli.make_parser` adds those of the other commands."""
    text = "compile a config's programs for TPU slices (memory, collectives, time, cost) or one GPU (memory) that are "
    text += "not there: does it fit?"
    usage = "qr-jax plan CONFIG [setting=value ...] (--topology NAME ... | --gpu NAME | --memory SIZE) [options]"
    plan = command("plan", _plan, text, usage=usage)
    plan.set_defaults(takes_settings=True)
    plan.add_argument("config", metavar="CONFIG", help="a Python config (file.py, or file.py:name), or a config.json")
    text = "as in v5e:4x4, v5p:2x2x2, v6e:4x4; repeatable"
    plan.add_argument("--topology", action="append", metavar="NAME", help=text)
    plan.add_argument(
        "--gpu", metavar="NAME", help="one GPU: l4, a10g, rtx3090, rtx4090, a100_40gb, l40s, a100, h100, h200"
    )
    plan.add_argument("--memory", metavar="SIZE", help="of one GPU, as in 80GB or 79GiB; beside --gpu, in its place")
    dollars, text = options.number(0, math.inf, "dollars, as in 1.2"), "of one chip for one hour, to say a run's cost"
    plan.add_argument("--price", type=dollars, metavar="DOLLARS", help=text)
    plan.add_argument("--json", action="store_true", help=JSON)
    options.add_trust(plan)


def _plan(arguments: argparse.Namespace) -> int:
    """Return 0 if the config fits every topology, or the GPU, else UNSOUND."""
    config, on_gpu = options.load(arguments, arguments.config, arguments.overrides), arguments.gpu or arguments.memory
    if bool(on_gpu) == bool(arguments.topology):
        raise UserError("wanted either --topology, of TPUs, or --gpu or --memory, of one GPU")
    if on_gpu and arguments.price:
        raise UserError("--price is of a TPU's chips: no time is estimated for a GPU")
    from qr_jax.lab.planning import cards, plan
    from qr_jax.settings import checks

    card = cards.card(arguments.gpu, arguments.memory) if on_gpu else None
    checks.check(config, reads=())  # what a step needs is the config's, not the data's
    if config.model.lora.rank and config.sft.whole and config.sft.steps:
        terminal.say(
            "the cold start (sft.whole=true) trains the whole model, and its memory is not in this plan: plan it too, "
            "with model.lora.rank=0"
        )
    if card:
        found = plan.on_gpu(config, card, say=terminal.say)
        options.show(found, arguments.json, plan.format_gpu)
        return 0 if found["fits"] else UNSOUND
    names = list(dict.fromkeys(arguments.topology))
    found = plan.plan(config, names, dollars_a_chip_hour=arguments.price, say=terminal.say)
    shown = found[names[0]] if len(names) == 1 else found
    options.show(shown, arguments.json, lambda _: "\n\n".join(starmap(plan.format_plan, found.items())))
    return 0 if all(one["fits"] for one in found.values()) else UNSOUND
