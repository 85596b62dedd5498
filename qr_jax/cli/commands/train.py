"""Commands that train: `train`, the quickstart, and a cold start alone."""

import argparse
import contextlib
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from qr_jax.cli.commands import options
from qr_jax.errors import UserError
from qr_jax.logging import terminal

QUICKSTART = "configs/quickstart.py"  # of the package where there is no checkout
GOES_ON = "or the folder of a config.json (the run resumes there)"
RUN_HELP = f"the run's folder; by default runs/ and the config's name, {GOES_ON}"
COLD_START = "runs/, the config's name and /sft, where `train` of the same config looks for its cold start"
SFT_RUN_HELP = f"the run's folder; by default {COLD_START}; {GOES_ON}"

BEGUN = ("logs", "sft", "run.lock")  # what a run's folder may hold before its config.json
LOGS = (".log", ".out", ".err")  # a shell's, of what the command prints


def add(command: Any) -> None:
    """Add these commands' parsers, as `cli.make_parser` adds those of the other commands."""
    for name, about, folder in (
        ("quickstart", f"train by {QUICKSTART}: a small model learns to search, in minutes", RUN_HELP),
        ("train", "train by a config: cold start, then GRPO with a recycling pool", RUN_HELP),
        ("sft", "the cold start alone: cross-entropy on expert traces", SFT_RUN_HELP),
    ):
        run = partial(_run, stage="sft" if name == "sft" else "")
        what = "" if name == "quickstart" else "CONFIG "
        made = command(name, run, about, usage=f"qr-jax {name} {what}[setting=value ...] [options]")
        made.epilog = "`qr-jax settings` lists every setting with its type, its default and what it means."
        made.set_defaults(takes_settings=True)
        text = "a Python config (file.py, or file.py:name), or a run's config.json"
        if what:
            made.add_argument("config", metavar="CONFIG", help=text)
        else:
            made.set_defaults(config=QUICKSTART)
        made.add_argument("--run", type=Path, metavar="FOLDER", help=folder)
        text = "check the config, and files of questions and passages, print it as JSON, and stop"
        made.add_argument("--dry-run", action="store_true", help=text)
        again = "start over; the old folder is renamed and kept"
        made.add_argument("--restart", action="store_true", help=again)
        text = "process 0's address, for a run of several processes; a TPU pod needs none of these three options"
        made.add_argument("--coordinator", metavar="HOST:PORT", help=text)
        made.add_argument("--processes", type=options.whole(1), metavar="N", help="how many processes the run has")
        made.add_argument("--process", type=options.whole(0), metavar="I", help="which of them this is, from 0")
        made.add_argument("--verbose", action="store_true", help="tables, layouts and what is compiled, too")
        made.add_argument("--json", action="store_true", help="print the summary as JSON; all else goes to stderr")
        options.add_trust(made)


def _refuse_folder(folder: Path) -> None:
    """Raise ValueError for a folder that cannot be written, or that holds other things than a run."""
    from qr_jax import config as configs
    from qr_jax.run import run_files
    from qr_jax.settings.settings import few

    run_files.check_writable(folder)
    if configs.is_run(folder) or any((folder / "checkpoints").glob("step_*")):
        return
    there = sorted(folder.iterdir()) if os.path.isdir(folder) else []
    if others := [path.name for path in there if not (path.match(".*") or path.suffix in LOGS or path.name in BEGUN)]:
        raise UserError(
            f"{folder} is no run, and holds {few(others, 3)}; give --run a new folder, as in {folder / 'run'}"
        )


def _check_parts(config: Any) -> None:
    """Raise ValueError for a model name that does not exist, or a retriever that its URL or key keeps from being made.

    A retriever without a corpus is made as a run would make it: its URL is read, and its key found, without a request.
    """
    from qr_jax import plugins
    from qr_jax.models import families

    if not plugins.wants_corpus(config.retriever):
        plugins.bind("retriever", config.retriever)()
    if config.model.name not in families.PRESETS:
        from qr_jax.models import hf  # here: it imports jax

        hf.is_here(config.model.name)
    if (tokenizer := config.model.tokenizer) and not os.path.exists(tokenizer):
        raise UserError(f"model.tokenizer is {tokenizer!r}, and there is no such folder or file")


