"""qr-jax <command>: reads and checks the command line before a device is touched, and calls the file that does it."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from qr_jax import mistakes

RUN_HELP = (
    "the run's folder; by default runs/ and the config's name, or the folder of a config.json (which goes on there)"
)
SFT_RUN_HELP = (
    "the run's folder; by default runs/, the config's name and /sft, where `train` of the same config looks for its "
    "cold start; or the folder of a config.json (which goes on there)"
)
PROCESS_OPTIONS = ("--coordinator", "--processes", "--process")
TRUST = "a package outside qr_jax whose plug-ins the run may use; repeat it for more"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; what it returns is the exit code. A ValueError of ours or an OSError is one line
    (and 2 or 1: mistakes.py)."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser()
    overrides: list[str] = []
    if words[:1] and words[0] in ("train", "sft", "plan"):
        words, overrides = take_overrides(words)
    arguments = parser.parse_args(words)
    arguments.overrides = overrides
    try:
        with _shown_log():
            code = arguments.run_command(arguments)
            sys.stdout.flush()  # here, where a closed pipe is caught
            return code
    except ValueError as error:
        if not mistakes.is_of_asking(error):  # a bug of ours: its traceback is what helps
            raise
        return _fail(str(error))
    except BrokenPipeError:  # whoever read our output is gone (`| head`): nothing to tell, and no noise at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return mistakes.FAILED
    except OSError as error:  # a file, a disk, a network: of libraries too, whose messages may have many lines
        return _fail(" ".join(str(error).split()) or type(error).__name__, mistakes.FAILED)


def _fail(text: str, code: int = mistakes.WRONG) -> int:
    """Say what is wrong; the code is one of mistakes.py."""
    from qr_jax.secrecy import redact

    print(redact(f"error: {text}"), file=sys.stderr)
    from qr_jax.parallel import hosts

    if hosts.count() > 1:  # at an ordinary exit jax would wait for the others, which this one has left alone
        sys.stderr.flush()
        os._exit(code)
    return code


@contextmanager
def _shown_log() -> Iterator[None]:
    """Within, what qr_jax logs (what was kept, what was refused) is on stderr; no other logger is touched."""
    log, shown = logging.getLogger("qr_jax"), logging.StreamHandler(sys.stderr)
    shown.setFormatter(logging.Formatter("%(message)s"))
    before = log.level, log.propagate
    log.addHandler(shown)
    log.setLevel(logging.INFO)
    log.propagate = False  # a library that we import gives the root logger a handler, which would say it all again
    try:
        yield
    finally:
        log.removeHandler(shown)
        log.setLevel(before[0])
        log.propagate = before[1]


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands. Building it imports nothing that takes time."""
    parser = argparse.ArgumentParser(prog="qr-jax", description="Trains language models to search.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str, usage: str | None = None) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, usage=usage, allow_abbrev=False)
        made.set_defaults(run_command=run)
        return made

    doctor = command("doctor", _doctor, "what this machine has, and what is missing")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    for name, run, text, folder in (
        ("train", _train, "train by a config: cold start, then GRPO with a recycling pool", RUN_HELP),
        ("sft", _sft, "the cold start alone: cross-entropy on expert traces", SFT_RUN_HELP),
    ):
        made = command(name, run, text, usage=f"qr-jax {name} CONFIG [setting=value ...] [options]")
        made.add_argument(
            "config", metavar="CONFIG", help="a Python config (file.py, or file.py:name), or a run's config.json"
        )
        made.add_argument("--run", type=Path, metavar="FOLDER", help=folder)
        made.add_argument("--dry-run", action="store_true", help="print the resolved config as JSON and stop")
        _add_process_options(made)
        made.add_argument("--json", action="store_true", help="print the summary as JSON")
        made.add_argument("--allow-plugins", action="append", default=[], metavar="PACKAGE", help=TRUST)
    _add_run_commands(command)
    from qr_jax.commands import cli_data, cli_eval, cli_pods, cli_studies  # they read this file's names

    cli_studies.add(command)
    cli_pods.add(command)
    cli_eval.add(command)
    cli_data.add(command)
    world = command("world", _world, "build a synthetic world and write it as JSONL files")
    world.add_argument("folder", type=Path, metavar="FOLDER", help="where its files go")
    world.add_argument("settings", nargs="*", metavar="setting=value", help="as in seed=3 documents=5000")
    world.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def _add_run_commands(command: Any) -> None:
    """The commands that open a run's folder."""
    ask = command("ask", _ask, "show a trained agent's searches and answer to one question")
    export = command("export", _export, "write the model as a Hugging Face folder")
    for made in (ask, export):
        made.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
        made.add_argument("--allow-plugins", action="append", default=[], metavar="PACKAGE", help=TRUST)
    ask.add_argument("question", metavar="QUESTION")
    ask.add_argument("--json", action="store_true", help="print JSON")
    export.add_argument("--hf", type=Path, required=True, metavar="FOLDER", help="where the model goes")
    export.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of the weights")


def whole(least: int) -> Callable[[str], int]:
    """What reads an option's whole number of at least `least`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"found {text!r}; wanted a whole number of at least {least}")
        return int(text)

    return read


def take_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command's own words, and the overrides among them (`a.b=c`, `--a.b c`), which may stand anywhere after it."""
    with_value = ("--run", "--allow-plugins", *PROCESS_OPTIONS, "--topology", "--price")
    alone = ("--dry-run", "--json", "--no-search", "--help", "-h")
    own, overrides, waiting = [], [], list(words)
    while waiting:
        word = waiting.pop(0)
        name = word.partition("=")[0]
        if name in with_value:
            own += [word] + ([waiting.pop(0)] if "=" not in word and waiting else [])
        elif name in alone:
            own.append(word)
        elif word.startswith("--"):
            is_flag = "=" in word or not waiting or waiting[0].startswith("--")
            overrides += [word] if is_flag else [f"{word}={waiting.pop(0)}"]
        elif "=" in word:
            overrides.append(word)
        else:
            own.append(word)
    return own, overrides


def _resolve(arguments: argparse.Namespace, stage: str = "") -> tuple[Any, Path]:
    """The checked config, and the folder of the run or its `stage`; a config.json's plug-ins must be allowed ones."""
    from qr_jax import config as configs

    path, name = configs.parts(arguments.config)
    config = configs.load(arguments.config, arguments.overrides)
    if arguments.dry_run:
        print(json.dumps(configs.to_json(config), indent=2))
    # A Python config is its user's own code; a config.json may be somebody else's.
    configs.check(config, allow_plugins=tuple(arguments.allow_plugins) if path.suffix == ".json" else None)
    stem = path.stem if name == "config" else f"{path.stem}_{name}"
    return config, arguments.run or (path.parent if path.name == "config.json" else Path("runs") / stem / stage)


def _open(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Check a run's config before a device is touched, and let the CPU show its devices; the allowed packages."""
    from qr_jax import config as configs

    if not (arguments.run / "config.json").is_file():
        raise ValueError(f"{arguments.run} is no run: it has no config.json")
    allow_plugins = tuple(arguments.allow_plugins)
    config = configs.load(arguments.run / "config.json")
    configs.check(config, allow_plugins=allow_plugins)
    _start(config)
    return allow_plugins


def _start(config: Any, arguments: argparse.Namespace | None = None) -> AbstractContextManager:
    """What must be said to jax before it starts: the devices, the other processes, where compiled programs are kept.

    What comes back watches the other processes while it is open. Without `arguments` this process is alone.
    """
    from qr_jax import bucket
    from qr_jax.parallel import compile_cache, hosts, mesh, start, watchdog

    if arguments is None:
        compile_cache.enable()
        mesh.emulate(config.mesh.devices)
        return nullcontext()
    start.begin(
        config.mesh, coordinator=arguments.coordinator, processes=arguments.processes, process=arguments.process
    )
    me = hosts.index()
    folder = compile_cache.enable(process=me)
    if config.train.bucket:
        compile_cache.mirror(folder, bucket.opened(config.train.bucket) / bucket.COMPILED, process=me)
    return watchdog.watching(config.mesh.heartbeat_s)


def _is_first() -> bool:
    """Whether this is the process that speaks; the others are silent but for errors."""
    from qr_jax.parallel import hosts

    return hosts.index() == 0


def _add_process_options(command: argparse.ArgumentParser) -> None:
    """Where a run goes over several processes and no TPU pod's environment says so."""
    text = "process 0's address, for a run of several processes; a TPU pod's environment says all three by itself"
    command.add_argument("--coordinator", metavar="HOST:PORT", help=text)
    command.add_argument("--processes", type=whole(1), metavar="N", help="how many processes the run has")
    command.add_argument("--process", type=whole(0), metavar="I", help="which of them this is, from 0")


def _summary(summary: Any, as_json: bool) -> None:
    """The summary on stdout: all of it as JSON, or in lines without what is nested deeper than one level."""
    if as_json:
        print(json.dumps(summary, indent=2, default=str))
        return
    for name, value in (summary or {}).items():
        if not isinstance(value, Mapping):
            print(f"{name}: {value}")
        elif value and all(one is None or isinstance(one, (str, int, float)) for one in value.values()):
            print(f"{name}: {', '.join(f'{key} {_short(one)}' for key, one in value.items())}")


def _short(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _say(arguments: argparse.Namespace) -> Callable[[str], None]:
    """Where a run tells how it goes: stdout, but stderr when stdout is for the JSON alone; only process 0 speaks."""
    if not _is_first():
        return lambda text: None
    return (lambda text: print(text, file=sys.stderr)) if arguments.json else print


def _doctor(arguments: argparse.Namespace) -> int:
    from qr_jax.commands import doctor

    found = doctor.examine()
    print(json.dumps(found, indent=2) if arguments.json else doctor.format_report(found))
    return 0


def _train(arguments: argparse.Namespace) -> int:
    config, folder = _resolve(arguments)
    if not arguments.dry_run:
        with _start(config, arguments):
            from qr_jax.train import train

            summary = train(config, folder, say=_say(arguments))
        if _is_first():
            _summary(summary, arguments.json)
    return 0


def _sft(arguments: argparse.Namespace) -> int:
    config, folder = _resolve(arguments, "sft")
    if not arguments.dry_run:
        with _start(config, arguments):
            from qr_jax.sft import sft

            summary = sft(config, folder, say=_say(arguments))
        if _is_first():
            _summary(summary, arguments.json)
    return 0


def _ask(arguments: argparse.Namespace) -> int:
    allow_plugins = _open(arguments)
    from qr_jax import evaluate

    episode = evaluate.ask(arguments.run, arguments.question, allow_plugins=allow_plugins)
    print(json.dumps(_episode_json(episode), indent=2) if arguments.json else evaluate.format_episode(episode))
    return 0


def _episode_json(episode: Any) -> dict[str, Any]:
    """What `ask --json` prints: question, answer, how it ended, and each turn with the ids of the passages found."""
    turns = [
        {
            "author": turn.author,
            "text": turn.text,
            "queries": list(turn.queries),
            "passages": [passage.id for found in turn.passages for passage in found],
        }
        for turn in episode.turns
    ]
    return {"question": episode.query.question, "answer": episode.answer, "stop": episode.stop, "turns": turns}


def _export(arguments: argparse.Namespace) -> int:
    _open(arguments)
    from qr_jax import evaluate

    print(evaluate.export(arguments.run, arguments.hf, dtype=arguments.dtype))
    return 0


def _world(arguments: argparse.Namespace) -> int:
    from qr_jax.overrides import pairs
    from qr_jax.queries import world
    from qr_jax.settings import conform, guess

    given = {name: guess(text) for name, text in pairs(arguments.settings)}
    settings = conform("world", given, world.WorldSettings)
    made = world.build(settings)
    world.export(made, arguments.folder)
    _summary({name: len(rows) for name, rows in vars(made).items()} | {"folder": str(arguments.folder)}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
