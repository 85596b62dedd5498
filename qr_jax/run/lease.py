"""Let one run at a time use a bucket: an object there names the owner, and is valid while the owner renews it.

The server numbers every version of an object (its generation), and each write here names the generation that it
replaces: of two processes one wins, and a renewal that fails says that the lease is lost. No clocks are
compared: a lease is stale when a waiting process sees no new generation for STALE_S of its own clock, so clocks may
differ by any offset, and their rates by a factor of STALE_S / RENEW_S.
"""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import fsspec
from etils import epath

from qr_jax import errors
from qr_jax.run import bucket
from qr_jax.run.run_lock import MOST_BYTES, NAME, RunLock, named
from qr_jax.settings import json_text

log = logging.getLogger(__name__)

RENEW_S = 10.0
STALE_S = 60.0
ASK_S = 2.0
CALL_S = 30.0  # of one request, its retries included
NONE = "0"  # the generation of an object that is not there


def end(why: str) -> None:
    """End this process now: a checkpoint that it is writing must not go on where another run writes."""
    print(f"error: {why}", file=sys.stderr, flush=True)
    os._exit(errors.LOST)


class Lease:
    """Hold PLACE/run.lock, in a bucket, from `__init__` to `release`; errors.Busy where another process renews it.

    A stale lease is taken over; so is, at once, that of a process that was killed while it held `lock`, which this
    process holds now. A thread renews the lease, and calls `lost` with the reason when another process has it. If the
    bucket does not answer, the lease is not lost. The loser's earlier writes may still arrive; a checkpoint that they
    change fails its hash check and is skipped.
    """

    def __init__(
        self, place: epath.Path, lock: RunLock, *, say: Callable[[str], None], lost: Callable[[str], None] = end
    ):
        self.place, self._lost, self._about = place, lost, lock.about
        self._bucket, _, self._name = str(place / NAME).removeprefix("gs://").partition("/")
        self._object = ("b/{}/o/{}", self._bucket, self._name)
        self._files = fsspec.filesystem("gcs")
        self._writing, self._over = threading.Lock(), threading.Event()
        self._gone: errors.Busy | None = None
        self._generation = self._take(lock.left, say)
        threading.Thread(target=self._renew, name="lease", daemon=True).start()

    def hold(self) -> None:
        """Renew the lease, so that its owner writes what is written next. Busy where another process has it."""
        with self._writing:
            if self._gone:
                raise self._gone
            try:
                self._generation = self._write(self._generation)
            except FileExistsError:  # the generation changed; perhaps by our own write, if its answer was lost
                self._generation, about = self._read()
                if about != self._about:
                    self._gone = errors.Busy(
                        f"{self.place} belongs to {named(about)} by now: this process did not renew its lease for "
                        f"{STALE_S:g} s or more, and writes nothing there any more"
                    )
                    raise self._gone from None

    def release(self) -> None:
        """Delete the lease, unless another process has it."""
        self._over.set()
        with self._writing, contextlib.suppress(OSError):
            if not self._gone:
                self._call("DELETE", *self._object, ifGenerationMatch=self._generation)

    def _take(self, left: Any, say: Callable[[str], None]) -> str:
        """Take the lease and return its generation. Busy when somebody else's is renewed, or was taken sooner."""
        generation, owner = first, _ = self._read()
        dead, since, told = bool(owner) and owner == left, time.monotonic(), False
        while True:
            if generation == NONE or dead or time.monotonic() - since > STALE_S:
                with contextlib.suppress(FileExistsError):  # another process was sooner
                    return self._write(generation)
            else:
                if not told:
                    say(f"{self.place} was held by {named(owner)}: it is taken over if not renewed for {STALE_S:g} s")
                told = True
                time.sleep(ASK_S)
            generation, about = self._read()
            if about == self._about:  # ours; the answer was lost on its way
                return generation
            if generation not in (first, NONE):
                todo = "wait for it or end it; or give this run another place with train.bucket"
                raise errors.Busy(f"{self.place} is being written by {named(about)}: {todo}")

    def _renew(self) -> None:
        while not self._over.wait(RENEW_S):
            try:
                self.hold()
            except errors.Busy as error:
                if not self._over.is_set():
                    self._lost(str(error))
                return
            except OSError:  # the bucket does not answer us, and so takes nothing from us either
                pass
            except Exception as error:  # whatever a proxy, or a library of ours, makes of an answer
                log.warning("%s was not renewed (%s: %s) and is tried again", self.place, type(error).__name__, error)

    def _read(self) -> tuple[str, Any]:
        """Return the lease's generation, and what it says of its owner."""
        first = {"Range": f"bytes=0-{MOST_BYTES - 1}"}  # whoever may write there may write gigabytes
        try:
            headers, content = self._call("GET", *self._object, alt="media", headers=first)
        except FileNotFoundError:
            return NONE, None
        about = None
        with contextlib.suppress(ValueError):
            about = json_text.parse(content[:MOST_BYTES])
        return _part(headers, "x-goog-generation"), about

    def _write(self, generation: str) -> str:
        """Replace the lease of `generation` and return the new generation. FileExistsError for another one."""
        uploads = self._files.base.replace("/storage/v1/", "/upload/storage/v1/")
        only = {"uploadType": "media", "name": self._name, "ifGenerationMatch": generation}
        data = json.dumps(self._about).encode()
        answer = self._call("POST", uploads + "b/{}/o", self._bucket, data=data, json_out=True, **only)
        return _part(answer, "generation")

    def _call(self, method: str, *path: str, **more: Any) -> Any:
        try:
            with bucket.as_os_error():
                return self._files.call(method, *path, timeout=CALL_S, **more)
        except TimeoutError as error:
            raise OSError(f"the bucket did not answer in {CALL_S:g} s") from error
        except ValueError as error:  # gcsfs: no JSON; and a text with "invalid" in it
            raise OSError(f"the bucket's answer is none: {error}") from error


def _part(answer: Any, name: str) -> str:
    """Return one part of the bucket's answer. OSError where it is not there."""
    part = answer.get(name) if isinstance(answer, Mapping) else None
    if not isinstance(part, str):
        raise OSError(f"the bucket's answer has no {name}: is a proxy between us and it?")
    return part