def _checked(config: Any) -> str:
    """Check a run's questions and traces and return a summary; ValueError for a file that training would refuse."""
    from qr_jax.config import SET_PREFIX

    names = (config.data.train, config.data.eval)
    if any(name == "world" or name.startswith(SET_PREFIX) for name in names):
        return "the settings are right; questions, passages and model are read when the run begins"
    from qr_jax import assemble, plugins  # here: it imports jax

    queries, held_out = (assemble.questions(config, part) for part in ("train", "eval"))
    assemble.check_traces(config, queries)
    right = f"the settings and the questions are right: {len(queries):,} to train on, {len(held_out):,} held out"
    for remark in assemble.remarks(config, queries, held_out):
        terminal.say(remark)
    if not plugins.wants_corpus(config.retriever):
        return f"{right}; the model is read when the run begins"
    with terminal.phase(f"reading the passages of {config.data.corpus}"):
        passages = assemble.passages(config)
    return f"{right}; {len(passages):,} passages are right too; the model is read when the run begins"


def _verdicts(config: Any) -> str | None:
    """Say the most verdicts of a judge that a run can need, and what its budget allows; None where there is no bound.

    A reward's file says how many an episode can need (VERDICTS); only rounds that draw once bound a step's episodes.
    """
    from qr_jax import plugins

    reward, pool = config.reward, config.pool
    each = plugins.constants("reward", reward.name).get("VERDICTS")
    given = plugins.settings_of("reward", reward)
    rounds = plugins.constants("rounds", pool.rounds.name).get("MAX_ROUNDS")
    if each is None or rounds != 1 or not {"budget", "cache"} <= given.keys():
        return None
    step, limit = pool.queries * pool.oversample * pool.samples, config.train.max_rollouts
    steps = config.train.steps if limit is None else min(config.train.steps, -(-limit // step))
    count = each * step * steps
    text = f"reward {reward.name!r} needs at most {count:,} verdicts in this run, and reward.budget is "
    text += f"{given['budget']:,}; verdicts of other runs in {given['cache']} count too"
    if count > given["budget"]:
        text += f". The run may end early: set reward.budget={count}, or what that file holds more"
    return text


def _dry_run(arguments: argparse.Namespace, stage: str) -> int:
    from qr_jax import config as configs

    with terminal.phase("checking the config"):
        config, folder = options.resolve(arguments, stage)
        _refuse_folder(folder)
        _check_parts(config)
        if stage:
            from qr_jax.settings import checks

            checks.check_cold_start(config)
        right = _checked(config)
    if not stage and (text := _verdicts(config)):
        terminal.say(text)
    terminal.result(json.dumps(configs.to_json(config), indent=2))
    terminal.say(right)
    return 0


def _run(arguments: argparse.Namespace, stage: str) -> int:
    to_stdout = not (arguments.json or arguments.dry_run)
    terminal.speak("stdout" if to_stdout else "stderr", verbose=arguments.verbose)
    if arguments.dry_run:
        return _dry_run(arguments, stage)
    config, folder = options.resolve(arguments, stage)
    if not arguments.process:
        _check_parts(config)
        _refuse_folder(folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(terminal.phase(f"{'the cold start' if stage else 'training'}, in all"))
        with terminal.phase("starting"):
            stack.enter_context(options.start(config, arguments))
            from qr_jax.parallel import hosts  # here: it imports jax

            is_first = hosts.index() == 0
            if not is_first:  # the others print errors alone
                terminal.speak(None)
            from qr_jax.lab import run_folders

            if arguments.restart and (aside := hosts.by_first(lambda: run_folders.set_aside(folder, config))):
                terminal.say(f"begins anew; the folder that was there is {aside} now")
            if stage:
                from qr_jax.sft import sft as run
            else:
                from qr_jax.train import train as run
        summary = run(config, folder)
    if is_first and arguments.json:
        terminal.result(json.dumps(summary, indent=2, default=str))
    return 0
