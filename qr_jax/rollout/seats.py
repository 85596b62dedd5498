"""Who sits where: the slots that decode, the store of rows that do not, and the episodes that have yet to begin.

A query's prompt enters the cache once, in the store, behind what all prompts share (the system prompt), which enters it
once a rollout. A searching episode gives up its slot only when another wants it.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from qr_jax.models.incremental import Laid
from qr_jax.records import Say
from qr_jax.rollout.live import Live, Statistics
from qr_jax.rollout.rows import Move, Rows

SHARED_LEAST = 16  # tokens of a common beginning worth a row and a copy
PREFIX_STORE = 3  # rows of the store from which one is spared for it

Prompt = Callable[[int], tuple[list[int], Say]]


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many of the first ids are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


class Seats:
    """The seats of one rollout. `order` is (query, sample) in order of admission, a query's samples together."""

    def __init__(
        self, rows: Rows, laid: Laid, order: Sequence[tuple[int, int]], prompt: Prompt, statistics: Statistics
    ):
        self.rows, self.laid, self.prompt, self.statistics = rows, laid, prompt, statistics
        self.waiting = deque(order)
        self.slots: list[Live | None] = [None] * rows.slot_count
        self.store_free = list(range(rows.store_count))
        self.parked: list[tuple[Live, int]] = []  # in the order in which they left their slots
        self.prompts: dict[int, tuple[int, list[int], Say]] = {}  # query -> store row, ids, what was said
        self.users = Counter(query for query, _ in order)
        self.prefix, self.prefix_row = self._prefix(order), -1
        rows.begin()

    def active(self) -> list[tuple[int, Live]]:
        """Slots that can decode, and who sits there."""
        return [(slot, live) for slot, live in enumerate(self.slots) if live and not live.searching]

    def leave(self, live: Live) -> None:
        """An episode is over: its slot or its row of the store is free."""
        if live in self.slots:
            self.slots[self.slots.index(live)] = None
        for at, (other, row) in enumerate(self.parked):
            if other is live:
                del self.parked[at]
                self.store_free.append(row)
                break

    def all_free(self) -> bool:
        return sorted(self.store_free) == list(range(self.rows.store_count)) and not any(self.slots)

    def fill(self) -> None:
        """Seat parked episodes that can go on, then new ones; park searching ones where others want their slots.

        Then whatever those in slots were shown enters the cache.
        """
        ready = [(live, row) for live, row in self.parked if not live.searching]
        free = [slot for slot, live in enumerate(self.slots) if live is None]
        wanted = len(ready) + len(self.waiting) - len(free)
        if wanted > 0:
            free += self._park(wanted)
        resumed = list(zip(ready, free, strict=False))
        for (live, row), slot in resumed:
            self.slots[slot] = live
            self.parked.remove((live, row))
        new, used_up = self._admit(free[len(resumed) :])
        self.rows.move("store", "slots", [(row, slot, live.cached) for (live, row), slot in resumed] + new)
        self.store_free += [row for (_, row), _ in resumed] + used_up  # only now may they be written again
        active = self.active()
        self._append("slots", [(slot, live.ids[live.cached : -1], live.cached) for slot, live in active])
        for _, live in active:
            live.cached = len(live.ids) - 1

    def _append(self, where: str, work) -> None:
        start = time.monotonic()
        if work := [item for item in work if item[1]]:
            self.rows.append(self.laid, where, work)
        self.statistics.append_s += time.monotonic() - start

    def _park(self, wanted: int) -> list[int]:
        """Bring up to `wanted` searching episodes to the store, one row of which is kept for the next prompt."""
        searching = [(slot, live) for slot, live in enumerate(self.slots) if live and live.searching]
        leaving = searching[: min(wanted, max(len(self.store_free) - 1, 0))]
        moves: list[Move] = []
        for slot, live in leaving:
            row = self.store_free.pop()
            moves.append((slot, row, live.cached))
            self.parked.append((live, row))
            self.slots[slot] = None
        self.rows.move("slots", "store", moves)
        return [slot for slot, _ in leaving]

    def _admit(self, free: list[int]) -> tuple[list[Move], list[int]]:
        """New episodes for the free slots.

        Returns the rows to copy to slots and the store rows that are free after the copy.
        """
        moves, new, used_up = [], [], []
        for slot in free:
            if not self.waiting or not (self.waiting[0][0] in self.prompts or self.store_free):
                break
            query, sample = self.waiting.popleft()
            if query not in self.prompts:
                ids, say = self.prompt(query)
                self.prompts[query] = (self.store_free.pop(), ids, say)
                new.append((self.prompts[query][0], ids))
            row, ids, say = self.prompts[query]
            live = Live(query, sample, cached=len(ids) - 1)
            live.show(ids, say)
            self.slots[slot] = live
            moves.append((row, slot, live.cached))
            self.users[query] -= 1
            if not self.users[query]:
                used_up.append(self.prompts.pop(query)[0])
        self._prefill(new)
        if not self.waiting and self.prefix_row >= 0:
            used_up.append(self.prefix_row)
            self.prefix_row = -1
        return moves, used_up

    # ---- prompts

    def _prefix(self, order: Sequence[tuple[int, int]]) -> list[int]:
        """The ids with which the first two prompts begin; [] where they are few or the store is too small."""
        first_two = list(dict.fromkeys(query for query, _ in order))[:2]
        if len(first_two) < 2 or self.rows.store_count < PREFIX_STORE:
            return []
        one, other = (self.prompt(query)[0] for query in first_two)
        shared = one[: common(one[:-1], other[:-1])]
        return shared if len(shared) >= SHARED_LEAST else []

    def _prefill(self, new: Sequence[tuple[int, list[int]]]) -> None:
        """Prompts into their rows of the store, up to their last token; what is shared is copied."""
        if new and self.prefix and self.prefix_row < 0 and self.store_free:
            self.prefix_row = self.store_free.pop()
            self._append("store", [(self.prefix_row, self.prefix, 0)])
            self.statistics.prompt_tokens += len(self.prefix)
        prefix = self.prefix if self.prefix_row >= 0 else []
        shared = [common(prefix, ids[:-1]) for _, ids in new]
        self.rows.move(
            "store", "store", [(self.prefix_row, row, n) for (row, _), n in zip(new, shared, strict=True) if n]
        )
        self._append("store", [(row, ids[n:-1], n) for (row, ids), n in zip(new, shared, strict=True)])
        self.statistics.prompt_tokens += sum(len(ids) - n for (_, ids), n in zip(new, shared, strict=True))
