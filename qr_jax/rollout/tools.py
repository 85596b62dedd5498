"""Search calls of a rollout: run a batch of queries and never raise; fit what was found into a token budget."""

import random
import re
import threading
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, takewhile
from typing import Any, Literal

from qr_jax.characters import MARKS, nfkc
from qr_jax.config import Rollout
from qr_jax.interfaces import Wrong
from qr_jax.records import Passage, Query, Say, Search, SearchFunction, Stop, Turn

WORDS_A_TOKEN = 4  # no tokenizer joins more words in a token: what lies beyond cannot fit and is not tokenised
FIRST_PAUSE_S = 0.1  # before the first retry; it doubles with each, and half of it or more is waited, at random


@dataclass(frozen=True)
class Fault:
    """Why a query got no passages, where the query itself is not to blame.

    `wrong`: the search function is to blame, by what it gave or by an error in its code, and waiting will not help.
    `error` is what it raised, where it did.
    """

    reason: str
    wrong: bool = False
    error: Exception | None = field(default=None, compare=False, repr=False)


WRONG = (Wrong, TypeError, AttributeError, LookupError, NameError)  # of code, not of a network


@dataclass(frozen=True)
class Searched:
    """What a batch of searches gave: passages or a Fault for each different query, and what it took.

    `asked` counts queries, `unique` different ones, `failed` those with a Fault, `calls` calls of the search function,
    `cut` passages that were too long.
    """

    by_query: Mapping[str, tuple[Passage, ...] | Fault]
    asked: int
    unique: int
    failed: int
    calls: int
    cut: int
    wall_s: float


def run_searches(
    search: SearchFunction,
    queries: Sequence[str],
    k: int,
    *,
    deadline_s: float,
    retries: int,
    passage_chars: int,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Searched:
    """The passages of each different query, at most k, or a Fault; an error of the search function is never raised.

    All queries go in one call. If it raises or gives anything but a list of passages for each query, every query still
    without passages is tried alone, `retries` times, after pauses with jitter, so that one bad query does not fault the
    rest. A query without passages after `deadline_s`, retries included, gets a Fault. A call that hangs is left behind
    in its daemon thread (nothing can end it), so a search function must bear a new call while an older one still runs.
    Of a passage's title and text together `passage_chars` characters are kept.
    """
    started, calls = clock(), 0
    pending = list(dict.fromkeys(queries))
    by_query: dict[str, tuple[Passage, ...] | Fault] = {}
    for attempt in range(retries + 1):
        if attempt and pending:
            pause_s = FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)
            sleep(max(0.0, min(pause_s, started + deadline_s - clock())))
        batches = [[query] for query in pending] if attempt or not pending else [pending]
        for batch in batches:
            left_s = started + deadline_s - clock()
            if left_s <= 0:
                late = Fault(f"no result within {deadline_s:g} s")
                by_query.update({query: by_query.get(query, late) for query in batch})
                continue
            calls += 1
            by_query.update(zip(batch, _call(search, batch, k, left_s)))
        pending = [query for query in pending if isinstance(by_query[query], Fault)]
    failed, cut = sum(isinstance(result, Fault) for result in by_query.values()), 0
    for query, result in by_query.items():
        if not isinstance(result, Fault):
            by_query[query] = kept = tuple(shortened(passage, passage_chars) for passage in result)
            cut += sum(short is not whole for short, whole in zip(kept, result, strict=True))
    return Searched(by_query, len(queries), len(by_query), failed, calls, cut, clock() - started)


def limits(settings: Rollout) -> dict[str, Any]:
    """What the settings allow a search of a rollout, by `run_searches`' names."""
    return {
        "deadline_s": settings.search_deadline_s,
        "retries": settings.search_retries,
        "passage_chars": settings.passage_chars,
    }


def found(search: SearchFunction, queries: Sequence[str], k: int, **how: Any) -> list[tuple[Passage, ...]]:
    """`run_searches` where a fault is the end: the passages of each query. What the search raised, or TimeoutError."""
    passages = []
    by_query = run_searches(search, queries, k, **how).by_query
    for result in map(by_query.__getitem__, queries):
        if isinstance(result, Fault):
            raise result.error or TimeoutError(f"a search gave {result.reason}")
        passages.append(result)
    return passages


def shortened(passage: Passage, chars: int) -> Passage:
    """The passage, or its first characters where title and text together have more.

    Characters are counted as NFKC, which some tokenizers read them in, makes them: a ligature may stand for 18.
    """
    title = _first_chars(passage.title, chars)
    text = _first_chars(passage.text, chars - len(nfkc(title)))
    whole = len(title) == len(passage.title) and len(text) == len(passage.text)
    return passage if whole else replace(passage, title=title, text=text)


