"""The connections of a server: from which address each came, what it does, and which one gives way to a new one."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

SILENT_S = 0.25  # no answered request so long after it came: a client far away needs less for its first
SILENT = 64  # such connections of one address give way before any other; so many may be honest


class Stage(IntEnum):
    """What a connection does. None gives way while its request is being answered."""

    HEAD = 0  # it has sent nothing yet, or part of a head
    KEPT = 1  # its last request was answered, and nothing of the next one has come
    BODY = 2
    ANSWER = 3


@dataclass(eq=False)
class Connection:
    address: str
    task: asyncio.Task[Any]
    stage: Stage = Stage.HEAD
    answered: bool = False  # at least one request on it
    since_s: float = field(default_factory=time.monotonic)  # when it came, or was last answered


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

        First go those that were not answered yet though they have been there for SILENT_S, from the address that has
        most of them, where these are more than SILENT. Then the address that holds most gives way, whatever it has
        done, so that who holds few keeps them. Of an address it is such a silent one, or else the one that came, or was
        last answered, longest ago. ValueError: every place is a request's that is being answered.
        """
        crowded = self._of_address[address] >= self._most_of_address
        if not crowded and len(self) < self._most:
            return None
        if may := [
            one for one in self.all(Stage.HEAD, Stage.KEPT, Stage.BODY) if not crowded or one.address == address
        ]:
            given_way = _first_to_go(may, time.monotonic())
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
            if stage == Stage.KEPT:
                connection.answered, connection.since_s = True, time.monotonic()
            self._at[stage][connection] = None

    def leave(self, connection: Connection) -> None:
        """Give the place up; nothing happens to one that has left."""
        if self._at[connection.stage].pop(connection, 0) is None:
            self._of_address[connection.address] -= 1
            if not self._of_address[connection.address]:
                del self._of_address[connection.address]


def _first_to_go(may: list[Connection], now_s: float) -> Connection:
    """The one of these that `make_room` takes."""

    def is_silent(one: Connection) -> bool:
        return not one.answered and now_s - one.since_s > SILENT_S

    silent = Counter(one.address for one in may if is_silent(one)).most_common(1)
    held = silent if silent and silent[0][1] > SILENT else Counter(one.address for one in may).most_common(1)
    of_address = (one for one in may if one.address == held[0][0])
    return min(of_address, key=lambda one: (not is_silent(one), one.since_s))
