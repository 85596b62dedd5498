"""The connections of a server: from which address each came, what it does, and which one gives way to a new one."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Stage(IntEnum):
    """What a connection does. Of an address' own a lower stage gives way before a higher one, ANSWER never."""

    HEAD = 0  # it has sent nothing yet, or part of a head
    KEPT = 1  # its last request was answered, and nothing of the next one has come
    BODY = 2
    ANSWER = 3


@dataclass(eq=False)
class Connection:
    address: str
    task: asyncio.Task[Any]
    stage: Stage = Stage.HEAD
    answered: bool = False  # it has been of use: at least one request on it was answered


class Connections:
    """At most `most` connections, and `most_of_address` from one address."""

    def __init__(self, most: int, most_of_address: int):
        self._most, self._most_of_address = most, most_of_address
        self._at: dict[Stage, dict[Connection, None]] = {stage: {} for stage in Stage}  # the oldest first
        self._of_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._at.values()))

    def all(self, *stages: Stage) -> Iterator[Connection]:
        """Those at these stages, the oldest of the first stage first; nobody may move before the last has come."""
        return itertools.chain.from_iterable(self._at[stage] for stage in stages)

    def make_room(self, address: str) -> Connection | None:
        """Take the place of a connection, where a new one from this address would be too many; its task goes on.

        Those that were never answered give way first, then the others: so 200 clients of one machine keep theirs. Of
        them it is of the address that holds most, so that who holds few keeps them; and there of the lowest stage, and
        has been there longest. ValueError: every place is a request's that is being answered.
        """
        crowded = self._of_address[address] >= self._most_of_address
        if not crowded and len(self) < self._most:
            return None
        may = [one for one in self.all(Stage.HEAD, Stage.KEPT, Stage.BODY) if not crowded or one.address == address]
        if may:
            may = [one for one in may if not one.answered] or may
            held = Counter(one.address for one in may)
            given_way = max(may, key=lambda one: held[one.address])  # the first of several
            self.leave(given_way)
            return given_way
        whose = f"{self._most_of_address} connections of one address" if crowded else f"{self._most} connections"
        raise ValueError(f"all {whose} wait for answers; try again")

    def enter(self, connection: Connection) -> None:
        self._at[connection.stage][connection] = None
        self._of_address[connection.address] += 1

    def move(self, connection: Connection, stage: Stage) -> None:
        """To a stage; nothing happens to one that has left."""
        if self._at[connection.stage].pop(connection, 0) is None:
            connection.stage = stage
            connection.answered |= stage == Stage.KEPT
            self._at[stage][connection] = None

    def leave(self, connection: Connection) -> None:
        """Give the place up; nothing happens to one that has left."""
        if self._at[connection.stage].pop(connection, 0) is None:
            self._of_address[connection.address] -= 1
            if not self._of_address[connection.address]:
                del self._of_address[connection.address]
