"""Rollouts: many episodes of search share a few slots that decode together.

A sequence that asks to search leaves its slot while its call runs, when another could use it; all waiting searches go
to the retriever in one batch; a query's samples share one prefill; an observation is appended to what is cached.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

import numpy as np

from qr_jax import config
from qr_jax.models.families import ModelConfig
from qr_jax.models.tokenizer import Tokenizer
from qr_jax.records import Episode, Query, Say, Search, SearchFunction, Stop, StopReason, Turn
from qr_jax.rollout import tools
from qr_jax.rollout.chat import Chat
from qr_jax.rollout.live import Live, Statistics
from qr_jax.rollout.rows import Move, Rows

PURPOSES = {"train": 0, "greedy": 1, "pass": 2, "ask": 3, "probe": 4}
ORDERED_TICKS = 2  # an ordered search is answered this many ticks after it was asked, however fast it was
POLL_S = 0.1  # how often `stop_now` is asked while all wait for a search


class Interrupted(Exception):
    """The caller's `stop_now` said so between two ticks or while all waited; nothing of the rollout is kept."""


class Engine:
    """Rolls out one model shape with one tokenizer and one group of settings; parameters come with each call."""

    def __init__(self, cfg: ModelConfig, tokenizer: Tokenizer, settings: config.Rollout, *, compute: str = "float32"):
        if tokenizer.size > cfg.vocab:
            raise ValueError(
                f"the tokenizer has {tokenizer.size} ids, the model's vocabulary {cfg.vocab}: give a matching pair"
            )
        self.tokenizer, self.settings = tokenizer, settings
        self.chat = Chat(tokenizer, bos=tokenizer.bos)
        self.rows = Rows(cfg, settings, tokenizer.eos_ids, compute=compute)
        self.pieces = [_piece(tokenizer, token) for token in range(cfg.vocab)]
        self.statistics = Statistics()

    def warm_up(self, params) -> float:
        """Compile all programs; returns seconds. Without it they compile when first needed."""
        return self.rows.warm_up(params)

    def run(
        self,
        params,
        queries: Sequence[Query],
        samples: int | Sequence[int],
        *,
        env: Callable,
        search: SearchFunction,
        seed: int,
        step: int,
        purpose: str = "train",
        query_keys: Sequence[int] | None = None,
        first_sample: int = 0,
        temperature: float | None = None,
        stop_now: Callable[[], bool] = lambda: False,
    ) -> list[list[Episode]]:
        """Episodes of each query, `samples` of them, in the order asked for.

        `query_keys` number the queries for the sampling keys (the pool index; the position by default), so a sample is
        the same wherever its query stands. A temperature of 0 is greedy. `statistics` then says what the call cost.
        Raises Interrupted when `stop_now()` turns true, and ValueError for a prompt that does not fit or an
        environment that breaks its contract; the engine can be used again.
        """
        counts = [samples] * len(queries) if isinstance(samples, int) else list(samples)
        order = [(q, first_sample + g) for q, count in enumerate(counts) for g in range(count)]
        numbers = range(len(queries)) if query_keys is None else query_keys
        keys_N2 = self.rows.keys(
            seed, PURPOSES[purpose], step, [int(numbers[q]) for q, _ in order], [g for _, g in order]
        )
        rollout = _Rollout(self, params, queries, order, keys_N2, env, search, step, stop_now)
        rollout.temperature = self.settings.temperature if temperature is None else temperature
        episodes = rollout.run()
        self.statistics = rollout.statistics
        return [[episodes[q, first_sample + g] for g in range(count)] for q, count in enumerate(counts)]


def _piece(tokenizer: Tokenizer, token: int) -> bytes:
    """A token's bytes; none where a vocabulary padded to a round size has an id that no text has (Qwen's have)."""
    try:
        return tokenizer.piece(token)
    except ValueError:
        return b""


