"""A run's folder holds files of its own: what leads out of it, or cannot be read to its end, is not opened unasked.

A link in somebody else's folder would let a report be written over a file of its user's, or a file of its user's be
read into one.
"""

import argparse
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from qr_jax import config, trust

# Bytes of a file that is read whole. Arrays, which are not, have other names.
LARGEST = {".json": 2**28, ".jsonl": 2**32, "COMMITTED": 2**12}


def check(arguments: argparse.Namespace) -> None:
    """ValueError where a run's folder that the command names holds what no run writes, and the user has not allowed it.

    With `arguments.trust` it is allowed, from now on.
    """
    for folder in dict.fromkeys(_named(arguments)):
        strange = [f"{name}: {what}" for name, what in _strange(folder)]
        allowed = f"{folder.resolve()} with {strange}"
        if strange and getattr(arguments, "trust", False):
            trust.note(allowed)
        if strange and not trust.noted(allowed):
            listed = "".join(f"\n  {line}" for line in strange)
            todo = f"take that away; or, where it is your own, allow it from now on: qr-jax report {folder} --trust"
            raise ValueError(f"{folder} holds what no run writes:{listed}\n{todo}")


def _named(arguments: argparse.Namespace) -> Iterator[Path]:
    """The folders of runs among a command's arguments: RUN, that of a config.json, and those that hold one."""
    for name in ("run", "what", "config", "rates"):
        value = getattr(arguments, name, None)
        for word in value if isinstance(value, (list, tuple)) else (value,):
            if not isinstance(word, (str, Path)):
                continue
            path = Path(word)
            folder = path.parent if path.name == "config.json" else path
            if os.path.isdir(folder) and not _is_model(arguments, folder):  # False, too, of what is no name of a file
                yield folder


def _is_model(arguments: argparse.Namespace, folder: Path) -> bool:
    """Whether a command that asks an agent (commands/asked.py) was given a Hugging Face folder, which it only reads.

    The hub's cache is full of links.
    """
    file = folder / "config.json"
    asks = {"run", "config"} <= {*vars(arguments)}
    return asks and file.is_file() and file.stat().st_size <= LARGEST[".json"] and not config.is_run(folder)


def _strange(folder: Path) -> Iterator[tuple[str, str]]:
    whole = folder.resolve()
    for place, folders, files in os.walk(folder):
        for name in sorted(folders + files):
            path = Path(place) / name
            shown = str(path.relative_to(folder))
            status = path.lstat()
            if path.is_symlink():
                to = Path(os.path.realpath(path))
                if whole not in to.parents and to != whole:
                    yield shown, f"a link to {to}"
            elif not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                yield shown, "neither a file nor a folder"
            elif status.st_size > LARGEST.get(path.suffix or path.name, status.st_size):
                yield shown, f"{status.st_size:,} bytes"
