"""Scheduling of episodes: those in slots that decode, those in the store of rows that do not, and those to begin.

A query's prompt is computed once, in the store. What all prompts begin with (the system prompt) is computed once per
rollout and copied. Episodes with equal histories that are shown the same text compute it once: a query's samples often
search for the same words. A searching episode gives up its slot only when another episode wants it.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from qr_jax.models.costs import matrix_parameters
from qr_jax.models.incremental import DecodeParams
from qr_jax.records import Say
from qr_jax.rollout.kv_cache import KVCache, Move, Work
from qr_jax.rollout.live import EpisodeState, Statistics

SHARED_LEAST = 16  # tokens; a shorter common beginning is not worth a row and a copy
LENT_SUMS = 1e9  # multiplications and additions; fewer cost less than the call that copies
PREFIX_STORE = 3  # rows; a smaller store spares none for the common beginning

Prompt = Callable[[int], tuple[list[int], Say]]


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """Count the ids that both begin with."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(left), len(right)))


class SlotScheduler:
    """Slots and rows of one rollout. `order` is (query, sample) in order of admission, a query's samples together."""

    def __init__(
        self,
        rows: KVCache,
        laid: DecodeParams,
        order: Sequence[tuple[int, int]],
        prompt: Prompt,
        statistics: Statistics,
    ):
        self.rows, self.laid, self.prompt, self.statistics = rows, laid, prompt, statistics
        self.waiting = deque(order)
        self.slots: list[EpisodeState | None] = [None] * rows.slot_count
        self.store_free = list(range(rows.store_count))
        self.parked: list[tuple[EpisodeState, int]] = []  # in the order in which they left their slots
        self.prompts: dict[int, tuple[int, list[int], Say]] = {}  # query -> store row, ids, the Say
        self.users = Counter(query for query, _ in order)
        self.prefix, self.prefix_row = self._prefix(order), -1
        rows.begin()

    def active(self) -> list[tuple[int, EpisodeState]]:
        """Return the slots that can decode, each with its episode."""
        return [(slot, live) for slot, live in enumerate(self.slots) if live and not live.searching]

    def join(self, query: int, samples: int) -> None:
        """Let so many samples of a further query wait for slots."""
        self.users[query] += samples
        self.waiting += [(query, sample) for sample in range(samples)]

    def withdraw(self, query: int) -> None:
        """Free all that a query's episodes hold, and let none of them begin."""
        self.waiting = deque(pair for pair in self.waiting if pair[0] != query)
        del self.users[query]
        if query in self.prompts:
            self.store_free.append(self.prompts.pop(query)[0])
        for live in [*self.slots, *(live for live, _ in self.parked)]:
            if live and live.query_at == query:
                self.leave(live)

    def leave(self, live: EpisodeState) -> None:
        """Free the slot, or the row of the store, of an episode that is over."""
        if live in self.slots:
            self.slots[self.slots.index(live)] = None
        for at, (other, row) in enumerate(self.parked):
            if other is live:
                del self.parked[at]
                self.store_free.append(row)
                break

    def all_free(self) -> bool:
        """Return True if no slot and no row of the store is in use."""
        return sorted(self.store_free) == list(range(self.rows.store_count)) and not any(self.slots)

    def fill(self) -> None:
        """Seat parked episodes that can go on, then new ones; park searching ones where others want their slots.

        Then append to the cache whatever the seated episodes were shown.
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
        self.store_free += [row for (_, row), _ in resumed] + used_up  # only after the copy may they be written
        self._append_shown()

    def _append_shown(self) -> None:
        """Append what episodes were shown; of those with the same ids one computes it, the others copy its row."""
        shown: dict[object, list[tuple[int, EpisodeState]]] = {}
        for slot, live in self.active():
            if tokens := len(live.ids) - 1 - live.cached:
                is_lent = 2 * matrix_parameters(self.rows.cfg) * tokens >= LENT_SUMS
                shown.setdefault(tuple(live.ids[:-1]) if is_lent else slot, []).append((slot, live))
        first = [same[0] for same in shown.values()]
        self._append("slots", [(slot, live.ids[live.cached : -1], live.cached) for slot, live in first])
        lent = [(same[0][0], slot, live) for same in shown.values() for slot, live in same[1:]]
        self.rows.move("slots", "slots", [(lender, slot, len(live.ids) - 1) for lender, slot, live in lent])
        self.statistics.observation_lent += sum(len(live.ids) - 1 - live.cached for *_, live in lent)
        for same in shown.values():
            for _, live in same:
                live.cached = len(live.ids) - 1

    def _append(self, where: str, work) -> None:
        start = time.monotonic()
        if work := [item for item in work if item[1]]:
            self.rows.append(self.laid, where, work)
        self.statistics.append_s += time.monotonic() - start

    def _park(self, wanted: int) -> list[int]:
        """Move up to `wanted` searching episodes to the store, leaving one row for a prompt; return their slots."""
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
        """Begin new episodes in the free slots.

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
            live = EpisodeState(query, sample, cached=len(ids) - 1)
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
        """Return the ids that the first two prompts both begin with; [] where sharing them is not worth it, or has no
        room.

        Judged by these two prompts, sharing must save more tiles (the units of compute) than these ids take themselves.
        """
        first_two = list(dict.fromkeys(query for query, _ in order))[:2]
        if len(first_two) < 2 or self.rows.store_count < PREFIX_STORE:
            return []
        two = [self.prompt(query)[0][:-1] for query in first_two]
        shared, tiles = common(*two), self.rows.tiles
        saved = sum(tiles(len(ids)) - tiles(len(ids) - shared) for ids in two) / 2 * len(self.users)
        return two[0][:shared] if shared >= SHARED_LEAST and saved > tiles(shared) else []

    def _prefill(self, new: Sequence[tuple[int, list[int]]]) -> None:
        """Fill new prompts' rows of the store, up to their last token; the common beginning is copied.

        Where the store has no row to spare for it, the first new prompt's own row lends it to the others.
        """
        if not new:
            return
        if self.prefix and self.prefix_row < 0 and self.store_free:
            self.prefix_row = self.store_free.pop()
            self._compute([(self.prefix_row, self.prefix, 0)])
        lender, held = self.prefix_row, self.prefix
        if lender < 0:
            lender, first = new[0]
            held = self.prefix[: common(self.prefix, first[:-1])] if len(new) > 1 else []
            self._compute([(lender, held, 0)])
        shared = [(row, ids, common(held, ids[:-1])) for row, ids in new]
        self.rows.move("store", "store", [(lender, row, n) for row, _, n in shared if n and row != lender])
        self._compute([(row, ids[n:-1], n) for row, ids, n in shared])
        self.statistics.prompt_tokens += len(new)  # a prompt's last token comes with the first step of decoding

    def _compute(self, work: Sequence[Work]) -> None:
        self._append("store", work)
        self.statistics.prompt_tokens += sum(len(ids) for _, ids, _ in work)
