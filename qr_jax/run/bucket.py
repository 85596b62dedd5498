"""A run's copy in a bucket: its folder without checkpoints (they go straight to the bucket), W&B files and lock.

The copy is brought up to date before a checkpoint counts, so its metrics are never shorter than its checkpoint says.
"""

import contextlib
import importlib.util
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from etils import epath
from fsspec.config import conf as fsspec_settings

from qr_jax.errors import UserError
from qr_jax.run import committed
from qr_jax.settings import json_text

IN_BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]+(/[^/]+)+")
CHECKPOINTS = "checkpoints"
COMPILED = "compiled"  # compiled programs, which jax reads and writes there (parallel/compile_cache.py)
# Folders that are not copied; W&B sends its files itself, and they come and go.
STAY = (CHECKPOINTS, COMPILED, "wandb")
OWN = "run.lock"  # the folder's lock (run_lock.py), or the bucket's (lease.py)
NOT_FINISHED = (".new", ".tmp")  # write_json, write_episodes and committed.write rename these when they are whole
EVERY_S = 60
AT_ONCE = 8  # files copied at the same time


def opened(place: str) -> epath.Path:
    """Return the place that train.bucket names, as a path. ValueError for another kind of place, or where gcsfs is
    missing.
    """
    if "://" not in place:
        return epath.Path(os.path.abspath(place))
    if not IN_BUCKET.fullmatch(place):
        raise UserError(f"train.bucket={place!r} is no place for a run; wanted gs://BUCKET/PATH, or a folder")
    if not importlib.util.find_spec("gcsfs"):
        raise UserError(f"train.bucket={place} needs the package gcsfs: pip install 'qr_jax[bucket]'")
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # `as_os_error` says in a line what it logs with a traceback
    # Orbax does not write through epath, so epath's cached folder listings may be stale.
    fsspec_settings.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(place)


class Copy:
    """The copy of a run's `folder` at `place` (gs://BUCKET/PATH, or another folder). Only process 0 has a Copy."""

    def __init__(self, folder: Path, place: epath.Path, *, hold: Callable[[], None] = lambda: None):
        """Call `hold` before each push: it raises if another run owns the place by now, and nothing is written."""
        self.folder, self.place, self._hold = folder, place, hold
        self._pushed_s = time.monotonic()
        self._background = ThreadPoolExecutor(1, "bucket")
        self._soon: Future[None] | None = None
        self._copied: dict[str, tuple[int, int]] = {}  # name -> our file's `_mark` when it was copied to `place`
        self._lock = threading.Lock()

    def push(self) -> None:
        """Copy what was written, changed or moved in the folder since the last push. OSError when that fails."""
        with self._lock:
            self._hold()
            marks = {name: mark for name in _names(self.folder) if (mark := _mark(self.folder / name))}
            with as_os_error():
                each(self._send, [name for name, mark in marks.items() if self._copied.get(name) != mark])
                each(lambda name: (self.place / name).unlink(missing_ok=True), self._moved(marks))
            self._copied, self._pushed_s = marks, time.monotonic()

    def _moved(self, own: Mapping[str, Any]) -> list[str]:
        """Return the names of the copy's files that were moved here to an attempt's `discarded`: a push deletes these
        and no others.
        """
        moved = {re.sub(r"logs/attempt_\d+/discarded/", "", name) for name in own if "/discarded/" in name}
        return sorted(moved & self._copied.keys() - own.keys())

    def push_now_and_then(self) -> None:
        """Push in the background a minute after the last push. A failure is not raised: the next `push` will say it."""
        if time.monotonic() - self._pushed_s > EVERY_S and (self._soon is None or self._soon.done()):
            self._soon = self._background.submit(self.push)

    def close(self) -> None:
        """Push for the last time."""
        self._background.shutdown()
        self.push()

    def pull(self) -> list[str]:
        """Copy the place's files here; returns the names of local files that differed, now in logs/replaced_N.

        A local file that begins with the place's content has only grown, and stays. OSError if the bucket is silent.
        """
        replaced: list[str] = []
        aside = self.folder / "logs" / f"replaced_{1 + len(list(self.folder.glob('logs/replaced_*')))}"

        def bring(name: str) -> None:
            own, content = self.folder / name, self.read(name)
            if own.is_file() and (known := own.read_bytes()).startswith(content):
                if len(known) == len(content):
                    self._copied[name] = _mark(own) or (0, 0)
                return
            if own.exists():
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(own, aside / name)
                replaced.append(name)
            own.parent.mkdir(parents=True, exist_ok=True)
            committed.write(epath.Path(own), content)
            self._copied[name] = _mark(own) or (0, 0)

        with as_os_error():
            each(bring, list(_names(self.place)))
        return sorted(replaced)

    def json(self, name: str) -> Any | None:
        """Return what a JSON file of the copy holds; None if there is no such file."""
        with as_os_error():
            return json_text.parse(self.read(name)) if (self.place / name).exists() else None

    def read(self, name: str) -> bytes:
        return (self.place / name).read_bytes()

    def _send(self, name: str) -> None:
        try:
            data = (self.folder / name).read_bytes()
        except FileNotFoundError:  # deleted since it was listed
            return
        (self.place / name).parent.mkdir(parents=True, exist_ok=True)
        committed.write(self.place / name, data)


@contextlib.contextmanager
def as_os_error() -> Iterator[None]:
    """Raise OSError for what gcsfs raises when a bucket does not answer, after its own retries."""
    try:
        yield
    except Exception as error:
        ours = not isinstance(error, KeyError)  # gcsfs: an answer without a header that it wants
        if ours and not type(error).__module__.startswith(("gcsfs.", "aiohttp.", "google.auth.")):
            raise
        raise OSError(f"the bucket does not answer: {type(error).__name__}: {error}") from error


def _names(folder: Path | epath.Path, below: str = "") -> Iterator[str]:
    """Yield the paths in `folder` of all finished files but OWN and those of the folders in STAY."""
    if not folder.exists():
        return
    for path in folder.iterdir():
        name = f"{below}{path.name}"
        if path.name in ("", ".", "..") or "/" in path.name:  # a bucket's objects may have such names
            raise UserError(f"{folder} holds an object with {path.name!r} in its name, which no run writes; delete it")
        if isinstance(path, Path) and path.is_symlink():
            continue
        if path.is_dir():
            if path.name not in STAY:
                yield from _names(path, f"{name}/")
        elif path.name != OWN and not path.name.endswith(NOT_FINISHED):
            yield name


def _mark(path: Path) -> tuple[int, int] | None:
    """Return (size, time of change in ns), which show whether a file changed; None for a file that is gone by now."""
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        return status.st_size, status.st_mtime_ns


def each(function: Callable[[str], None], names: Sequence[str]) -> None:
    """Call the function with each name, several at once."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(function, names))
