"""Download a file from a URL: a repeated command resumes, and the final name is given only to a whole file."""

import fcntl
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

TIMEOUT_S = 60.0
SAY_EVERY_S = 5.0
PIECE_BYTES = 1 << 20
Say = Callable[[str], None]


def download(url: str, place: Path, *, say: Say) -> Path:
    """Download `url` to `place` and return `place`; an existing file stays as it is. OSError if it cannot be had whole.

    Partial data stay beside `place` under the name .NAME.part, with the server's validator of the file (ETag, or its
    date) in .NAME.part.json. A resumed download requests the missing bytes alone (Range), if the server's file is still
    the same (If-Range).
    """
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f".{place.name}.part")
    with part.open("ab") as file:
        _lock(file, place)
        have, mark = file.tell(), _mark(part)
        asked = {"Range": f"bytes={have}-", "If-Range": mark} if have and mark else {}
        say(f"downloading {url}" + (f", from {_megabytes(have)} on" if asked else ""))
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=asked), timeout=TIMEOUT_S) as answer:
                _receive(answer, file, part, have if asked else 0, place.name, say)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not asked:  # 416: there is nothing after what is here
                raise
            if error.headers.get("Content-Range", "").rpartition("/")[2] != str(have):
                file.truncate(0)
                raise OSError(f"{place.name} is another file there now; the same command begins anew") from error
        finally:
            if not file.tell():  # nothing came
                part.unlink(missing_ok=True)
        file.flush()
        os.fsync(file.fileno())
        os.replace(part, place)
    part.with_name(f"{part.name}.json").unlink(missing_ok=True)
    return place


def _receive(answer: Any, file: IO[bytes], part: Path, have: int, name: str, say: Say) -> None:
    """Write the response to the file and report progress; OSError if it ends too early."""
    headers: Mapping[str, str] = answer.headers
    goes_on = getattr(answer, "status", None) == 206
    if not goes_on:  # the whole file: another one than was begun, or a server that gives no parts
        file.truncate(0)
        have = 0
    tag = headers.get("ETag", "")
    mark = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
    part.with_name(f"{part.name}.json").write_text(json.dumps({"mark": mark}), encoding="utf-8")
    length = headers.get("Content-Length", "")
    whole = have + int(length) if length.isdecimal() else None
    begun = said = time.monotonic()
    done = have
    while data := answer.read(PIECE_BYTES):
        file.write(data)
        done += len(data)
        if time.monotonic() - said >= SAY_EVERY_S:
            said = time.monotonic()
            say(_told(name, done, whole, (done - have) / (said - begun)))
    if whole is not None and done != whole:
        file.flush()
        raise OSError(f"it ended after {done} of {whole} bytes; the same command goes on from there")
    say(f"{name}: {_megabytes(done)}")


def _told(name: str, done: int, whole: int | None, rate: float) -> str:
    """Format the progress of a download: bytes, rate and time left."""
    if whole is None:
        return f"{name}: {_megabytes(done)}, {_megabytes(rate)}/s"
    left = f", {(whole - done) / rate:.0f} s left" if rate else ""
    return f"{name}: {_megabytes(done)} of {_megabytes(whole)} ({done / whole:.0%}), {_megabytes(rate)}/s{left}"


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB"


def _mark(part: Path) -> str:
    """Return the saved validator (ETag or date) of a partial download; "" if none is known."""
    try:
        return str(json.loads(part.with_name(f"{part.name}.json").read_bytes())["mark"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _lock(file: IO[bytes], place: Path) -> None:
    """Lock the partial file, so that one process at a time downloads it; OSError if another one does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(f"another process downloads {place}; wait for it") from None
