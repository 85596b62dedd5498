"""qr-jax <command>: reads and checks the command line before a device is touched, and calls the file that does it."""

import argparse
import difflib
import importlib.metadata
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
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
        return _end(f"error: {error}{_notes(error)}", errors.USER_ERROR)
    except KeyboardInterrupt:  # before a run listens, or in a command that has nothing to save
        goes_on = "; the same command goes on with what was saved" * (words[:1] in (["train"], ["sft"], ["quickstart"]))
        return _end(interrupts.STOPPED + goes_on, errors.INTERRUPTED, at_once=argv is None)
    except BrokenPipeError:  # whoever read our output is gone (`| head`): nothing to tell, and no noise at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.FAILED
    except OSError as error:  # a file, a disk, a network: of libraries too, whose messages may have many lines
        from qr_jax import plugins

        code = errors.LOST if isinstance(error, errors.Busy) else errors.FAILED
        line = f"{' '.join(str(error).split()) or type(error).__name__}{_notes(error)}"
        return _end(f"error: {plugins.failed_outside(error) or line}", code)
    except errors.Outage as error:
        return _end(f"error: {error}", errors.SERVICE_DOWN)
    except Exception as error:
        from qr_jax import plugins

        if isinstance(error, ModuleNotFoundError) and (extra := plugins.extra_with(error.name or "")):
            todo = f"pip install 'qr_jax[{extra}]' brings it"
            return _end(f"error: the package {error.name} is not installed; {todo}", errors.USER_ERROR)
        if told := plugins.failed_outside(error):
            return _end(f"error: {told}", errors.FAILED)
        raise  # a bug of ours, with its traceback
    finally:
        terminal.speak("stdout")
        if argv is None:  # the process ends now: nothing is left to save, and libraries' last work may be cut short
            signal.signal(signal.SIGINT, lambda *_: os._exit(errors.INTERRUPTED))


def _notes(error: Exception) -> str:
    """Return what was noted of an error on its way, as the name of the plug-in that raised it."""
    return "".join(f"; {note}" for note in getattr(error, "__notes__", ()) if "JAX has removed" not in note)


def _read(words: list[str], parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the arguments of a command line, its overrides among them. ValueError says what is wrong with it."""
    if words[0] == "help":
        words = [*words[1:], "--help"]
    if any(not word.strip() or re.fullmatch("--[a-z-]+=", word) for word in words):  # "" would be this folder
        raise UserError("an argument is empty: is a shell variable not set?")
    if strange := next((word for word in words if word.encode(errors="ignore").decode() != word), None):
        raise UserError(f"{os.fsencode(strange)!r} is no text in UTF-8; give it a name that is")
    overrides: list[str] = []
    command = parser.get_default("commands").get(words[0])
    if command and command.get_default("takes_settings"):
        words, overrides = take_overrides(words, command)
    arguments, more = parser.parse_known_args(words)
    if more:
        raise UserError(_not_taken(more, arguments.parser))
    arguments.overrides = overrides
    return arguments


def _not_taken(more: Sequence[str], part: argparse.ArgumentParser) -> str:
    """Say that a command, or a part of one, does not take these words, and what to do about it."""
    name, cure = more[0].partition("=")[0], f"'{part.prog} --help' lists what it takes"
    if part.prog.endswith(" report"):
        cure = f"`qr-jax compare RUN RUN` compares runs; {cure}"
    close = difflib.get_close_matches(name, part._option_string_actions, n=1, cutoff=0.7)
    if close and name.startswith("--"):
        return f"there is no option {name}; did you mean {close[0]}?"
    if part.get_default("takes_settings"):
        cure = f"a setting is written NAME=VALUE, without -- and blanks, a question in quotes; {cure}"
    return f"{part.prog} does not take {' '.join(more)!r}; {cure}"


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


class _Parser(argparse.ArgumentParser):
    """A parser that names the nearest command, or part of one, for a word that is none."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            known = OTHER_COMMANDS.get(value) or nearest(value, action.choices)
            raise UserError(
                f"there is no {self.prog} {value!r}{known or f'; `{self.prog} --help` lists what there is'}"
            )
        super()._check_value(action, value)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands. Building it imports nothing that takes time."""
    parser = _Parser(prog="qr-jax", description="Trains language models to search.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"qr_jax {importlib.metadata.version('qr_jax')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    parser.set_defaults(commands=commands.choices)

    def command(name: str, run: Any, text: str, usage: str | None = None) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, usage=usage, allow_abbrev=False)
        made.set_defaults(run_command=run, parser=made)
        return made

    for commands_of in (doctor, train, settings, studies, pods, runs, serve, eval, data, synth):
        commands_of.add(command)
    return parser


def take_overrides(words: Sequence[str], command: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """Part the command's own words from the overrides (`a.b=c`), which may stand anywhere after it."""
    takes_value = {name for action in command._actions if action.nargs != 0 for name in action.option_strings}
    takes_several = {name for action in command._actions if action.nargs == "+" for name in action.option_strings}
    own, overrides, waiting = [], [], list(words)
    while waiting:
        word = waiting.pop(0)
        name, equals, _ = word.partition("=")
        if word in takes_value and waiting:
            own += [word, waiting.pop(0)]
            while word in takes_several and waiting and not waiting[0].startswith("--"):
                own.append(waiting.pop(0))
        elif equals and re.fullmatch(r"\+?[\w.][\w.-]*", name):  # a question may hold "=" too
            overrides.append(word)
        else:
            own.append(word)
    return own, overrides