def _first_chars(text: str, chars: int) -> str:
    """In at most three passes. What characters come to alone is near what they come to together, and seldom less;
    what they are taken apart into, and a joiner after every MARKS, is never less."""
    text = text[:chars]
    forms: dict[Literal["NFKC", "NFKD"], int] = {"NFKC": chars, "NFKD": chars * MARKS // (MARKS + 1)}
    for form, limit in forms.items():
        if len(nfkc(text)) <= chars:
            break
        ends = accumulate(len(unicodedata.normalize(form, sign)) for sign in text)
        text = text[: sum(1 for _ in takewhile(limit.__ge__, ends))]
    return text


def _call(search: SearchFunction, batch: list[str], k: int, limit_s: float) -> list[tuple[Passage, ...] | Fault]:
    """One call in a thread of its own: passages for each query, or the same fault for all."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(search(list(batch), k))
        except Exception as error:  # whatever a retriever raises is a fault, not the run's end
            named = str(error) if isinstance(error, Wrong) else f"{type(error).__name__}: {error}"
            outcome.append(Fault(named[:300], isinstance(error, WRONG), error))

    thread = threading.Thread(target=work, name="search", daemon=True)
    thread.start()
    thread.join(limit_s)
    if not outcome:
        return [Fault(f"no result after {limit_s:.3g} s")] * len(batch)
    return [outcome[0]] * len(batch) if isinstance(outcome[0], Fault) else outcome[0]


def fit_observation(
    env: Callable[[Query, Sequence[Turn]], Say | Search | Stop],
    query: Query,
    turns: Sequence[Turn],
    encode_length: Callable[[str], int],
    budget_tokens: int,
) -> tuple[Say | Search | Stop, tuple[Turn, ...]]:
    """The environment's move, the last turn's passages cut until its text has at most `budget_tokens`; and the turns.

    `env` has its settings bound. The lowest-ranked passages are cut first (of one rank, the last query's), each from
    the end of its text by words, and dropped with the last word. As many words stay as fit; tags and titles stay
    whole. A move that is over the budget even without passages comes back without them. A move that says nothing
    (Stop, Search) comes back with the turns as they were.
    """
    turns = tuple(turns)
    if not turns:
        return env(query, turns), turns
    ranked = [(rank, at) for at, passages in enumerate(turns[-1].passages) for rank in range(len(passages))]
    order = sorted(ranked, key=lambda place: (-place[0], -place[1]))
    sizes = [max(1, len(turns[-1].passages[at][rank].text.split())) for rank, at in order]

    def shorter(words: int) -> tuple[Say | Search | Stop, tuple[Turn, ...], bool]:
        cut = turns[:-1] + (replace(turns[-1], passages=_without(turns[-1].passages, order, sizes, words)),)
        move = env(query, cut)
        return move, cut, isinstance(move, Say) and encode_length(move.text) <= budget_tokens

    high = sum(sizes)
    low = max(0, high - WORDS_A_TOKEN * budget_tokens)  # words that must go in any case
    move, cut, fits = shorter(low)
    if fits or not isinstance(move, Say):
        return move, cut if fits and low else turns
    # cut: too few words, and as many as there are
    best = shorter(high)
    while high - low > 1:
        middle = (low + high) // 2
        tried = shorter(middle)
        if tried[2]:
            high, best = middle, tried
        else:
            low = middle
    return best[0], best[1]


def _without(
    passages: Sequence[Sequence[Passage]], order: Sequence[tuple[int, int]], sizes: Sequence[int], words: int
) -> tuple[tuple[Passage, ...], ...]:
    """The passages less so many words, taken in the order given; a passage without a word left is dropped."""
    kept: dict[tuple[int, int], Passage] = {}
    for (rank, at), size in zip(order, sizes):
        stay = max(0, size - words)
        words = max(0, words - size)
        if stay:
            kept[rank, at] = _first_words(passages[at][rank], stay) if stay < size else passages[at][rank]
    return tuple(
        tuple(kept[rank, at] for rank in range(len(ranked)) if (rank, at) in kept) for at, ranked in enumerate(passages)
    )


def _first_words(passage: Passage, count: int) -> Passage:
    ends = [word.end() for word in re.finditer(r"\S+", passage.text)]
    return replace(passage, text=passage.text[: ends[count - 1]])
