"""Memory held by answers that their clients have not read yet: bounded in total; the slowest reader is dropped."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

UNREAD_S = 1.0  # without a piece that its client took; then an answer gives way, where there is no room for others


class Full(Exception):
    """There is no room for an answer: by itself (`too_large`), or beside the others."""

    def __init__(self, text: str, *, too_large: bool):
        super().__init__(text)
        self.too_large = too_large


class Answer:
    """One request's answer, from its first passage to its last byte; `hold` counts further bytes."""

    def __init__(self, task: asyncio.Task[Any], hold: Callable[["Answer", int], None]):
        self.task, self.bytes, self.counted = task, 0, 0
        self.taken_s: float | None = None  # when its client took a piece, or it began to be sent
        self._hold = hold

    def hold(self, size: int) -> None:
        """Count `size` more bytes; Full if there is no room for them."""
        self._hold(self, size)

    def taken(self) -> None:
        """Note that sending begins, or that the client read a piece."""
        self.taken_s = time.monotonic()


class Answers:
    """All open answers: at most `most_bytes` together and `one_bytes` each; those up to `small_bytes` always fit."""

    def __init__(self, most_bytes: int, one_bytes: int, small_bytes: int, refused: Counter[str]):
        self._most, self._one, self._small, self._refused = most_bytes, one_bytes, small_bytes, refused
        self._answers: dict[Answer, None] = {}
        self.held_bytes = 0

    @contextlib.contextmanager
    def open(self, task: asyncio.Task[Any]) -> Iterator[Answer]:
        """Open an answer whose bytes count until the context ends."""
        answer = Answer(task, self._hold)
        self._answers[answer] = None
        try:
            yield answer
        finally:
            self._let_go(answer)

    def _hold(self, answer: Answer, size: int) -> None:
        answer.bytes += size
        if answer.bytes > self._one:
            self._refused["answers"] += 1
            text = f"the answer has more than {self._one:,} bytes; ask for fewer queries or passages at once"
            raise Full(text, too_large=True)
        if answer.bytes <= self._small:
            return
        more = answer.bytes - answer.counted
        while self.held_bytes + more > self._most:
            unread = self._longest_unread()
            if unread is None:
                self._refused["answers"] += 1
                text = f"other answers hold {self.held_bytes:,} of {self._most:,} bytes; try again, or ask for less"
                raise Full(text, too_large=False)
            self._refused["unread"] += 1
            unread.task.cancel()
            self._let_go(unread)
        if answer in self._answers:
            answer.counted = answer.bytes
            self.held_bytes += more

    def _longest_unread(self) -> Answer | None:
        """Return the answer unread for longest, if longer than UNREAD_S; small answers do not count."""
        before_s = time.monotonic() - UNREAD_S
        unread = [one for one in self._answers if one.counted and one.taken_s is not None and one.taken_s < before_s]
        return min(unread, key=lambda one: one.taken_s or 0.0, default=None)

    def _let_go(self, answer: Answer) -> None:
        if self._answers.pop(answer, 0) is None:
            self.held_bytes -= answer.counted
