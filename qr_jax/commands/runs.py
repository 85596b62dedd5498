"""The commands that open runs' folders: list them, ask an agent, export its model, pack what a bug report needs."""

import argparse
from pathlib import Path
from typing import Any

from qr_jax import terminal
from qr_jax.commands import options


def add(command: Any) -> None:
    """Their parsers, as `cli.make_parser` adds those of the other commands."""
    listing = command("runs", _runs, "the runs in a folder: how far each is, and its last accuracy")
    listing.add_argument("folder", nargs="?", type=Path, default=Path("runs"), metavar="FOLDER", help="(runs)")
    options.add_json(listing)
    ask = command("ask", _ask, "show a trained agent's searches and answer to one question")
    export = command("export", _export, "write the model as a Hugging Face folder")
    for made in (ask, export):
        options.add_run(made)
    text = "what a stranger needs to find a fault, in one zip file: no secret, no question, no answer"
    bundle = command("bug-report", _bug_report, text)
    bundle.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    bundle.add_argument("--out", type=Path, metavar="FILE", help="the zip file (RUN.bug_report.zip)")
    ask.add_argument("question", metavar="QUESTION")
    options.add_json(ask)
    export.add_argument("--hf", type=Path, required=True, metavar="FOLDER", help="where the model goes")
    export.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of the weights")


def _runs(arguments: argparse.Namespace) -> int:
    from qr_jax.report import run_list

    found = run_list.runs_in(arguments.folder)
    if not found and not arguments.json:
        print(f"{arguments.folder} has no runs; `qr-jax train configs/quickstart.py` makes one")
        return 0
    rows = [vars(run) | {"folder": str(run.folder)} for run in found]
    return options.show(rows, arguments.json, lambda _: run_list.format_table(found))


def _ask(arguments: argparse.Namespace) -> int:
    allow_plugins = options.open_run(arguments)
    from qr_jax import evaluate

    episode = evaluate.ask(arguments.run, arguments.question, allow_plugins=allow_plugins)
    return options.show(_episode_json(episode), arguments.json, lambda _: evaluate.format_episode(episode))


def _episode_json(episode: Any) -> dict[str, Any]:
    """What `ask --json` prints: question, answer, how it ended, and each turn with the ids of the passages found."""
    turns = []
    for turn in episode.turns:
        passages = [passage.id for found in turn.passages for passage in found]
        wrote = {"author": turn.author, "text": turn.text}
        turns.append(wrote | {"queries": list(turn.queries), "passages": passages})
    return {"question": episode.query.question, "answer": episode.answer, "stop": episode.stop, "turns": turns}


def _export(arguments: argparse.Namespace) -> int:
    options.open_weights(arguments)
    from qr_jax import evaluate

    terminal.result(str(evaluate.export(arguments.run, arguments.hf, dtype=arguments.dtype)))
    return 0


def _bug_report(arguments: argparse.Namespace) -> int:
    options.check_out(arguments.out)
    from qr_jax import bug_report

    path, names = bug_report.write(arguments.run, arguments.out)
    terminal.result(f"{path} holds {', '.join(names)}; look into it before you send it")
    return 0
