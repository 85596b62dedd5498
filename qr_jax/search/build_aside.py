"""A folder for one process at a time, and one in which another folder is built before it gets its name."""

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from qr_jax.errors import UserError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one process at a time work in the folder; a lock ends with the process that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


@contextlib.contextmanager
def build_aside(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, deleted at the end; what a killed build left there is deleted first.

    UserError while another process builds the same.
    """
    aside = path.with_name(f".{path.name}.build")
    aside.mkdir(parents=True, exist_ok=True)
    opened = os.open(aside, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is building {path}; wait for it, or name another folder") from error
        except OSError:
            pass  # a file system without locks
        if (aside / "old").exists() and not path.exists():  # killed between two renames
            os.replace(aside / "old", path)
        for left in aside.iterdir():
            log.warning("%s was left by a build that was killed, and is deleted", left)
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield aside
        finally:
            if (aside / "old").exists() and not path.exists():  # interrupted between two renames
                os.replace(aside / "old", path)
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        os.close(opened)
