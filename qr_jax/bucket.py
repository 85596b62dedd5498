"""A run's copy in a bucket: all of its folder but the checkpoints, which are written there at once.

Each copy is made before a checkpoint counts, so the metrics there are never shorter than a checkpoint there says.
"""

import contextlib
import importlib.util
import json
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

from qr_jax import committed

IN_BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]+(/[^/]+)+")
CHECKPOINTS = "checkpoints"
COMPILED = "compiled"  # the processes' programs, which parallel/compile_cache.py copies
# Folders that are not copied; W&B has its own way out, and files that come and go.
STAY = (CHECKPOINTS, COMPILED, "wandb")
NOT_FINISHED = (".new", ".tmp")  # what write_json, write_episodes and committed.write rename when it is whole
EVERY_S = 60
AT_ONCE = 8  # files on their way


def opened(place: str) -> epath.Path:
    """The place that train.bucket names, as a path. ValueError for another kind of place, or where gcsfs is missing."""
    if "://" not in place:
        return epath.Path(os.path.abspath(place))
    if not IN_BUCKET.fullmatch(place):
        raise ValueError(f"train.bucket={place!r} is no place for a run; wanted gs://BUCKET/PATH, or a folder")
    if not importlib.util.find_spec("gcsfs"):
        raise ValueError(f"train.bucket={place} needs the package gcsfs: pip install 'qr_jax[bucket]'")
    # Orbax writes by another way than epath, so what epath remembers of a folder's files is not to be believed.
    fsspec_settings.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(place)


class Copy:
    """`folder` is the run's own; `place` the bucket's (gs://BUCKET/PATH), or a folder. Process 0 alone has one."""

    def __init__(self, folder: Path, place: epath.Path):
        self.folder, self.place = folder, place
        self._pushed_s = time.monotonic()
        self._background = ThreadPoolExecutor(1, "bucket")
        self._soon: Future[None] | None = None
        self._there: dict[str, tuple[int, int]] = {}  # of each file there: our size and time when it went or came
        self._lock = threading.Lock()

    def push(self) -> None:
        """What was written, changed or moved here since the last time is so there too. OSError when it is not."""
        with self._lock:
            marks = {name: _mark(self.folder / name) for name in _names(self.folder)}
            here = {name: mark for name, mark in marks.items() if mark}
            with as_os_error():
                each(self._send, [name for name, mark in here.items() if self._there.get(name) != mark])
                each(lambda name: (self.place / name).unlink(missing_ok=True), self._moved(here))
            self._there, self._pushed_s = here, time.monotonic()

    def _moved(self, here: Mapping[str, Any]) -> list[str]:
        """What stands there under its old name and was moved here to what an attempt discarded; nothing else goes."""
        moved = {re.sub(r"logs/attempt_\d+/discarded/", "", name) for name in here if "/discarded/" in name}
        return sorted(moved & self._there.keys() - here.keys())

    def push_now_and_then(self) -> None:
        """Push in the background a minute after the last push. What fails then fails again, and is said, later."""
        if time.monotonic() - self._pushed_s > EVERY_S and (self._soon is None or self._soon.done()):
            self._soon = self._background.submit(self.push)

    def close(self) -> None:
        """The last push."""
        self._background.shutdown()
        self.push()

    def pull(self) -> list[str]:
        """What is there is here too; the names of local files of another content, now in logs/replaced_N.

        A local file that begins as the one there is only newer, and stays. OSError when the place does not answer.
        """
        replaced: list[str] = []
        aside = self.folder / "logs" / f"replaced_{1 + len(list(self.folder.glob('logs/replaced_*')))}"

        def bring(name: str) -> None:
            own, there = self.folder / name, self.read(name)
            if own.is_file() and (known := own.read_bytes()).startswith(there):
                if len(known) == len(there):
                    self._there[name] = _mark(own) or (0, 0)
                return
            if own.exists():
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(own, aside / name)
                replaced.append(name)
            own.parent.mkdir(parents=True, exist_ok=True)
            committed.write(epath.Path(own), there)
            self._there[name] = _mark(own) or (0, 0)

        with as_os_error():
            each(bring, list(_names(self.place)))
        return sorted(replaced)

    def config(self) -> Any | None:
        """What the run there has as config.json; None where there is no run."""
        with as_os_error():
            return json.loads(self.read("config.json")) if (self.place / "config.json").exists() else None

    def read(self, name: str) -> bytes:
        return (self.place / name).read_bytes()

    def _send(self, name: str) -> None:
        try:
            data = (self.folder / name).read_bytes()
        except FileNotFoundError:  # it is gone since it was seen
            return
        (self.place / name).parent.mkdir(parents=True, exist_ok=True)
        committed.write(self.place / name, data)


@contextlib.contextmanager
def as_os_error() -> Iterator[None]:
    """What gcsfs raises when a bucket does not answer, after its own retries, as the OSError that it is."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("gcsfs.", "aiohttp.", "google.auth.")):
            raise
        raise OSError(f"the bucket does not answer: {type(error).__name__}: {error}") from error


def _names(folder: Path | epath.Path, below: str = "") -> Iterator[str]:
    """Every finished file below, by its path from there; no checkpoint's."""
    if not folder.exists():
        return
    for path in folder.iterdir():
        name = f"{below}{path.name}"
        if isinstance(path, Path) and path.is_symlink():
            continue
        if path.is_dir():
            if path.name not in STAY:
                yield from _names(path, f"{name}/")
        elif not path.name.endswith(NOT_FINISHED):
            yield name


def _mark(path: Path) -> tuple[int, int] | None:
    """By which a change is seen; None for a file that is gone by now."""
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        return found.st_size, found.st_mtime_ns


def each(function: Callable[[str], None], names: Sequence[str]) -> None:
    """The function of each name, several at once."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(function, names))
