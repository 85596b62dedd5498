"""A folder has one writer at a time: a lock that the system gives back when its process ends, however it ends."""

import contextlib
import fcntl
import json
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any, BinaryIO

NAME = "run.lock"


class RunLock:
    """Holds FOLDER/run.lock from `__init__` to `release`; the file says who. ValueError where another process does.

    It is flock's: a lock that a killed process left behind is free again, and `left` is what that process wrote of
    itself, as `about` is what this one writes. A folder of several machines is guarded where its file system carries
    locks between them (NFS 4 does; a bucket has a lease, lease.py). A folder that is not there is made.
    """

    def __init__(self, folder: Path, *, elsewhere: str = "another folder with --run"):
        while (locked := _locked(folder, elsewhere)) is None:
            pass  # the folder was set aside, or removed, between two of these calls
        self._file, self.left = locked, read(folder)
        self._file.truncate(0)
        self.about = {"pid": os.getpid(), "machine": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        self.about["id"] = uuid.uuid4().hex
        self._file.write(json.dumps(self.about).encode())
        self._file.flush()

    def release(self) -> None:
        with contextlib.suppress(OSError):  # a closed file has no lock
            self._file.truncate(0)
        self._file.close()


def _locked(folder: Path, elsewhere: str) -> BinaryIO | None:
    """The folder's lock file, open and locked; None where another one lies there by now. ValueError: it is held."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        file = (folder / NAME).open("a+b")
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
        raise ValueError(f"{folder} is being written by {other}: {todo}") from None
    except OSError as error:  # a file system without locks
        file.close()
        raise ValueError(f"{folder} cannot be locked ({error}); take {elsewhere}, on another disk") from error
    file.close()
    return None


def read(folder: Path) -> Any:
    """What a folder's lock says of its holder; None where it says nothing."""
    try:
        return json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def named(about: Any) -> str:
    """The holder of a lock in words, from what the lock says of it."""
    try:
        return f"process {about['pid']} on {about['machine']}, since {about['since']}"
    except (LookupError, TypeError):
        return "another process"
