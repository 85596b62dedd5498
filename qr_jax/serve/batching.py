"""Continuous batching: requests join the engine's free slots as they come, and leave them when they are done.

One thread owns the engine (`Batching.run`); what it makes is handed over once a chunk of decoding. Prompts, slots,
decoding and an agent's searches are the rollout's own; beside them a request has its temperature, key, length and stop
strings.
"""

import contextlib
import itertools
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import Any

import numpy as np

from qr_jax.errors import UserError
from qr_jax.records import Query, Say, SearchFunction, Stop, StopReason
from qr_jax.rollout.engine import PURPOSES, Engine, RolloutState
from qr_jax.rollout.live import EpisodeState
from qr_jax.run.kept_thread import KeptThread
from qr_jax.serve.jobs import Job, Piece, Scores
from qr_jax.serve.scoring import score

GATHER_S = 0.003  # how long the first request waits for others while nothing decodes
SEARCH_POLL_S = 0.02  # between two looks at the requests that came, while all episodes wait for searches
REST_S = 10.0  # seconds without a request until the caches are shortened, for a step reads them whole

HandOver = Callable[[Sequence[tuple[Job, Piece]]], None]


class Batching(RolloutState):
    """A rollout without an end. `hand_over` gets the pieces of a chunk, in the engine's thread.

    `env` and `search` play an agent's questions; without `search` there are none. `submit` and `cancel` may be called
    by any thread. Where `failed` is not "", the engine's thread has ended by an error, and every job gets it.
    """

    def __init__(self, engine: Engine, params: Any, hand_over: HandOver, *, env: Callable, search: SearchFunction):
        self.inbox: queue.SimpleQueue[tuple[str, Job | None]] = queue.SimpleQueue()
        self.jobs: dict[int, Job] = {}  # by the number that is their query's in the rollout
        self.prompts: dict[int, Any] = {}  # number -> ids and the Say they come from
        self.left: dict[int, int] = {}  # samples that are not done
        self.sent: dict[EpisodeState, int] = {}  # how many ids of a streaming episode were handed over
        self.made: list[tuple[Job, Piece]] = []
        self._numbers, self._hand_over, self.failed = itertools.count(), hand_over, ""
        nothing = np.zeros((0, 2), np.uint32)
        searches = KeptThread("searches", engine.settings.search_calls)
        super().__init__(engine, params, [], [], nothing, env, search, searches, 0, lambda: False)
        self.rows.restrict(1.0, 0)
        self.rows.stop_at_eos()
        self.scoring_row = self.seats.store_free.pop()

    # ---- any thread

    def submit(self, job: Job) -> None:
        """Let a job begin at the next chunk."""
        self.inbox.put(("join", job))
        if self.failed:  # meanwhile: nobody else reads the inbox now
            self._refuse_inbox()

    def cancel(self, job: Job) -> None:
        """Free at the next chunk all that a job holds, if it is not done; nothing more of it is handed over."""
        self.inbox.put(("leave", job))

    def stop(self) -> None:
        self.inbox.put(("stop", None))

    # ---- the engine's thread

    def run(self) -> None:
        """Serve until `stop`. An error ends it: every job that is there, and every later one, is told."""
        try:
            while self._read_inbox():
                self.seats.fill()
                if wishes := self.tick():
                    self.ask(wishes)
                self._stream()
                self._flush()
        except Exception as error:  # of a device, or a bug: the server says 503 from now on, and stays to say it
            self.failed = f"{type(error).__name__}: {error}"[:500]
            self.made += [(job, Piece(0, error=self.failed)) for job in self.jobs.values()]
            self.jobs.clear()
            self._flush()
            self._refuse_inbox()
            raise
        finally:
            self.searches.close()

    def _refuse_inbox(self) -> None:
        """Hand the error to every job that has not begun."""
        late = []
        with contextlib.suppress(queue.Empty):
            while True:
                late.append(self.inbox.get_nowait())
        self._hand_over([(job, Piece(0, error=self.failed)) for kind, job in late if job and kind == "join"])

    def _read_inbox(self) -> bool:
        """Take what came, waiting for it while there is nothing to do; False at the end."""
        first = []
        if not self.jobs:
            try:
                first.append(self.inbox.get(timeout=REST_S))
            except queue.Empty:
                self.rows.begin()
                first.append(self.inbox.get())
            time.sleep(GATHER_S)
        while first or not self.inbox.empty():
            kind, job = first.pop() if first else self.inbox.get()
            if job is None:
                return False
            (self._join if kind == "join" else self._leave)(job)
        return True

    def _join(self, job: Job) -> None:
        number = job.number = next(self._numbers)
        self.jobs[number], self.left[number] = job, job.samples
        if not job.max_tokens and job.question is None:
            scores = self._score(job, job.ids)
            self._forget(number)
            self.made += [(job, Piece(sample, "length", scores=scores)) for sample in range(job.samples)]
            return
        if job.question is None:
            self.prompts[number] = list(job.ids), Say("")
        else:
            self.queries[number] = Query(f"request {number}", job.question, ())
            try:
                self.prompts[number] = super().prompt(number)
            except Exception as error:  # a question that does not fit; or a plug-in's fault, which is not ours
                self._forget(number)
                status = 400 if type(error) is UserError else 500
                self.made.append((job, Piece(0, error=f"{error}"[:500], status=status)))
                return
        numbers = list(range(job.samples))
        keys = self.rows.keys(job.seed, PURPOSES["ask"], 0, [0] * job.samples, numbers)
        self.key |= {(number, sample): key for sample, key in zip(numbers, keys, strict=True)}
        self.seats.join(number, job.samples)

    def _leave(self, job: Job) -> None:
        if job.number in self.jobs:
            self.seats.withdraw(job.number)
            self.sent = {live: count for live, count in self.sent.items() if live.query_at != job.number}
            self._forget(job.number)

    def _forget(self, number: int) -> None:
        self.key = {pair: key for pair, key in self.key.items() if pair[0] != number}
        del self.jobs[number]
        for kept in (self.prompts, self.left):
            kept.pop(number, None)
        self.queries.pop(number, None)

    def _flush(self) -> None:
        if self.made:
            self._hand_over(self.made)
            self.made = []

    def _stream(self) -> None:
        """Put the new tokens of the episodes that stream and go on into the next hand-over."""
        for _, live in self.seats.active():
            job = self.jobs[live.query_at]
            if job.stream and job.question is None:
                self.made.append((job, self._piece(live)))

    def _piece(self, live: EpisodeState, finish: str | None = None) -> Piece:
        """Return what an episode sampled since its last piece."""
        begin = self.sent.get(live, live.turn_start)
        self.sent[live] = len(live.ids)
        return Piece(live.sample, finish, live.ids[begin:], live.logp[begin:])

    def _score(self, job: Job, ids: Sequence[int]) -> Scores:
        return score(self.rows, self.laid, self.scoring_row, ids, job.temperature or 1.0)

    # ---- what a rollout asks of a request

    def prompt(self, query_at: int) -> tuple[list[int], Say]:
        return self.prompts[query_at]

    def temperatures(self, active: Sequence[tuple[int, EpisodeState]]) -> np.ndarray:
        return np.array([self.jobs[live.query_at].temperature for _, live in active], np.float32)

    def room(self, live: EpisodeState) -> int:
        job, made = self.jobs[live.query_at], len(live.ids) - live.turn_start
        whole = self.settings.context_tokens - len(live.ids) if job.question is None else super().room(live)
        return min(whole, job.max_tokens - made)

    def turn_is_over(self, live: EpisodeState) -> bool:
        """Return True if a turn ends; cut it after the token that completes one of its job's stop strings."""
        job = self.jobs[live.query_at]
        if job.question is not None:
            return super().turn_is_over(live)
        if job.ignore_eos:
            live.complete = live.by_eos = False
        if job.stop and (taken := self._stop_at(live, job.stop)) is not None:
            live.complete = True
            for kept in (live.ids, live.mask, live.logp, live.turn):
                del kept[live.turn_start + taken :]
        return live.complete or self.room(live) <= 0

    def _stop_at(self, live: EpisodeState, stop: Sequence[bytes]) -> int | None:
        """Count the turn's tokens up to the one that completes a stop string; None without one."""
        pieces = [self.engine.pieces[token] for token in live.ids[live.turn_start :]]
        text = b"".join(pieces)
        ends = [at + len(one) for one in stop if (at := text.find(one)) >= 0]
        lengths = itertools.accumulate(map(len, pieces))
        return 1 + next(at for at, length in enumerate(lengths) if length >= min(ends)) if ends else None

    def move_on(self, live: EpisodeState) -> tuple[str, ...] | None:
        if self.jobs[live.query_at].question is not None:
            return self._played(live, super().move_on)
        return self.finish(live, "answered" if live.complete else "length")

    def answer_searches(self, idle: bool) -> None:
        """Take the results that came; where no slot can decode without them, wait for them a moment."""
        if idle and self.calls:
            wait([self.calls[0][1]], timeout=SEARCH_POLL_S)
        super().answer_searches(idle=False)

    def observe(self, live: EpisodeState, by_query: Any) -> None:
        if live.query_at in self.jobs:  # else its client is gone
            self._played(live, super().observe, by_query)

    def _played(self, live: EpisodeState, move: Callable, *given: Any) -> tuple[str, ...] | None:
        """Make an environment's move; one that fails ends its question alone."""
        try:
            return move(live, *given)
        except Exception as error:  # a plug-in is somebody else's program: whatever it raises
            return self.finish(live, "fault", fault=f"{type(error).__name__}: {error}"[:500])

    def finish(self, live: EpisodeState, stop: StopReason, answer: str | None = None, fault: str | None = None) -> None:
        number = live.query_at
        job, query = self.jobs[number], self.queries.get(number)
        piece = self._piece(live, "stop" if stop == "answered" else "length")
        if fault is not None:
            piece.error = fault
        elif query is not None:
            piece.episode = live.episode(query, 0, stop, answer, fault)
        elif job.scored:
            piece.scores = self._score(job, live.ids)
        del self.sent[live]
        self.seats.leave(live)
        self.made.append((job, piece))
        self.left[number] -= 1
        if not self.left[number]:
            self._forget(number)


def no_agent(query: Query, turns: Sequence[Any]) -> Say | Stop:
    """Stand in for the environment where no questions are answered."""
    raise AssertionError("this server answers no questions")
