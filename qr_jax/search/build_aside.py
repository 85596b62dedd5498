"""A temporary folder in which another folder is built before it gets its name; those of killed processes are deleted.

While it is in use it is locked, so that nobody deletes it. On a file system without locks nothing is deleted.
"""

import contextlib
import glob
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)


@contextlib.contextmanager
def build_aside(path: Path) -> Iterator[Path]:
    """A new folder beside `path`; it is deleted at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside, held = _make(path)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if held is not None:
            os.close(held)


def clear_left(path: Path) -> None:
    """Delete the temporary folders for `path` that killed processes left, with a warning; those in use stay."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.build-*"):
        with contextlib.suppress(OSError):
            held = _lock(left)
            log.warning("%s was left by a build that was killed, and is deleted", left)
            shutil.rmtree(left, ignore_errors=True)
            os.close(held)


def _make(path: Path) -> tuple[Path, int | None]:
    """The new folder and the open file that holds its lock, None without locks."""
    while True:
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.build-", dir=path.parent))
        try:
            held = _lock(aside)
        except (BlockingIOError, FileNotFoundError):  # another process took it for left over before it was locked
            continue
        except OSError:  # no locks here
            return aside, None
        if aside.is_dir():
            return aside, held
        os.close(held)


def _lock(folder: Path) -> int:
    """The open file that holds the folder's lock until it is closed. OSError where another process has the lock."""
    import fcntl

    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        raise
    return opened
