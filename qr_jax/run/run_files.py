"""Guards of a run's folder: links out of it, pipes and files too large to read are not opened unless allowed.

A link in somebody else's folder could make a report overwrite a file of the user's, or copy from one.
"""

import argparse
import contextlib
import itertools
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from qr_jax import config, trust
from qr_jax.errors import UserError
from qr_jax.settings.settings import few, nearest

BEFORE = "before.json"  # the evaluation before the first step


@dataclass(frozen=True)
class Most:
    """The limits of a file: its bytes and, if it is read line by line, its lines and the bytes of one."""

    bytes: int
    lines: int = 0
    line_bytes: int = 0


# By a file's name, else by its ending; arrays, which have other names, are not read whole. Hostile JSON takes 20 times
# its bytes once it is parsed. A quickstart of 100 steps has a config of 4 kB, a summary of 7 kB, 4 kB of metrics a
# step, 0.4 kB a draw, and 55 bytes a question in evaluation.json; an episode of 100,000 tokens and their
# log-probabilities would have 3 MB.
MOST: dict[str, Most] = dict.fromkeys(("config.json", "summary.json"), Most(2**20))
MOST |= dict.fromkeys(("run.lock", "COMMITTED"), Most(2**12))
MOST |= {"settings.json": Most(2**20), "calls.jsonl": Most(2**32, lines=2**24, line_bytes=2**24)}  # of synth's journal
MOST |= {"probe.json": Most(2**22), "manifest.json": Most(2**24)}  # 100,000 files of a checkpoint
MOST |= dict.fromkeys((BEFORE, "base.json", "evaluation.json", "score.json"), Most(2**24))  # 300,000 questions
MOST |= {
    "metrics.jsonl": Most(2**29, lines=2**20, line_bytes=2**16),  # 130,000 steps of 4 kB
    "ledger.jsonl": Most(2**31, lines=2**22, line_bytes=2**16),  # 100,000 steps of 40 draws
    ".jsonl": Most(2**32, lines=2**20, line_bytes=2**24),  # a step's episodes, which are never all in memory
    ".json": Most(2**28),  # a checkpoint's host values: 100 kB of the quickstart's pool, and what larger ones need
}
# What Orbax says of a checkpoint's arrays: some 400 bytes each, of a hundred.
MOST |= dict.fromkeys(("_METADATA", "_sharding", "_CHECKPOINT_METADATA", "array_metadatas/"), Most(2**21))
PUT_BACK = "put it back and start the same command again; without it, --restart begins anew"
OF_WANDB = (("wandb",), ("sft", "wandb"))  # folders that W&B writes, with links into its cache; nothing here reads them
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


def check_there(folder: Path) -> None:
    """Raise ValueError if there is no folder of a run to open, before anything that takes long is imported."""
    if os.path.isfile(folder / "config.json"):
        return
    if os.path.isdir(folder):
        raise UserError(f"{folder} is no run: it has no config.json; `qr-jax runs` lists those that there are")
    if os.path.isfile(folder) and folder.suffix == ".py":
        raise UserError(f"{folder} is a config; wanted is a run's folder: qr-jax train {folder} makes one")
    if os.path.isfile(folder):
        meant = f"; did you mean {folder.parent}?" if config.is_run(folder.parent) else ""
        raise UserError(f"{folder} is a file; wanted is a run's folder{meant}")
    beside = [str(file.parent) for file in folder.parent.glob("*/config.json")]
    cure = f" in {Path.cwd()}" * (not folder.is_absolute()) + "; `qr-jax train CONFIG` makes a run, in runs/"
    raise UserError(f"there is no folder {folder}{nearest(str(folder), beside) or cure}")


def check_trained(folder: Path) -> None:
    """Raise ValueError if there is no folder of a run, or only that of a cold start."""
    check_there(folder)
    file = folder / "metrics.jsonl"
    if file.is_file() and b'"sft/loss"' in next(lines(file), b""):
        found = f"{folder} holds a cold start alone, which drew nothing from a pool"
        todo = f"`qr-jax eval {folder}` scores it, and `qr-jax train` begins with it by train.init={folder} sft.steps=0"
        raise UserError(f"{found}; {todo}")


