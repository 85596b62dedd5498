"""Rollouts: many episodes of search share a few slots that decode together.

An episode that searches leaves its slot if another episode wants it; the searches of a tick go to the retriever in one
batch; a query's samples share one prefill; an observation is appended to what is cached.
"""

import functools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace

import jax
import numpy as np

from qr_jax import config, dialect
from qr_jax.errors import Interrupted, UserError
from qr_jax.logging import terminal
from qr_jax.models import costs
from qr_jax.models.families import ModelConfig
from qr_jax.models.tokenizer import Tokenizer
from qr_jax.records import Call, Episode, Query, Say, Search, SearchFunction, Stop, StopReason, Turn
from qr_jax.rollout import reading, tools
from qr_jax.rollout.chat import Chat
from qr_jax.rollout.kv_cache import KVCache
from qr_jax.rollout.live import EpisodeState, Statistics
from qr_jax.rollout.on_cpu import CpuCache
from qr_jax.rollout.slot_scheduler import SlotScheduler
from qr_jax.run.kept_thread import KeptThread

PURPOSES = {"train": 0, "greedy": 1, "pass": 2, "ask": 3, "probe": 4}
READS_A_TAG = "the tokenizer reads a tag of the dialect in the environment's text, where it wrote none"
POLL_S = 0.1  # between two calls of `stop_now` while every episode waits for a search


class Engine:
    """Rolls out one model shape with one tokenizer and one group of settings; parameters come with each call."""

    def __init__(self, cfg: ModelConfig, tokenizer: Tokenizer, settings: config.Rollout, *, compute: str = "float32"):
        if tokenizer.size > cfg.vocab:
            raise UserError(
                f"the tokenizer has {tokenizer.size} ids, the model's vocabulary {cfg.vocab}: give a matching pair"
            )
        self.tokenizer, self.settings = tokenizer, settings
        self.chat = Chat(tokenizer, bos=tokenizer.bos, thinking=settings.thinking)
        on_cpu = jax.default_backend() == "cpu"
        self.rows = (CpuCache if on_cpu else KVCache)(cfg, settings, tokenizer.eos_ids, compute=compute)
        self.pieces = [_piece(tokenizer, token) for token in range(cfg.vocab)]
        self.statistics = Statistics()
        self.rollout: RolloutState | None = None  # under way, or the last one
        self.completing: dict[str, list[int]] = {}  # stop string -> the ids that may complete it

    def watch(self, stop: Sequence[str]) -> None:
        """Let decoding stop on the device, for the rest of this run, at every token that may complete a stop string.

        Such a token holds the whole string, or begins with its last bytes; earlier tokens may hold the bytes before.
        """
        for text in stop:
            if text not in self.completing:
                whole, pieces = text.encode(), enumerate(self.pieces)
                ends = tuple(whole[at:] for at in range(1, len(whole)))
                self.completing[text] = [token for token, piece in pieces if piece.startswith(ends) or whole in piece]
            self.rows.stop_at(self.completing[text])

    def prompt_tokens(self, queries: Sequence[Query], env: Callable) -> int:
        """Return the length of the longest prompt of these queries, in tokens."""
        return max((len(self.chat.open(env(query, []))) for query in queries), default=1)

    def check_prompts(self, queries: Sequence[Query], env: Callable) -> None:
        """Raise ValueError for a query whose prompt leaves no room, before a rollout meets it.

        No tokenizer makes more tokens than a text has bytes, so only long prompts are tokenised.
        """
        around = self.prompt_tokens(queries[:1], env)  # the template's own tokens, at the most
        for query in queries:
            say = env(query, [])
            if around + len(say.text.encode("utf-8", "replace")) >= self.settings.context_tokens:
                _check_room(query, self.chat.open(say), self.settings)

    def warm_up(
        self, params, *, prompt_tokens: int = 1, positions: int = 0, stop_now: Callable[[], bool] = lambda: False
    ) -> float:
        """Compile what a rollout's first tokens need, after prompts of `prompt_tokens`; returns seconds.

        `positions`: decoding and observations of episodes up to this length are compiled too. All other programs are
        compiled when first needed. Raises Interrupted when `stop_now()` turns true between two programs.
        """
        start = time.monotonic()
        with terminal.phase(terminal.COMPILING) as shown:
            for done, (left, what) in enumerate(self.rows.warm_up(params, prompt_tokens, positions)):
                if stop_now():
                    raise Interrupted
                shown.done, shown.total, shown.note = done, done + left, what
        return time.monotonic() - start

    def progress(self) -> tuple[int, int]:
        """Return how many episodes are finished and how many were asked for, in this rollout or the last one."""
        rollout = self.rollout
        return (len(rollout.done), rollout.total) if rollout else (0, 0)

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
        top_p: float = 1.0,
        top_k: int = 0,
        expected_tokens: Sequence[float] | None = None,
        stop_now: Callable[[], bool] = lambda: False,
        searches: KeptThread | None = None,
    ) -> list[list[Episode]]:
        """Roll out `samples` episodes of each query; return them in the order asked for.

        `query_keys` holds the number of each query in the sampling keys (its pool index; by default its position), so
        that its samples do not depend on where it stands; `first_sample` numbers each query's first sample, and
        `purpose` is one of PURPOSES. A temperature of 0 is greedy. `top_p` and `top_k` restrict what is sampled, but
        not the log-probabilities, so no training episode uses them. With `expected_tokens` (of an episode of each
        query) the longest begin first, so that few are left to decode alone at the end. `params` are the learner's, or
        the DecodeParams that `rows.to_decode_params` gave. Afterwards `statistics` has the call's cost. `searches`: the
        threads that searches run in; None: its own. Raises Interrupted when `stop_now()` turns true, and
        ValueError for a prompt that does not fit or an environment that breaks its contract; the engine can be used
        again.
        """
        counts = [samples] * len(queries) if isinstance(samples, int) else list(samples)
        query_order = range(len(queries))
        if expected_tokens is not None:
            query_order = np.argsort(-np.asarray(expected_tokens), kind="stable").tolist()
        order = [(q, first_sample + g) for q in query_order for g in range(counts[q])]
        numbers = range(len(queries)) if query_keys is None else query_keys
        keyed = [int(numbers[q]) for q, _ in order], [g for _, g in order]
        params = self.rows.to_decode_params(params)  # first, for keys are computed where these lie
        keys_N2 = self.rows.keys(seed, PURPOSES[purpose], step, *keyed)
        self.rows.restrict(top_p, top_k)
        self.rows.stop_at_eos()  # the stop strings of earlier runs must not end this run's chunks
        own, start = KeptThread("searches", self.settings.search_calls), time.monotonic()
        rollout = RolloutState(self, params, queries, order, keys_N2, env, search, searches or own, step, stop_now)
        rollout.temperature = self.settings.temperature if temperature is None else temperature
        self.rollout = rollout
        try:
            rollout.run()
        finally:
            own.close()  # a call that hangs must not hold up whoever interrupts
            del rollout.laid, rollout.seats  # a finished rollout is kept for `progress`, and refers to itself
        self.rows.release_caches()
        self.statistics = rollout.statistics
        self.statistics.total_s = time.monotonic() - start
        return [[rollout.done[q, first_sample + g] for g in range(count)] for q, count in enumerate(counts)]


