"""A run folder has one writer at a time: a lock that the system gives back when its process ends, however it ends."""

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path

NAME = "run.lock"


class RunLock:
    """Holds FOLDER/run.lock from `__init__` to `release`; the file says who. ValueError where another process does.

    It is flock's: a lock that a killed process left behind is free again. A folder of several machines is guarded
    where its file system carries locks between them (NFS 4 does; a bucket does not).
    """

    def __init__(self, folder: Path):
        self._file = (folder / NAME).open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = holder(folder)
            self._file.close()
            todo = "wait for it or end it; or give this run another folder with --run"
            raise ValueError(f"{folder} is being written by {other}: {todo}") from None
        except OSError as error:  # a file system without locks
            self._file.close()
            raise ValueError(f"{folder} cannot be locked ({error}); keep runs on another disk (--run)") from error
        self._file.truncate(0)
        about = {"pid": os.getpid(), "machine": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        self._file.write(json.dumps(about).encode())
        self._file.flush()

    def release(self) -> None:
        with contextlib.suppress(OSError):  # a closed file has no lock
            self._file.truncate(0)
        self._file.close()


def holder(folder: Path) -> str:
    """Who holds a folder's lock, in words, as its file says."""
    try:
        about = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return f"process {about['pid']} on {about['machine']}, since {about['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
