"""The whole synthesis: draft candidates, verify and settle them in order, then play them; the caller writes files.

What is kept depends on the settings and on the teacher's answers alone, neither on which thread was quicker nor on how
often the process was killed: candidates are worked on by several threads and settled one after another."""

import collections
import itertools
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from qr_jax.logging import terminal
from qr_jax.records import Query, Trace
from qr_jax.sets.formats import hash_of
from qr_jax.sets.synth.draft import Chance, Draft, Refused
from qr_jax.sets.synth.generators import GENERATORS, iterative_search, questions_of_chain
from qr_jax.sets.synth.library import Library
from qr_jax.sets.synth.play import Dialect, play, taught
from qr_jax.sets.synth.repeats import Repeats
from qr_jax.sets.synth.teacher import Ended, Teacher
from qr_jax.sets.synth.verify import verify

Item = TypeVar("Item")
Result = TypeVar("Result")
CANDIDATES = 20  # a question wanted: with fewer of them kept, the endpoint or the corpus is not fit for it
ATTEMPTS = 4  # trajectories of one question until one is right
AHEAD = 2  # items begun, for each thread, beyond the one that is waited for
EVERY_S = 5.0  # between two lines of progress
EACH_ONE: Mapping[str, float] = {}  # every generator's candidate gives one question