def check_writable(folder: Path, option: str = "--run") -> None:
    """Raise ValueError if the folder cannot be made or written into; `option` is the one that names another."""
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not os.path.isdir(there):
        raise UserError(f"{there} is a file; give {option} the name of a folder, which may be new")
    told = "" if there == folder else f", so {folder} cannot be made"
    told += f"; give {option} a place of your own"
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"you may not write into {there}{told}")
    try:  # nobody may in /proc and /sys, whatever their permissions say
        os.rmdir(tempfile.mkdtemp(prefix=".qr_jax_", dir=there))
    except (PermissionError, FileNotFoundError) as error:
        raise UserError(f"nothing can be written into {there} ({error.strerror}){told}") from error
    except OSError:  # a full disk, say: what is written says so
        pass


def check_empty(folder: Path) -> None:
    """Raise ValueError if the folder holds anything: a run has a config.json, too, and would lose it."""
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if held:
        other = free(folder.with_name(f"{folder.name}_{number}") for number in itertools.count(2))
        raise UserError(f"{folder} already holds {few(held, 3)}; name a new folder, such as {other}")


def free(names: Iterable[Path]) -> Path:
    """The first of the names at which nothing stands, not even a broken link."""
    return next(name for name in names if not os.path.lexists(name))


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


def wrong(path: Path, most_of: Mapping[str, Most] = MOST) -> str | None:
    """Say why a file is not opened (a pipe would be waited for, a large file fill the memory); None: it may be opened.

    `most_of`: what files may have, by name, ending or folder ("name/"). OSError where there is no file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        return "a folder in a file's place" if stat.S_ISDIR(status.st_mode) else "neither a file nor a folder"
    most = most_of.get(path.name) or most_of.get(path.suffix) or most_of.get(f"{path.parent.name}/")
    return f"{status.st_size:,} bytes, wanted at most {most.bytes:,}" if most and status.st_size > most.bytes else None


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder with the names of the folders and of the files in it, at most DEEPEST below the first."""
    for place, folders, files in os.walk(folder):
        yield Path(place), folders, files
        if _is_deepest(folder, Path(place)):
            folders.clear()


def _is_deepest(folder: Path, place: Path) -> bool:
    return len(place.relative_to(folder).parts) >= DEEPEST


def lines(path: Path, *, last: int | None = None) -> Iterator[bytes]:
    """The lines of a .jsonl file, read as they are asked for; one that is still being written is not among them.

    With `last` at least so many lines from its end; what is before these is not read. A line longer than any of ours is
    cut off, and so no JSON. ValueError for more lines than a run writes.
    """
    most = MOST.get(path.name, MOST[".jsonl"])
    with path.open("rb") as file:
        skipped = max(os.fstat(file.fileno()).st_size - last * most.line_bytes, 0) if last is not None else 0
        file.seek(skipped)
        if skipped:
            _to_end_of_line(file, most.line_bytes)
        count = 0
        while line := file.readline(most.line_bytes):
            if not line.endswith(b"\n") and not _to_end_of_line(file, most.line_bytes):
                return
            count += 1
            if count > most.lines and last is None:
                raise UserError(f"{path} has more than {most.lines:,} lines, the most that is read of a run")
            yield line.removesuffix(b"\n")


def check_still(file: IO[bytes], path: Path) -> None:
    """Raise OSError if the path no longer names the open file: what is written would be lost."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return
    raise FileNotFoundError(f"{path} was removed or replaced while the run wrote it; {PUT_BACK}")


def end_last_line(file: int) -> None:
    """Write the end of the last line where a kill cut it off; `file` is open for reading and appending."""
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        os.write(file, b"\n")


def _to_end_of_line(file: BinaryIO, line_bytes: int) -> bool:
    """Skip to the start of the next line; return False if the last line is unfinished."""
    while part := file.readline(line_bytes):
        if part.endswith(b"\n"):
            return True
    return False
