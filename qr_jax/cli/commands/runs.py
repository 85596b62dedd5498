"""Commands that open runs' folders: list them, ask an agent, export its model, pack a bug report."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qr_jax.cli.commands import options
from qr_jax.cli.commands.asked import add_asked, asked
from qr_jax.errors import UserError
from qr_jax.logging import terminal

LEAVES = ("exit", "quit")  # what ends `chat`, as Ctrl-D does


def add(command: Any) -> None:
    """Add these commands' parsers, as `cli.make_parser` adds those of the other commands."""
    listing = command("runs", _runs, "the runs in a folder: how far each is, and its last accuracy")
    where = "the folder of the runs (runs)"
    listing.add_argument("folder", nargs="?", type=Path, default=Path("runs"), metavar="FOLDER", help=where)
    options.add_json(listing)
    text = "show a trained agent's searches and answer to one question"
    ask = command("ask", _ask, text, usage="qr-jax ask RUN QUESTION [setting=value ...] [options]")
    text = "answer questions one after another, a line each, from the terminal or a pipe"
    chat = command("chat", _chat, text, usage="qr-jax chat RUN [setting=value ...] [options]")
    for made in (ask, chat):
        add_asked(made)
        options.add_trust(made)
        made.set_defaults(takes_settings=True)
    export = command("export", _export, "write the model as a Hugging Face folder, with its card")
    options.add_run(export)
    text = "write one zip file for a bug report: no secret, no question, no answer"
    bundle = command("bug-report", _bug_report, text)
    bundle.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    bundle.add_argument("--out", dest="file", type=Path, metavar="FILE", help="the zip file (RUN.bug_report.zip)")
    ask.add_argument("question", nargs="?", metavar="QUESTION", help="in quotes")
    options.add_json(ask, chat)
    where = export.add_mutually_exclusive_group(required=True)
    where.add_argument("--hf", type=Path, metavar="FOLDER", help="where the model goes, adapters merged into it")
    where.add_argument("--peft", type=Path, metavar="FOLDER", help="where the adapters go alone, as PEFT reads them")
    export.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of the weights")


def _runs(arguments: argparse.Namespace) -> int:
    from qr_jax.lab.report import run_list

    found = run_list.runs_in(arguments.folder)
    if not found and not arguments.json:
        terminal.result(f"{arguments.folder} has no runs; `qr-jax train configs/quickstart.py` makes one")
        return 0
    rows = [vars(run) | {"folder": str(run.folder)} for run in found]
    return options.show(rows, arguments.json, lambda _: run_list.format_table(found))


def _ask(arguments: argparse.Namespace) -> int:
    if arguments.question is None and not os.path.isdir(arguments.run):
        raise UserError(
            f"no run is named to ask {str(arguments.run)!r}: qr-jax ask RUN QUESTION; `qr-jax runs` lists them"
        )
    question = arguments.question or ""
    if not question.strip():
        raise UserError("the question is empty; give one in quotes, behind the run")
    _opened(arguments)(question)
    return 0


def _chat(arguments: argparse.Namespace) -> int:
    with terminal.phase("qr-jax chat"):
        answer = _opened(arguments)
    question = None
    for question in filter(str.strip, _typed_lines()):
        if question.strip() in LEAVES:
            break
        try:
            answer(question.strip())
        except ValueError as error:  # of this question alone, one that is too long for the context, say
            if not isinstance(error, UserError):
                raise
            terminal.say(f"error: {error}")
    if question is None:
        terminal.say("no question was read")
    return 0


def _opened(arguments: argparse.Namespace) -> Callable[[str], None]:
    """Open the agent; return a function that prints the agent's searches and answer to a question, decoded greedily."""
    settings, run = asked(arguments, "corpus")
    options.start(settings)
    from qr_jax import assemble, evaluate
    from qr_jax.evaluation.subject import open_model
    from qr_jax.records import Query
    from qr_jax.serve.answers import trajectory

    config = assemble.for_one(settings)
    with terminal.phase("loading the passages"):
        search = assemble.searcher(config)
    with terminal.phase("loading the model"):
        agent, params, _ = open_model(config, run, hashed=False)
    how = {"env": assemble.environment(config), "search": search, "seed": config.seed, "step": 0, "temperature": 0.0}

    def answer(question: str) -> None:
        words, unknown = dict.fromkeys(question.split()), agent.tokenizer.unknown_id
        if lacking := [word for word in words if unknown is not None and unknown in agent.tokenizer.encode_data(word)]:
            listed = ", ".join(map(repr, lacking))
            terminal.say(f"the model's vocabulary lacks {listed}: it cannot tell such words apart")
        with terminal.phase("answering"):
            ((episode,),) = agent.engine.run(params, [Query("ask", question, ())], 1, purpose="ask", **how)
        terminal.result(json.dumps(trajectory(episode)) if arguments.json else evaluate.format_episode(episode))

    return answer


def _typed_lines() -> Iterator[str]:
    """Yield the lines of a pipe, or those typed at a prompt, until the end (Ctrl-D)."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() then edits its line and knows the ones before
    with contextlib.suppress(EOFError):
        while True:
            yield input("question (Ctrl-D or exit ends): ")


def _export(arguments: argparse.Namespace) -> int:
    option, folder = ("--hf", arguments.hf) if arguments.hf else ("--peft", arguments.peft)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; {option} wants a new folder")
    from qr_jax.lab import run_folders
    from qr_jax.run import run_files

    run_files.check_writable(folder, option)
    options.open_run(arguments, checked=False)
    run_folders.check_empty(folder)
    from qr_jax.lab import exporting

    if arguments.peft:
        terminal.result(str(exporting.export_adapter(arguments.run, folder)))
    else:
        terminal.result(str(exporting.export(arguments.run, folder, dtype=arguments.dtype)))
    return 0


def _bug_report(arguments: argparse.Namespace) -> int:
    from qr_jax.run import run_files

    options.check_out(arguments.file, b"PK")
    run_files.check_there(arguments.run)
    from qr_jax.lab import bug_report

    if not arguments.file:
        options.check_out(bug_report.place(arguments.run), b"PK")
    path, names = bug_report.write(arguments.run, arguments.file)
    terminal.result(f"{path} holds {', '.join(names)}; look into it before you send it")
    return 0