@dataclass(frozen=True)
class Author:
    """A teacher over a library; a question needs a number of passages drawn from `documents`, () for the default."""

    teacher: Teacher
    library: Library
    questions: int  # how many are wanted
    seed: int
    documents: Sequence[int] = ()

    def candidates(self) -> dict[str, int]:
        """Return how many drafts each generator may make."""
        return dict.fromkeys(GENERATORS, -(-CANDIDATES * self.questions // len(GENERATORS)))

    def draft(self, generator: str, number: int) -> Draft:
        """Write a candidate; Refused if there is none."""
        drawn = {"documents": self.documents} if self.documents else {}
        chance = Chance(self.seed, zlib.crc32(generator.encode()), number)
        return GENERATORS[generator](self.library, self.teacher, chance, **drawn)


@dataclass
class Made:
    """The results so far. `rejects` are rows; `ended` says why the work ended early, "" if it did not."""

    queries: list[Query] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    tried: collections.Counter = field(default_factory=collections.Counter)  # candidates by generator
    attempts: int = 0  # trajectories
    ended: str = ""


@dataclass(frozen=True)
class Work:
    """The amounts wanted, and the resources to make them."""

    questions: int
    traces: int
    at_once: int
    halt: threading.Event  # what ends the calls under way, so that no thread goes on alone
    mix: Mapping[str, int] | None = None  # each generator's share of the questions; None: all asked alike


def synthesise(
    made: Made,
    author: Author,
    dialect: Dialect,
    tests: Repeats,
    work: Work,
    say: Callable[[Made], None],
) -> None:
    """Fill `made` in place, so that an interruption leaves all settled results to be written."""
    _questions(made, author, tests, work, _now_and_then(say))
    if not made.ended:
        _traces(made, author, dialect, work, _now_and_then(say))


def _questions(made: Made, author: Author, tests: Repeats, work: Work, say: Callable[[Made], None]) -> None:
    kept = Repeats()

    def attempt(candidate: tuple[str, int]) -> Sequence[tuple[Draft | None, Refused | Ended | None]]:
        """Return the candidate, then the shorter questions that it grew from, each with its refusal, if any."""
        try:
            whole = author.draft(*candidate)
        except Refused as refused:
            return [(None, refused)]
        except (Ended, OSError) as ended:
            return [(None, Ended(str(ended)))]
        parts = [verified(draft) for draft in (whole, *reversed(whole.earlier))]
        return [*parts, (None, whole.failed)] if whole.failed else parts

    def verified(draft: Draft) -> tuple[Draft, Refused | Ended | None]:
        try:
            repeated = tests.find(draft.query("", ""))
            if repeated is not None:
                raise Refused("stands in an evaluation set", repeated)
            verify(draft, author.library, author.teacher)
        except Refused as refused:
            return draft, refused
        except (Ended, OSError) as ended:  # OSError: the retriever, which is no candidate's fault, or the disk
            return draft, Ended(str(ended))
        return draft, None

    questions = {iterative_search.__name__: questions_of_chain(author.documents)}
    dealt = interleaved(author.candidates(), work.mix, questions)
    candidates = itertools.takewhile(lambda _: not made.ended, dealt)
    with in_order(attempt, candidates, work.at_once, work.halt) as settled:
        for (generator, number), (draft, fault) in (
            (candidate, part) for candidate, parts in settled for part in parts
        ):
            if isinstance(fault, Ended):
                made.ended = made.ended or str(fault)
                continue
            made.tried[generator] += 1
            query = None if draft is None else draft.query(f"synth-{hash_of(draft.question)}", generator)
            if query is not None and fault is None:
                repeated = kept.find(query)
                fault = None if repeated is None else Refused("nearly the same as another", repeated)
            if query is not None and draft is not None and fault is None:
                kept.add(query)
                made.queries.append(query)
            elif fault is not None:
                row: dict[str, Any] = {"stage": "question", "generator": generator, "candidate": number}
                row |= {} if query is None else {"question": query.question, "answers": list(query.answers)}
                made.rejects.append(row | {"reason": fault.reason, "detail": fault.detail})
            say(made)
            if len(made.queries) >= work.questions:
                break


def _traces(made: Made, author: Author, dialect: Dialect, work: Work, say: Callable[[Made], None]) -> None:
    """Play trajectories in rounds, one try for each question that still needs some, until there are enough."""
    each = -(-work.traces // max(1, len(made.queries)))
    count: collections.Counter[str] = collections.Counter()
    known: set[tuple[str, tuple[str, ...]]] = set()
    for attempt in range(ATTEMPTS * each):

        def played(query: Query, attempt: int = attempt) -> tuple[str, ...] | Refused | Ended:
            try:
                return play(query, taught(author.teacher, dialect, attempt), dialect, author.library)
            except Refused as refused:
                return refused
            except (Ended, OSError) as ended:
                return Ended(str(ended))

        lacking = [query for query in made.queries if count[query.id] < each]
        going = itertools.takewhile(lambda _: not made.ended, lacking)
        with in_order(played, going, work.at_once, work.halt) as settled:
            for query, outcome in settled:
                if isinstance(outcome, Ended):
                    made.ended = made.ended or str(outcome)
                    continue
                made.attempts += 1
                if not isinstance(outcome, Refused) and (query.id, outcome) in known:
                    outcome = Refused("the same as another")
                if isinstance(outcome, Refused):
                    row = {"stage": "trajectory", "generator": query.meta["generator"], "question_id": query.id}
                    made.rejects.append(row | {"attempt": attempt, "reason": outcome.reason, "detail": outcome.detail})
                else:
                    known.add((query.id, outcome))
                    again = f".{count[query.id]}" if count[query.id] else ""
                    named = Query(query.id + again, query.question, query.answers, query.entities, query.meta)
                    made.traces.append(Trace(named, outcome))
                    count[query.id] += 1
                say(made)
                if len(made.traces) >= work.traces:
                    return
        if made.ended:
            return


@contextmanager
def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], at_once: int, halt: threading.Event
) -> Iterator[Iterator[tuple[Item, Result]]]:
    """Give an iterator of (item, result) in the items' order, with `at_once` threads and few items begun ahead.

    At the end of the block, however it ends, the work under way is halted and its threads are joined.
    """
    threads = ThreadPoolExecutor(at_once, "synth")

    def results() -> Iterator[tuple[Item, Result]]:
        waiting: collections.deque[tuple[Item, Future[Result]]] = collections.deque()
        for item in items:
            waiting.append((item, threads.submit(work, item)))
            if len(waiting) > AHEAD * at_once:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()

    try:
        yield results()
    except (KeyboardInterrupt, SystemExit):
        terminal.say("stopping after the calls under way, whose answers are kept; Ctrl-C once more ends at once")
        raise
    finally:
        halt.set()
        threads.shutdown(wait=True, cancel_futures=True)
        halt.clear()


def _now_and_then(say: Callable[[Made], None]) -> Callable[[Made], None]:
    told = [time.monotonic()]

    def told_sometimes(made: Made) -> None:
        if time.monotonic() - told[0] >= EVERY_S:
            told[0] = time.monotonic()
            say(made)

    return told_sometimes


def interleaved(
    candidates: Mapping[str, int], mix: Mapping[str, int] | None = None, questions: Mapping[str, float] = EACH_ONE
) -> list[tuple[str, int]]:
    """Return (generator, number) of every candidate until each runs out: in turns, or their questions as `mix` has it.

    `questions`: how many a candidate of a generator gives if all are kept, 1 if it is not named.
    """
    shares = dict.fromkeys(candidates, 1.0) if mix is None else mix
    weight = {name: (1.0 if mix is None else questions.get(name, 1.0)) / share for name, share in shares.items()}
    every: list[tuple[float, Any, int]] = [
        (number * weight[name], name, number) for name in shares for number in range(candidates[name])
    ]
    return [(name, number) for _, name, number in sorted(every, key=lambda candidate: candidate[0])]
