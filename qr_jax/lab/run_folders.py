"""Guards of a run's folder: links out of it, pipes and files too large to read are not opened unless allowed.

A link in somebody else's folder could make a report overwrite a file of the user's, or copy from one.
"""

import argparse
import contextlib
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from qr_jax import config, trust
from qr_jax.config import Config
from qr_jax.errors import UserError
from qr_jax.run.run_files import check_there, free, lines, wrong
from qr_jax.run.run_lock import RunLock
from qr_jax.settings.settings import few

# Folders that W&B writes, with links into its cache; nothing here reads them.
OF_WANDB = (("wandb",), (config.COLD_START, "wandb"))
DEEPEST = 32  # folders in folders; a run's own are 7 deep


def check(arguments: argparse.Namespace) -> None:
    """Raise ValueError if a run's folder that the command names holds what no run writes and no user allowed.

    With `arguments.trust` it is allowed, from now on. `qr-jax runs` names a folder of runs, where one bad run must not
    hide the others: lab/report/run_list.py calls `wrong` for each file.
    """
    for folder, is_run in dict(_named(arguments)).items():
        check_folder(folder, allowed=getattr(arguments, "trust", False), is_run=is_run)
    for name in ("out", "hf"):
        if isinstance(folder := getattr(arguments, name, None), Path):
            check_out(folder)


def check_out(folder: Path) -> None:
    """Raise ValueError if a folder that a command writes into holds a link out of it, a pipe, or too large a file."""
    if strange := [f"\n  {name}: {what}" for name, what in (_strange(folder) if folder.is_dir() else ())]:
        todo = "take that away, or name a new folder"
        raise UserError(f"{folder} holds what qr-jax does not write:{''.join(strange)}\n{todo}")


def check_folder(folder: Path, *, allowed: bool, is_run: bool = False) -> None:
    """Check one folder: what no run writes is `allowed` from now on, or must have been; `is_run`: it must be a run."""
    strange = [f"{name}: {what}" for name, what in _strange(folder)]
    text = f"{folder.resolve()} with {strange}"
    if strange and allowed:
        trust.note(text)
    if strange and is_run and not os.path.lexists(folder / "config.json"):
        check_there(folder)
    if strange and not trust.noted(text):
        listed = "".join(f"\n  {line}" for line in strange)
        todo = f"take that away; or, where it is your own, allow it from now on: qr-jax report {folder} --trust"
        raise UserError(f"{folder} holds what no run writes:{listed}\n{todo}")


def check_own(folder: Path, option: str, *, trusted: bool) -> None:
    """Raise ValueError if the folder lies in a run that this user neither made nor allowed; `option` names another.

    What stands there would count as this user's own. `trusted` allows the run, from now on.
    """
    for run in (folder.absolute(), *folder.absolute().parents):
        file = run / "config.json"
        if not file.is_file() or wrong(file) or not config.is_run(run):
            continue
        if not trust.is_allowed(config.load(file), trusted=trusted):
            found = f"{folder} lies in {run}, which is not a run of yours: what stands there would count as your own"
            raise UserError(f"{found}; name a folder of yours with {option}, or give --trust")
        return


def check_trained(folder: Path) -> None:
    """Raise ValueError if there is no folder of a run, or only that of a cold start."""
    check_there(folder)
    file = folder / "metrics.jsonl"
    if file.is_file() and b'"sft/loss"' in next(lines(file), b""):
        found = f"{folder} holds a cold start alone, which drew nothing from a pool"
        todo = f"`qr-jax eval {folder}` scores it, and `qr-jax train` begins with it by train.init={folder} sft.steps=0"
        raise UserError(f"{found}; {todo}")


def check_empty(folder: Path) -> None:
    """Raise ValueError if the folder holds anything: a run has a config.json, too, and would lose it."""
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if held:
        other = free(folder.with_name(f"{folder.name}_{number}") for number in itertools.count(2))
        raise UserError(f"{folder} already holds {few(held, 3)}; name a new folder, such as {other}")


def _named(arguments: argparse.Namespace) -> Iterator[tuple[Path, bool]]:
    """Yield the folders of runs that a command's arguments name, by themselves or by their config.json.

    Each comes with True if it must be a run: `what` and `rates` may be a study or a suite's scores.
    """
    for name in ("run", "what", "config", "rates"):
        value = getattr(arguments, name, None)
        for word in value if isinstance(value, (list, tuple)) else (value,):
            if not isinstance(word, (str, Path)):
                continue
            path = Path(word)
            folder = path.parent if path.name == "config.json" else path
            if os.path.isdir(folder) and not _is_model(arguments, folder):  # False, too, of what is no name of a file
                yield folder, name == "run"


def _is_model(arguments: argparse.Namespace, folder: Path) -> bool:
    """Return True if a command that asks an agent got a Hugging Face folder, which it only reads.

    The hub's cache is full of links.
    """
    file = folder / "config.json"
    asks = {"run", "config"} <= {*vars(arguments)}
    return asks and file.is_file() and not wrong(file) and not config.is_run(folder)


def _strange(folder: Path) -> Iterator[tuple[str, str]]:
    whole = folder.resolve()
    for place, folders, files in walk(folder):
        if place.relative_to(folder).parts in OF_WANDB:
            folders.clear()
            continue
        if folders and _is_deepest(folder, place):
            yield str(place.relative_to(folder)), f"folders more than {DEEPEST} deep"
        for name in sorted(folders + files):
            path = place / name
            shown = str(path.relative_to(folder))
            if path.is_symlink():
                to = Path(os.path.realpath(path))
                if whole not in to.parents and to != whole:
                    yield shown, f"a link to {to}"
            elif not stat.S_ISDIR(path.lstat().st_mode) and (what := wrong(path)):
                yield shown, what


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield each folder with the names of the folders and of the files in it, at most DEEPEST below the first."""
    for place, folders, files in os.walk(folder):
        yield Path(place), folders, files
        if _is_deepest(folder, Path(place)):
            folders.clear()


def _is_deepest(folder: Path, place: Path) -> bool:
    return len(place.relative_to(folder).parts) >= DEEPEST


def set_aside(folder: Path, settings: Config) -> str | None:
    """Rename a run's folder so that the run begins anew, and nothing is lost; the new name, None without a folder."""
    if settings.train.bucket:
        raise UserError(f"--restart does not set {settings.train.bucket} aside; give train.bucket another place")
    if not folder.exists():
        return None
    with contextlib.ExitStack() as held:  # nobody takes it before it has its new name
        for written in filter(Path.is_dir, (folder, folder / config.COLD_START)):  # a cold start may be writing alone
            held.callback(RunLock(written).release)  # ValueError where a process writes it
        aside = free(folder.with_name(f"{folder.name}.set_aside_{n}") for n in itertools.count(1))
        folder.rename(aside)
    return str(aside)
