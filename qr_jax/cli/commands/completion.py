"""The command that lets a shell complete commands, options and files: `qr-jax completion bash|zsh`."""

import argparse
from collections.abc import Iterator
from typing import Any

from qr_jax.logging import terminal

FILES = ("CONFIG", "CONFIG|RUN|SUITE", "RUN", "FILE", "FOLDER", "CORPUS", "OUT")  # what stands for a file or a folder


def add(command: Any) -> None:
    """Its parser, as `cli.make_parser` adds those of the other commands."""
    made = command("completion", _completion, "a script by which bash or zsh completes commands, options and files")
    made.add_argument("shell", choices=("bash", "zsh"))
    made.epilog = 'bash: eval "$(qr-jax completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc, after compinit'


def _completion(arguments: argparse.Namespace) -> int:
    import shtab

    for action in actions(arguments.parser):
        if action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined] - by which shtab knows a file
    terminal.result(shtab.complete(arguments.parser, arguments.shell))
    return 0


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser and of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                yield from actions(part)
        else:
            yield action
