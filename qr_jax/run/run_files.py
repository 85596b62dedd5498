"""The files of a run's folder: how large each may be, how lines are read, and where a run can be written or found."""

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from qr_jax import config
from qr_jax.errors import UserError
from qr_jax.settings.settings import nearest

BEFORE = "before.json"  # the evaluation before the first step


@dataclass(frozen=True)
class Most:
    """The limits of a file: its bytes and, if it is read line by line, its lines and the bytes of one."""

    bytes: int
    lines: int = 0
    line_bytes: int = 0


# Keyed by file name, else by suffix; array files, with other names, are not read whole. Hostile JSON takes 20 times
# its bytes once it is parsed. A quickstart of 100 steps has a config of 4 kB, a summary of 7 kB, 4 kB of metrics per
# step, 0.4 kB per draw, and 55 bytes per question in evaluation.json; an episode of 100,000 tokens and their
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


def check_writable(folder: Path, option: str = "--run", todo: str = "") -> None:
    """Raise ValueError if the folder cannot be made or written into; it advises `option` (another folder) or `todo`."""
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not os.path.isdir(there):
        raise UserError(f"{there} is a file; {todo or f'give {option} the name of a folder, which may be new'}")
    told = "" if there == folder else f", so {folder} cannot be made"
    told += f"; {todo or f'give {option} a place of your own'}"
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"you may not write into {there}{told}")
    try:  # nobody may in /proc and /sys, whatever their permissions say
        os.rmdir(tempfile.mkdtemp(prefix=".qr_jax_", dir=there))
    except (PermissionError, FileNotFoundError) as error:
        raise UserError(f"nothing can be written into {there} ({error.strerror}){told}") from error
    except OSError:  # a full disk, say: what is written says so
        pass


def free(names: Iterable[Path]) -> Path:
    """Return the first of the names at which nothing stands, not even a broken link."""
    return next(name for name in names if not os.path.lexists(name))


def wrong(path: Path, most_of: Mapping[str, Most] = MOST) -> str | None:
    """Say why a file is not opened (a pipe would be waited for, a large file fill the memory); None: it may be opened.

    `most_of`: what files may have, by name, ending or folder ("name/"). OSError where there is no file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        return "a folder in a file's place" if stat.S_ISDIR(status.st_mode) else "neither a file nor a folder"
    most = most_of.get(path.name) or most_of.get(path.suffix) or most_of.get(f"{path.parent.name}/")
    return f"{status.st_size:,} bytes, wanted at most {most.bytes:,}" if most and status.st_size > most.bytes else None


def lines(path: Path, *, last: int | None = None) -> Iterator[bytes]:
    """Yield the lines of a .jsonl file, read as they are asked for; one that is still being written is not among them.

    With `last`, yield at least that many lines from the end, without reading the rest. An overlong line is cut off, so
    that it is no valid JSON. ValueError for more lines than a run writes.
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


def end_last_line(file: int) -> None:
    """Append a newline if a kill cut off the last line; `file` is open for reading and appending."""
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        os.write(file, b"\n")


def drop_last_line(path: Path) -> None:
    """Cut off a last line that a kill left without its end."""
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def _to_end_of_line(file: BinaryIO, line_bytes: int) -> bool:
    """Skip to the start of the next line; return False if the last line is unfinished."""
    while part := file.readline(line_bytes):
        if part.endswith(b"\n"):
            return True
    return False