class _Rollout:
    """The state of one call of `Engine.run`."""

    temperature: float

    def __init__(self, engine, params, queries, order, keys_N2, env, search, step, stop_now):
        self.engine, self.params, self.queries, self.env, self.search = engine, params, queries, env, search
        self.settings, self.rows, self.tokenizer = engine.settings, engine.rows, engine.tokenizer
        self.step, self.stop_now = step, stop_now
        self.key = {pair: keys_N2[n] for n, pair in enumerate(order)}
        self.waiting_new = deque(order)
        self.slots: list[Live | None] = [None] * self.rows.slot_count
        self.store_free = list(range(self.rows.store_count))
        self.parked: list[tuple[Live, int]] = []  # in the order in which they left their slots
        self.prompts: dict[int, tuple[int, list[int], Say]] = {}  # query -> store row, ids, what was said
        self.prompt_users = Counter(query_at for query_at, _ in order)
        self.calls: deque[tuple[int, Future, list[Live]]] = deque()
        self.done: dict[tuple[int, int], Episode] = {}
        self.idle = False  # the last tick found nobody who could decode
        self.statistics = Statistics()

    def run(self) -> dict[tuple[int, int], Episode]:
        start, moved = time.monotonic(), self.rows.moved
        total = len(self.waiting_new)
        pool = ThreadPoolExecutor(1, "searches")
        try:
            while len(self.done) < total:
                if self.stop_now():
                    raise Interrupted
                self._answer_searches()
                self._fill_slots()
                wishes = self._tick()
                if wishes:
                    self._ask(pool, wishes)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # a call that hangs must not hold up whoever interrupts
        assert sorted(self.store_free) == list(range(self.rows.store_count)), "a row of the store was lost"
        self.statistics.rows_moved = self.rows.moved - moved
        self.statistics.total_s = time.monotonic() - start
        return self.done

    # ---- searches

    def _ask(self, pool: ThreadPoolExecutor, wishes: list[tuple[Live, tuple[str, ...]]]) -> None:
        queries = [query for _, wish in wishes for query in wish]
        for live, wish in wishes:
            live.searching = True
            live.turns.append(Turn("env", "", wish))
        call = pool.submit(
            tools.run_searches, self.search, queries, self.settings.search_k,
            deadline_s=self.settings.search_deadline_s, retries=self.settings.search_retries,
        )  # fmt: skip
        self.calls.append((self.statistics.ticks, call, [live for live, _ in wishes]))

    def _answer_searches(self) -> None:
        """Take the results that are due; when no slot could decode without them, the oldest call is due."""
        while self.calls:
            asked, call, lives = self.calls[0]
            if self.settings.schedule == "arrival":
                due = call.done()
            else:
                due = self.statistics.ticks - asked >= ORDERED_TICKS - 1
            if not (due or self.idle):
                return
            self.idle = False
            self.calls.popleft()
            start = time.monotonic()
            while not call.done():
                if self.stop_now():
                    raise Interrupted
                wait([call], timeout=POLL_S)
            results = call.result()
            self.statistics.search_wait_s += time.monotonic() - start
            self.statistics.search_s += results.wall_s
            self.statistics.searches += results.asked
            self.statistics.searches_sent += results.unique
            self.statistics.searches_failed += results.failed
            for live in lives:
                self._observe(live, results.found)

    def _observe(self, live: Live, results: Mapping) -> None:
        found = [results[query] for query in live.turns[-1].queries]
        faults = [passages for passages in found if isinstance(passages, tools.Fault)]
        if faults:
            return self._finish(live, "fault", fault=faults[0].reason)
        live.turns[-1] = replace(live.turns[-1], passages=tuple(tuple(passages) for passages in found))
        query = self.queries[live.query_at]
        encode, budget = self.tokenizer.encode_data, self.settings.observation_tokens
        say, turns = tools.fit_observation(self.env, query, live.turns, lambda text: len(encode(text)), budget)
        live.turns = list(turns)
        if isinstance(say, Stop):
            return self._finish(live, say.reason, say.answer)
        if not isinstance(say, Say):
            raise ValueError(
                f"the environment was shown the passages it asked for and gave {say!r}; wanted Say or Stop"
            )
        live.turns[-1] = replace(live.turns[-1], text=say.text)
        self._say(live, say)

    def _say(self, live: Live, say: Say) -> None:
        ids = self.engine.chat.observe(say, ended_by_eos=live.by_eos)
        if len(live.ids) + len(ids) >= self.settings.context_tokens:
            return self._finish(live, "context")
        live.show(ids, say)
        self.statistics.observation_tokens += len(ids)

    # ---- slots

    def _fill_slots(self) -> None:
        """Seat parked episodes that can go on, then new ones; park searching ones where others want their slots."""
        ready = [(live, row) for live, row in self.parked if not live.searching]
        free = [s for s, live in enumerate(self.slots) if live is None]
        wanted = len(ready) + len(self.waiting_new) - len(free)
        if wanted > 0:
            free += self._park(wanted)
        resumed = list(zip(ready, free, strict=False))
        for (live, row), slot in resumed:
            self.slots[slot] = live
            self.parked.remove((live, row))
        new, used_up = self._admit(free[len(resumed) :])
        self.rows.move("store", "slots", [(row, slot, live.cached) for (live, row), slot in resumed] + new)
        self.store_free += [row for (_, row), _ in resumed] + used_up  # only now may they be written again
        start = time.monotonic()
        work = [
            (slot, live.ids[live.cached : -1], live.cached)
            for slot, live in enumerate(self.slots)
            if live and not live.searching and live.cached < len(live.ids) - 1
        ]
        self.rows.append(self.params, "slots", work)
        for live in filter(None, self.slots):
            if not live.searching:
                live.cached = len(live.ids) - 1
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
        """New episodes for the free slots; a query's prompt is computed once, in the store.

        Returns the rows to copy to slots and the store rows that are free after the copy.
        """
        moves, prefill, used_up = [], [], []
        for slot in free:
            if not self.waiting_new or not (self.waiting_new[0][0] in self.prompts or self.store_free):
                break
            query_at, sample = self.waiting_new.popleft()
            if query_at not in self.prompts:
                ids, say = self._prompt(self.queries[query_at])
                self.prompts[query_at] = (self.store_free.pop(), ids, say)
                prefill.append((self.prompts[query_at][0], ids[:-1], 0))
                self.statistics.prompt_tokens += len(ids)
            row, ids, say = self.prompts[query_at]
            live = Live(query_at, sample, cached=len(ids) - 1)
            live.show(ids, say)
            self.slots[slot] = live
            moves.append((row, slot, live.cached))
            self.prompt_users[query_at] -= 1
            if not self.prompt_users[query_at]:
                used_up.append(self.prompts.pop(query_at)[0])
        start = time.monotonic()
        self.rows.append(self.params, "store", [item for item in prefill if item[1]])
        self.statistics.append_s += time.monotonic() - start
        return moves, used_up

    def _prompt(self, query: Query) -> tuple[list[int], Say]:
        say = self.env(query, [])
        if not isinstance(say, Say):
            raise ValueError(f"the environment opened query {query.id!r} with {say!r}; wanted Say(prompt)")
        ids = self.engine.chat.open(say)
        if not 0 < len(ids) < self.settings.context_tokens:
            raise ValueError(
                f"the prompt of query {query.id!r} has {len(ids)} tokens; wanted 1 or more and less than "
                f"rollout.context_tokens={self.settings.context_tokens}: raise it or shorten the prompt"
            )
        return ids, say

    # ---- decoding

    def _tick(self) -> list[tuple[Live, tuple[str, ...]]]:
        """Decode one chunk and let the environment answer every turn that ended; returns who wants to search what."""
        count = self.rows.slot_count
        pending_S, used_S, room_S = (np.zeros(count, np.int32) for _ in range(3))
        key_S2 = np.zeros((count, 2), np.uint32)
        active = [(slot, live) for slot, live in enumerate(self.slots) if live and not live.searching]
        self.statistics.ticks += 1
        self.idle = not active
        if self.idle:
            return []
        for slot, live in active:
            pending_S[slot], used_S[slot] = live.ids[-1], live.cached
            room_S[slot] = live.room(self.settings)
            key_S2[slot] = self.key[live.query_at, live.sample]
        start = time.monotonic()
        view = self.rows.view(int(used_S.max()))
        chunk = self.rows.decode(self.params, pending_S, used_S, room_S, key_S2, self.temperature, view)
        token_SC, logp_SC, count_S = (np.asarray(part) for part in chunk)
        self.statistics.decode_s += time.monotonic() - start
        wishes, eos_ids = [], self.tokenizer.eos_ids
        for slot, live in active:
            n = int(count_S[slot])
            if not np.isfinite(logp_SC[slot, :n]).all():
                self._finish(live, "fault", fault="the model gave a log-probability that is not finite")
                continue
            taken = live.take(token_SC[slot, :n].tolist(), logp_SC[slot, :n].tolist(), self.engine.pieces, eos_ids)
            self.statistics.tokens += taken
            if live.complete or live.out_of_room(self.settings):
                wish = self._move_on(live)
                if wish is not None:
                    wishes.append((live, wish))
        return wishes

    def _move_on(self, live: Live) -> tuple[str, ...] | None:
        """The model's turn is over: ask the environment. Returns the queries of a search, None for anything else."""
        live.turns.append(Turn("model", live.text(self.engine.pieces)))
        live.model_turns += 1
        if not live.complete:
            return self._finish(live, live.out_of_room(self.settings) or "length")
        move = self.env(self.queries[live.query_at], live.turns)
        if isinstance(move, Stop):
            return self._finish(live, move.reason, move.answer)
        if isinstance(move, Say):
            live.turns.append(Turn("env", move.text))
            return self._say(live, move)
        if isinstance(move, Search):
            return tuple(move.queries)
        raise ValueError(f"the environment answered a turn of the model with {move!r}; wanted Say, Search or Stop")

    def _finish(self, live: Live, stop: StopReason, answer: str | None = None, fault: str | None = None) -> None:
        query = self.queries[live.query_at]
        self.done[live.query_at, live.sample] = live.episode(query, self.step, stop, answer, fault)
        for slot, other in enumerate(self.slots):
            if other is live:
                self.slots[slot] = None
        for at, (other, row) in enumerate(self.parked):
            if other is live:
                del self.parked[at]
                self.store_free.append(row)
                break
