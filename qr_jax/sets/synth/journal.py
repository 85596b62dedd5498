"""The journal of an endpoint's calls: a line for each answer and each failure, so that no answer is paid for twice.

A process may be killed at any moment: what is in the journal is read again, and all other calls are made again. Lines
are handed to the system at once: only a loss of power can take the last of them."""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any, TypeGuard

from qr_jax.errors import UserError
from qr_jax.run import run_files
from qr_jax.settings import json_text

MOST_TOKENS = 10**9  # of a call: a larger number is none that was counted
FAILED, ANSWERED = "failed", "answered"


class Journal:
    """The calls of one file; `answers` are the replies and token counts by key. Several threads may write."""

    def __init__(self, file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        self.answers: dict[str, dict[str, Any]] = {}
        self.failed = 0
        self._lock = threading.Lock()
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        for line in run_files.lines(file):
            try:
                row = json_text.parse(line)
                key, event = str(row["call"]), row["event"]
                if event == ANSWERED:
                    self.answers[key] = _kept(row)
            except (ValueError, LookupError, TypeError, RecursionError):  # not one of ours
                continue
            self.failed += event == FAILED
        run_files.end_last_line(self._file)

    def no_answer(self, key: str, why: str) -> None:
        """Record that the call failed, and may be retried."""
        with self._lock:
            self.failed += 1
        self._write({"call": key, "event": FAILED, "why": why})

    def answer(self, key: str, row: dict[str, Any]) -> None:
        self._write({"call": key, "event": ANSWERED} | row)
        self.answers[key] = _kept(row)

    def close(self) -> None:
        """Close the file; a later write raises OSError, for the descriptor may be another file's by then."""
        with self._lock:
            os.close(self._file)
            self._file = -1

    def _write(self, row: dict[str, Any]) -> None:
        line = json.dumps(row | {"at": round(time.time(), 3)}, ensure_ascii=False) + "\n"
        data = line.encode("utf-8", "replace")
        with self._lock:
            while data:  # a full disk raises, and the run ends before a call that could not be written down
                data = data[os.write(self._file, data) :]


def is_count(value: Any) -> TypeGuard[int]:
    """Return True if the value is a plausible token count of an endpoint."""
    return type(value) is int and 0 <= value <= MOST_TOKENS


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    """Return the reply and token counts of a row; its messages stay in the file, which may exceed the memory."""
    reply, tokens = row["reply"], row["tokens"]
    if not (isinstance(reply, str) and len(tokens) == 2 and all(map(is_count, tokens))):
        raise UserError("no answer that was written here")
    return {"reply": reply, "tokens": tokens}
