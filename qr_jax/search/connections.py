"""A server's connections: their addresses and stages, and which one is closed in favour of a new one."""

import asyncio
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from qr_jax.errors import UserError

SILENT_S = 0.25  # no answered request so long after it came: a client far away needs less for its first
IDLE_S = 1.0  # none since the last one
SILENT = 16  # more such connections of one address give way before any other; so many may be honest


class Stage(IntEnum):
    """The stage of a connection. None is closed for another while its request is being answered."""

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
    """Open connections: at most `most`, and `most_of_address` from one address."""

    def __init__(self, most: int, most_of_address: int):
        self._most, self._most_of_address = most, most_of_address
        self._at: dict[Stage, dict[Connection, None]] = {stage: {} for stage in Stage}  # the oldest first
        self._of_address: Counter[str] = Counter()
        # Those that may give way, by address, the earliest `since_s` first: never answered, and answered.
        self._new: defaultdict[str, dict[Connection, None]] = defaultdict(dict)
        self._known: defaultdict[str, dict[Connection, None]] = defaultdict(dict)

    def __len__(self) -> int:
        return sum(map(len, self._at.values()))

    def all(self, *stages: Stage) -> Iterator[Connection]:
        """Yield the connections at these stages, oldest first by stage; none may change stage during the iteration."""
        return itertools.chain.from_iterable(self._at[stage] for stage in stages)

    def make_room(self, address: str) -> Connection | None:
        """Remove and return a connection if one more from `address` would be too many; its task goes on.

        First come connections that wait for their client: new ones after SILENT_S, others after IDLE_S, then any new
        ones. They are taken from the address with most of them, if it has more than SILENT; so clients that ask twice a
        second stay, however many new ones come. After these the address with most connections loses one, whatever it
        has done, so that an address with few keeps its own: a silent new one, or else the one whose time is over first.

        ValueError if every connection's request is being answered.
        """
        crowded = self._of_address[address] >= self._most_of_address
        if not crowded and len(self) < self._most:
            return None
        addresses = [address] if crowded else list(self._of_address)
        turns = ((self._new, SILENT_S), (self._known, IDLE_S), (self._new, 0.0))
        given_way = next(filter(None, (self._waits(held, addresses, wait_s) for held, wait_s in turns)), None)
        if given_way is None:
            of_address = max(addresses, key=lambda one: len(self._new[one]) + len(self._known[one]))
            new, known = (next(iter(held[of_address]), None) for held in (self._new, self._known))
            is_silent = new is not None and time.monotonic() - new.since_s > SILENT_S
            first = [one for one in (new, known) if one]
            until_s = lambda one: one.since_s + (IDLE_S if one.answered else SILENT_S)  # noqa: E731
            given_way = new if is_silent else min(first, key=until_s, default=None)
        if given_way is None:
            whose = f"{self._most_of_address} connections of one address" if crowded else f"{self._most} connections"
            raise UserError(f"all {whose} wait for answers; try again")
        self.leave(given_way)
        return given_way

    def _waits(self, held: Mapping[str, dict[Connection, None]], addresses: list[str], wait_s: float):
        """Return the first of the address with most, if more than SILENT there have waited `wait_s`; or None."""
        before_s = time.monotonic() - wait_s
        many = [one for one in addresses if len(held[one]) > SILENT]
        many = [one for one in many if next(itertools.islice(held[one], SILENT, None)).since_s < before_s]
        return next(iter(held[max(many, key=lambda one: len(held[one]))])) if many else None

    def enter(self, connection: Connection) -> None:
        self._at[connection.stage][connection] = None
        self._of_address[connection.address] += 1
        self._hold(connection)

    def move(self, connection: Connection, stage: Stage) -> None:
        """Move a connection to a stage; do nothing if it has left."""
        if self._at[connection.stage].pop(connection, 0) is None:
            connection.stage = stage
            if stage == Stage.KEPT:
                connection.answered, connection.since_s = True, time.monotonic()
            self._at[stage][connection] = None
            if stage in (Stage.KEPT, Stage.ANSWER):
                self._let_go(connection)
            self._hold(connection)

    def leave(self, connection: Connection) -> None:
        """Remove a connection; do nothing if it has left."""
        if self._at[connection.stage].pop(connection, 0) is None:
            self._let_go(connection)
            self._of_address[connection.address] -= 1
            if not self._of_address[connection.address]:
                for held in (self._of_address, self._new, self._known):
                    held.pop(connection.address, None)

    def _hold(self, connection: Connection) -> None:
        if connection.stage != Stage.ANSWER:
            (self._known if connection.answered else self._new)[connection.address][connection] = None

    def _let_go(self, connection: Connection) -> None:
        for held in (self._new, self._known):
            held[connection.address].pop(connection, None)