def _check_room(query: Query, ids: Sequence[int], settings: config.Rollout) -> None:
    if not 0 < len(ids) < settings.context_tokens:
        raise UserError(
            f"the prompt of query {query.id!r} has {len(ids)} tokens; wanted 1 or more and less than "
            f"rollout.context_tokens={settings.context_tokens}: raise it or shorten the prompt"
        )


def _piece(tokenizer: Tokenizer, token: int) -> bytes:
    """Return a token's bytes; none for an id that stands for no text (Qwen's vocabularies are padded with such ids)."""
    try:
        return tokenizer.piece(token)
    except ValueError:
        return b""


class RolloutState:
    """The state of one call of `Engine.run`; or of a server (serve/batching.py), whose queries come and go."""

    temperature: float

    def __init__(self, engine, params, queries, order, keys_N2, env, search, searches, step, stop_now):
        self.engine, self.search = engine, search
        self.queries = dict(enumerate(queries))
        self.settings, self.rows, self.tokenizer = engine.settings, engine.rows, engine.tokenizer
        self.searches = searches
        self.env, self.tags = reading.unthinking(env), reading.tags_of(env)
        self.encode = functools.lru_cache(1)(self.tokenizer.encode_data)  # asked for its length, then for its tags
        self.step, self.stop_now = step, stop_now
        self.total = len(order)
        self.key = {pair: keys_N2[n] for n, pair in enumerate(order)}
        self.calls: deque[tuple[int, Future, list[EpisodeState]]] = deque()
        self.done: dict[tuple[int, int], Episode] = {}
        self.statistics = Statistics()
        self.laid = self.rows.to_decode_params(params)
        self.seats = SlotScheduler(self.rows, self.laid, order, self.prompt, self.statistics)

    def run(self) -> None:
        """Roll out until all episodes are done; Interrupted once `stop_now()` is True."""
        moved, grown = self.rows.moved, self.rows.grown
        while len(self.done) < self.total:
            if self.stop_now():
                raise Interrupted
            self.seats.fill()
            if wishes := self.tick():
                self.ask(wishes)
        assert self.seats.all_free(), "a row of the store was lost"
        self.statistics.rows_moved, self.statistics.cache_grown = self.rows.moved - moved, self.rows.grown - grown

    # ---- searches

    def ask(self, wishes: list[tuple[EpisodeState, tuple[str | Call, ...]]]) -> None:
        """Submit one tick's searches, each (episode, queries), as one batch."""
        queries = [query for _, wish in wishes for query in wish]
        for live, wish in wishes:
            live.searching = True
            live.turns.append(Turn("env", "", wish))
        call = self.searches.submit(
            tools.run_searches, self.search, queries, self.settings.search_k,
            **tools.limits(self.settings),
        )  # fmt: skip
        self.calls.append((self.statistics.ticks, call, [live for live, _ in wishes]))

    def answer_searches(self, idle: bool) -> None:
        """Take the results that are due; when no slot can decode without them (`idle`), wait for those of one call.

        With schedule="ordered" the oldest call is due `search_ticks` ticks after it was asked, done or not, so that
        what decodes together does not depend on how long searches take; otherwise a call is due once it is done.
        """
        while self.calls:
            in_order, ticks = self.settings.schedule == "ordered", self.statistics.ticks - self.calls[0][0]
            awaited = [call for _, call, _ in self.calls][: 1 if in_order else None]
            due = ticks >= self.settings.search_ticks if in_order else any(call.done() for call in awaited)
            if not (due or idle):
                return
            idle = False
            start = time.monotonic()
            while not any(call.done() for call in awaited):
                if self.stop_now():
                    raise Interrupted
                wait(awaited, timeout=POLL_S, return_when="FIRST_COMPLETED")
            at = next(at for at, call in enumerate(awaited) if call.done())
            _, call, lives = self.calls[at]
            del self.calls[at]
            results = call.result()
            self.statistics.search_wait_s += time.monotonic() - start
            self.statistics.search_s += results.wall_s
            self.statistics.searches += results.asked
            self.statistics.searches_sent += results.unique
            self.statistics.searches_failed += results.failed
            self.statistics.passages_cut += results.cut
            for live in lives:
                if self.stop_now():  # large passages take their time, each
                    raise Interrupted
                self.observe(live, results.by_query)

    def observe(self, live: EpisodeState, by_query: Mapping) -> None:
        """Put a search's passages, or its fault, into the episode; it decodes again, or ends."""
        results = [by_query[query] for query in live.turns[-1].queries]
        faults = [result for result in results if isinstance(result, tools.Fault)]
        if faults:
            return self.finish(live, "fault", fault=faults[0].reason)
        live.turns[-1] = replace(live.turns[-1], passages=tuple(tuple(passages) for passages in results))
        say, live.turns = self._fitted(live)
        if isinstance(say, Say) and self._opens(say):
            try:
                live.turns = reading.inert_turns(self.tokenizer, live.turns, self.tags)
            except ValueError as error:
                return self.finish(live, "fault", fault=str(error))
            say, live.turns = self._fitted(live)
        if isinstance(say, Say) and self._opens(say):
            return self.finish(live, "fault", fault=READS_A_TAG)
        if isinstance(say, Stop):
            return self.finish(live, say.reason, say.answer)
        assert isinstance(say, Say), "interfaces.py lets no other through"
        live.turns[-1] = replace(live.turns[-1], text=say.text)
        self._say(live, say)

    def _fitted(self, live: EpisodeState) -> tuple[Say | Search | Stop, list[Turn]]:
        """Return the environment's move and the turns, the last one's passages cut to `observation_tokens`."""
        query, budget = self.queries[live.query_at], self.settings.observation_tokens
        move, turns = tools.fit_observation(self.env, query, live.turns, lambda text: len(self.encode(text)), budget)
        self.statistics.passages_cut += tools.count_cut(live.turns[-1], turns[-1])
        return move, list(turns)

    def _opens(self, say: Say) -> bool:
        """Return True if the tokenizer reads a tag in the Say's text that the environment did not write."""
        pieces = self.engine.pieces
        seen = b"".join([pieces[token] for token in self.encode(say.text)]).decode("utf-8", "replace")
        return reading.opens(say.text, seen, self.tags)

    def _say(self, live: EpisodeState, say: Say) -> None:
        ids = self.engine.chat.observe(say, ended_by_eos=live.by_eos)
        if len(live.ids) + len(ids) >= self.settings.context_tokens:
            return self.finish(live, "context")
        say = self._watched(say)
        live.show(ids, say)
        self.statistics.observation_tokens += len(ids)

    def prompt(self, query_at: int) -> tuple[list[int], Say]:
        """Return the ids of a query's prompt, and the Say that it comes from."""
        query = self.queries[query_at]
        say = self.env(query, [])
        assert isinstance(say, Say), "interfaces.py lets no other open an episode"
        if self._opens(say):
            query = replace(query, question=reading.inert(self.tokenizer, query.question, self.tags))
            say = self.env(query, [])
            assert isinstance(say, Say), "as above"
            if self._opens(say):
                raise UserError(f"query {query.id!r}: {READS_A_TAG}")
            self.queries[query_at] = query
        ids = self.engine.chat.open(say)
        _check_room(query, ids, self.settings)
        return ids, self._watched(say)

    def _watched(self, say: Say) -> Say:
        """Return the Say with all stop strings of its turn; decoding stops at them from now on."""
        say = replace(say, stop=dialect.turn_ends(say.stop, self.tags))
        self.engine.watch(say.stop)
        return say

    # ---- decoding

    def tick(self) -> list[tuple[EpisodeState, tuple[str | Call, ...]]]:
        """Decode one chunk and let the environment answer every turn that ended; returns episodes and their searches.

        While the device decodes, the host takes the search results that are due at the next tick.
        """
        active = self.seats.active()
        self.statistics.ticks += 1
        if not active:
            self.answer_searches(idle=True)
            return []
        slot_N = np.array([slot for slot, _ in active])
        pending_N, used_N, room_N = np.array(
            [(live.ids[-1], live.cached, self.room(live)) for _, live in active], np.int32
        ).T
        key_N2 = np.array([self.key[live.query_at, live.sample] for _, live in active])
        start = time.monotonic()
        chunk, at_N = self.rows.decode(self.laid, slot_N, pending_N, used_N, room_N, key_N2, self.temperatures(active))
        waited = self.statistics.search_wait_s
        self.answer_searches(idle=False)
        token_NC, logp_NC, count_N = (np.asarray(part)[at_N] for part in chunk)
        self.statistics.decode_s += time.monotonic() - start - (self.statistics.search_wait_s - waited)
        self.statistics.decode_steps += int(count_N.max())
        self.statistics.cache_positions += self._read(used_N, count_N)
        wishes, eos_ids = [], self.tokenizer.eos_ids
        for at, (_, live) in enumerate(active):
            n = int(count_N[at])
            if not np.isfinite(logp_NC[at, :n]).all():
                self.finish(live, "fault", fault="the model gave a log-probability that is not finite")
                continue
            taken = live.take(token_NC[at, :n].tolist(), logp_NC[at, :n].tolist(), self.engine.pieces, eos_ids)
            self.statistics.tokens += taken
            if self.turn_is_over(live) and (wish := self.move_on(live)) is not None:
                wishes.append((live, wish))
        return wishes

    def room(self, live: EpisodeState) -> int:
        """Return how many tokens may still be sampled in this turn."""
        return live.room(self.settings)

    def temperatures(self, active: Sequence[tuple[int, EpisodeState]]) -> float | np.ndarray:
        """Return one temperature for all slots, or an array with one for each active slot."""
        return self.temperature

    def turn_is_over(self, live: EpisodeState) -> bool:
        """Return True if the tokens that were just taken end the model's turn."""
        return live.complete or self.room(live) <= 0

    def _read(self, used_N: np.ndarray, count_N: np.ndarray) -> int:
        """Return the cached positions that a chunk read, summed over its tokens; each reads those before it.

        In a layer with a sliding window these are fewer; the mean over layers counts.
        """
        step_C = np.arange(self.settings.chunk)
        seen_NC = used_N[:, None] + step_C[None] + 1
        seen_X = seen_NC[step_C[None] < count_N[:, None]]
        return round(costs.attended(self.rows.cfg, seen_X)) - len(seen_X)

    def move_on(self, live: EpisodeState) -> tuple[str | Call, ...] | None:
        """Ask the environment for its move. Return the queries of a search, None for anything else."""
        live.turns.append(Turn("model", live.text(self.engine.pieces)))
        live.model_turns += 1
        if not live.complete:
            return self.finish(live, "context" if len(live.ids) >= self.settings.context_tokens else "length")
        move = self.env(self.queries[live.query_at], tuple(live.turns))
        if isinstance(move, Stop):
            return self.finish(live, move.reason, move.answer)
        if isinstance(move, Say):
            live.turns.append(Turn("env", move.text))
            return self._say(live, move)
        return tuple(move.queries)

    def finish(self, live: EpisodeState, stop: StopReason, answer: str | None = None, fault: str | None = None) -> None:
        """End an episode, and free its slot and its row."""
        query = self.queries[live.query_at]
        self.done[live.query_at, live.sample] = live.episode(query, self.step, stop, answer, fault)
        self.seats.leave(live)
