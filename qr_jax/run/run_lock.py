"""Give a folder one writer at a time, by a lock that the system frees when its process ends, however it ends."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from qr_jax.errors import Busy, UserError
from qr_jax.settings import json_text

NAME = "run.lock"
MOST_BYTES = 4096  # of what it says of its holder


class RunLock:
    """Holds FOLDER/run.lock from `__init__` to `release`; the file says who. ValueError where another process does.

    The lock is flock's, freed when its process is killed. `about` is what this process writes about itself, `left` what
    a killed holder wrote. `left` is None if there was none, and in a copied folder, whose named process may still run
    in the original folder. A folder of several machines is guarded where its file system carries locks
    between them (NFS 4 does; a bucket has a lease, lease.py). A folder that is not there is made.
    """

    def __init__(self, folder: Path, *, elsewhere: str = "another folder with --run"):
        self.folder = folder
        while (locked := _locked(folder, elsewhere)) is None:
            pass  # the folder was set aside, or removed, between two of these calls
        self._file, left = locked, read(folder)
        self._file.truncate(0)
        self.about = {"pid": os.getpid(), "machine": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        self.about |= {"id": uuid.uuid4().hex, "file": _identity(self._file)}
        is_of_this = isinstance(left, dict) and all(left.get(name) == self.about[name] for name in ("machine", "file"))
        self.left = left if is_of_this else None
        self._file.write(json.dumps(self.about).encode())
        self._file.flush()

    def check(self) -> None:
        """Raise Busy where the folder's lock is another file by now, and OSError where the folder is gone."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._file.fileno()), (self.folder / NAME).stat()):
                return
        if not self.folder.is_dir():
            todo = "move it back, and start the same command again"
            raise FileNotFoundError(f"{self.folder} was moved or removed while it was written: {todo}")
        why = "another process may have taken it since, so this one writes no more; start the same command again"
        raise Busy(f"{self.folder / NAME} was removed while this process held it: {why}")

    def release(self) -> None:
        """Give the lock up."""
        with contextlib.suppress(OSError):  # a closed file has no lock
            self._file.truncate(0)
        self._file.close()


@contextlib.contextmanager
def held(folder: Path, elsewhere: str) -> Iterator[None]:
    """Hold the folder's lock in this block. ValueError if another process holds it."""
    lock = RunLock(folder, elsewhere=elsewhere)
    try:
        yield
    finally:
        lock.release()


def _locked(folder: Path, elsewhere: str) -> IO[bytes] | None:
    """Open and lock the folder's lock file; None if another one lies there by now. ValueError if it is held."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        file = _opened(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND, "r+b")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), (folder / NAME).stat()):
            return file
    except FileNotFoundError:
        pass
    except BlockingIOError:
        other = named(read(folder))
        file.close()
        todo = f"wait for it or end it; or take {elsewhere}"
        raise UserError(f"{folder} is being written by {other}: {todo}") from None
    except OSError as error:  # a file system without locks
        file.close()
        raise UserError(f"{folder} cannot be locked ({error}); take {elsewhere}, on another disk") from error
    file.close()
    return None


def _opened(path: Path, flags: int, mode: str) -> IO[bytes]:
    """Open a regular file. ValueError for a link, folder, pipe or device, which a stranger's folder may hold there."""
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise UserError(f"{path} is no file but a link, a folder or a pipe; take it away") from error
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise UserError(f"{path} is no file but a pipe or a device; take it away")
    return os.fdopen(file, mode)


def _identity(file: IO[bytes]) -> str:
    """Identify an open file by device, inode and the machine's boot id: a copied disk has files of the same numbers."""
    status, started = os.fstat(file.fileno()), ""
    with contextlib.suppress(OSError):
        started = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{status.st_dev}:{status.st_ino}:{started}"


def read(folder: Path) -> Any:
    """Read what a folder's lock says of its holder; None if it says nothing."""
    try:
        with _opened(folder / NAME, os.O_RDONLY, "rb") as file:
            return json_text.parse(file.read(MOST_BYTES))
    except (OSError, ValueError):
        return None


def named(about: Any) -> str:
    """Return the holder of a lock in words, from what the lock says of it."""
    try:
        return f"process {about['pid']} on {about['machine']}, since {about['since']}"
    except (LookupError, TypeError):
        return "another process"
