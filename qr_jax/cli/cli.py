"""qr-jax <command>: reads and checks the command line before a device is touched, and calls the file that does it."""

import argparse
import dataclasses
import difflib
import importlib.metadata
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from qr_jax import errors
from qr_jax.cli import interrupts
from qr_jax.cli.commands import data, doctor, eval, pods, runs, serve, settings, studies, synth, train
from qr_jax.errors import UserError
from qr_jax.lab import interpreter
from qr_jax.logging import terminal
from qr_jax.settings.settings import nearest

OTHER_COMMANDS = {
    "resume": "; `qr-jax train RUN/config.json`, or the command that began the run, goes on with it",
    "list": "; did you mean runs?", "ls": "; did you mean runs?", "test": "; did you mean eval?",
    "version": "; did you mean --version?",
}  # fmt: skip
# Options that are no more, with what does their work now.
REMOVED_OPTIONS: Mapping[str, str] = {
    name: "--trust allows all that a run asks for" for name in ("--allow-plugins", "--allow-host")
}
# Names without a dot.
TOP_SETTINGS = ("seed", "rule", "rounds", "env", "retriever", "tools", "reward", "advantage", "loss")
# They say by themselves what goes on, or wait for others: a line that counts their seconds says nothing.
OWN_WORDS = ("quickstart", "train", "sft", "serve", "serve-retriever", "chat")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A UserError or an OSError is printed in one line (codes 2 and 1:
    errors.py). Without `argv`, a failed command ends the process here, unless its run has other processes: threads
    of a library that was just starting may crash in an orderly exit."""
    try:
        code = _run(argv)
    except SystemExit as ended:  # of a run that was told to stop, and of argparse
        if argv is not None or not isinstance(ended.code, int):
            raise
        code = ended.code
    if argv is None and code and not _has_others():
        with suppress(OSError):  # whoever read our output may be gone
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return code


def _run(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            interrupts.hear_interrupts()
        if argv is None:
            interpreter.quiet_libtpu()
        terminal.speak("stderr")
        parser = make_parser()
        if not words or words == ["help"]:
            terminal.result(parser.format_help().strip())
            return 0 if words else errors.USER_ERROR
        arguments = _read(words, parser)
        with _shown_log(), nullcontext() if words[0] in OWN_WORDS else terminal.phase(f"qr-jax {words[0]}"):
            from qr_jax.lab import run_folders

            run_folders.check(arguments)
            code = arguments.run_command(arguments)
            sys.stdout.flush()  # here, where a closed pipe is caught
            return code
    except errors.UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:  # before a run listens, or in a command that has nothing to save
        goes_on = "; the same command goes on with what was saved" * (words[:1] in (["train"], ["sft"], ["quickstart"]))
        return _end(interrupts.STOPPED + goes_on, errors.INTERRUPTED, at_once=argv is None)
    except BrokenPipeError:  # whoever read our output is gone (`| head`): nothing to tell, and no noise at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.FAILED
    except OSError as error:  # a file, a disk, a network: of libraries too, whose messages may have many lines
        code = errors.LOST if isinstance(error, errors.Busy) else errors.FAILED
        notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
        return _fail((" ".join(str(error).split()) or type(error).__name__) + notes, code)
    except Exception as error:
        from qr_jax import plugins

        if told := plugins.failed_outside(error):
            return _fail(told, errors.FAILED)
        raise  # a bug of ours, with its traceback
    finally:
        terminal.speak("stdout")
        if argv is None:  # the process ends now: nothing is left to save, and libraries' last work may be cut short
            signal.signal(signal.SIGINT, lambda *_: os._exit(errors.INTERRUPTED))


def _read(words: list[str], parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the arguments of a command line, its overrides among them. ValueError says what is wrong with it."""
    commands: Mapping[str, argparse.ArgumentParser] = parser.get_default("commands")
    if words[0] == "help":
        words = [*words[1:], "--help"]
    if not words[0].startswith("-") and words[0] not in commands:
        known = OTHER_COMMANDS.get(words[0]) or nearest(words[0], commands)
        raise UserError(f"there is no command {words[0]!r}{known or '; `qr-jax --help` lists those there are'}")
    if any(not word.strip() or re.fullmatch("--[a-z-]+=", word) for word in words):  # "" would be this folder
        raise UserError("one of the words is empty, as a shell's variable that is not set")
    if strange := next((word for word in words if word.encode(errors="ignore").decode() != word), None):
        raise UserError(f"{os.fsencode(strange)!r} is no text in UTF-8; give it a name that is")
    if removed := next((name for word in words if (name := word.partition("=")[0]) in REMOVED_OPTIONS), None):
        raise UserError(f"there is no option {removed} any more; {REMOVED_OPTIONS[removed]}")
    overrides: list[str] = []
    if words[0] in commands and commands[words[0]].get_default("takes_settings"):
        words, overrides = take_overrides(words, commands[words[0]], commands)
    refuse_nearly(words, parser)
    arguments, more = parser.parse_known_args(words)
    if more:
        part = _part(words, parser)[0].prog
        raise UserError(f"{part} does not take {' '.join(more)!r}; {_cure(words, more, part, overrides)}")
    arguments.overrides = overrides
    return arguments


def _cure(words: Sequence[str], more: Sequence[str], part: str, overrides: Sequence[str]) -> str:
    """Say what to do about words that a command does not take."""
    if words[:2] == ["data", "check"]:
        return "check one file at a time; --against FILE says which questions stand in both"
    if words[:2] == ["data", "get"] and more[0].startswith("--files"):
        return "`qr-jax data convert FILE OUT` reads a file that you have"
    if words[0] == "ask":
        return "put the question in quotes"
    if overrides and overrides[-1].endswith("="):
        return f"a setting is written {overrides[-1]}VALUE, without blanks"
    if (setting := more[0].strip(":")) in TOP_SETTINGS:
        return f"a setting is written {setting}=VALUE, without blanks"
    return f"'{part} --help' lists what it takes"


def _fail(text: str, code: int = errors.USER_ERROR) -> int:
    """Say what is wrong; the code is one of errors.py."""
    return _end(f"error: {text}", code)


def _end(text: str, code: int, *, at_once: bool = False) -> int:
    """Say why the command ends and return its code; exit here if `at_once`, or if its run has other processes."""
    from qr_jax.logging.secrecy import redact

    terminal.speak("stderr")
    terminal.say(redact(text))
    if at_once or _has_others():  # at an ordinary exit jax would wait for the others, which this one has left alone
        sys.stderr.flush()
        os._exit(code)
    return code


def _has_others() -> bool:
    """Return True if the run has other processes."""
    from qr_jax.parallel import hosts

    return hosts.count() > 1


class _Log(logging.Handler):
    """A log handler that prints to stderr, above the live line."""

    def emit(self, record: logging.LogRecord) -> None:
        from qr_jax.logging.secrecy import redact

        print(terminal.readable(redact(record.getMessage())), file=sys.stderr, flush=True)


@contextmanager
def _shown_log() -> Iterator[None]:
    """Print what qr_jax logs (what was kept, what was refused) to stderr in this block; no other logger is touched."""
    log, shown = logging.getLogger("qr_jax"), _Log()
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
    """Return the parser of all commands. Building it imports nothing that takes time."""
    parser = argparse.ArgumentParser(prog="qr-jax", description="Trains language models to search.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"qr_jax {importlib.metadata.version('qr_jax')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    parser.set_defaults(commands=commands.choices, parser=parser)

    def command(name: str, run: Any, text: str, usage: str | None = None) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, usage=usage, allow_abbrev=False)
        made.set_defaults(run_command=run)
        return made

    for commands_of in (doctor, train, settings, studies, pods, runs, serve, eval, data, synth):
        commands_of.add(command)
    return parser


def refuse_nearly(words: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Raise ValueError for a misspelt part of a command (`data chek`) or option of it (`--outt`)."""
    parser, waiting = _part(words, parser)
    if waiting and not waiting[0].startswith("-") and _parts(parser):
        raise UserError(f"there is no {parser.prog} {waiting[0]!r}{nearest(waiting[0], _parts(parser))}")
    options = [name for action in parser._actions for name in action.option_strings]
    for name in (word.partition("=")[0] for word in waiting if word.startswith("--") and word != "--"):
        if name not in options and (close := difflib.get_close_matches(name, options, n=1, cutoff=0.7)):
            raise UserError(f"there is no option {name}; did you mean {close[0]}?")


def _part(words: Sequence[str], parser: argparse.ArgumentParser) -> tuple[argparse.ArgumentParser, list[str]]:
    """Return the parser of the part of a command that the words name, and the words behind it."""
    waiting = list(words)
    while waiting and waiting[0] in (parts := _parts(parser)):
        parser = parts[waiting.pop(0)]
    return parser, waiting


def _parts(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """Return the parsers of a command's parts."""
    return {
        name: part
        for action in parser._actions if isinstance(action, argparse._SubParsersAction)
        for name, part in action.choices.items()
    }  # fmt: skip


def take_overrides(
    words: Sequence[str], command: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser] = {}
) -> tuple[list[str], list[str]]:
    """Part the command's own words from the overrides (`a.b=c`, `--a.b c`), which may stand anywhere after it.

    ValueError for a misspelt option of the command, and for an option of another of the `commands`.
    """
    takes_value = {name: action.nargs != 0 for action in command._actions for name in action.option_strings}
    own, overrides, waiting = [], [], list(words)
    while waiting:
        word = waiting.pop(0)
        name, equals, _ = word.partition("=")
        if name in takes_value:
            own += [word] + ([waiting.pop(0)] if takes_value[name] and not equals and waiting else [])
        elif word.startswith("--"):
            if close := difflib.get_close_matches(name, takes_value, n=1, cutoff=0.8):
                raise UserError(f"there is no option {name}; did you mean {close[0]}?")
            has = [other for other, parser in commands.items() if name in parser._option_string_actions]
            if has and name.removeprefix("--") not in TOP_SETTINGS:
                listed = f"'{command.prog} --help' lists what it takes"
                raise UserError(f"{name} is an option of {' and '.join(has)}, not of {words[0]}; {listed}")
            is_flag = equals or not waiting or waiting[0].startswith("--")
            overrides += [word] if is_flag else [f"{word}={waiting.pop(0)}"]
        elif equals and re.fullmatch(r"\+?[\w.-]+", name):  # a question may hold "=" too
            overrides.append(word)
        else:
            own.append(word)
    _refuse_blanks(own)
    return own, overrides


def _refuse_blanks(own: Sequence[str]) -> None:
    """Raise ValueError for `name = value`, `name =value` and `name value`, where `name` is a section's setting."""
    from qr_jax.config import Config

    sections = [field.name for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type)]
    for word in own:
        if word.startswith("="):
            raise UserError(f"{word!r} stands alone; wanted setting=value without blanks")
        is_setting = re.fullmatch(r"([a-z_]+)(\.[a-z_]+)+", word)
        if is_setting and is_setting[1] in sections and not os.path.exists(word):
            raise UserError(f"{word!r} has no value; wanted {word}=VALUE without blanks")
