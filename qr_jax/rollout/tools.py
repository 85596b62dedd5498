"""Search calls of a rollout: run a batch of queries (errors become Faults); fit what was found into a token budget."""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qr_jax import plugins
from qr_jax.config import Rollout
from qr_jax.data.characters import cut_before, is_mark, is_unspaced
from qr_jax.errors import PluginError
from qr_jax.records import Call, Passage, Query, Say, Search, SearchFunction, Stop, Turn

FIRST_CHARS = 8  # per token of the budget, tried first: few tokens hold more
LONG_WORD = 32  # characters; a longer word may be cut inside
LONG_TITLE = 128  # characters; so much of a title is worth showing without the text, and a longer one may be cut
FIRST_PAUSE_S = 0.1  # before the first retry; it doubles with each, and half of it or more is waited, at random


@dataclass(frozen=True)
class Fault:
    """The reason that a query got no passages, where the query itself is not to blame.

    `wrong`: the search function is to blame, by what it gave or by an error in its code, and waiting will not help.
    `error` is what it raised, where it did.
    """

    reason: str
    wrong: bool = False
    error: Exception | None = field(default=None, compare=False, repr=False)


WRONG = (PluginError, TypeError, AttributeError, LookupError, NameError)  # bugs, not errors of a network


@dataclass(frozen=True)
class Searched:
    """The result of a batch of searches: passages or a Fault for each different query, and its cost.

    `asked` counts queries, `unique` different ones, `failed` those with a Fault, `calls` calls of the search function,
    `cut` passages that were too long.
    """

    by_query: Mapping[str | Call, tuple[Passage, ...] | Fault]
    asked: int
    unique: int
    failed: int
    calls: int
    cut: int
    wall_s: float


def run_searches(
    search: SearchFunction,
    queries: Sequence[str | Call],
    k: int,
    *,
    deadline_s: float,
    retries: int,
    passage_chars: int,
    sleep: Callable[[float], None] = time.sleep,
) -> Searched:
    """Return the passages of each different query, at most k, or a Fault; an error of the search function is never
    raised.

    All texts go in one call; each tool's Calls go, at the same time, in a call of their own. If one raises (as
    `plugins.checked` does for a wrong result), each of its queries is tried alone, `retries` times, after pauses with
    jitter, so that one bad query does not fault the rest. A query without passages after `deadline_s`, retries
    included, gets a Fault. A call that hangs is left behind in its daemon thread (nothing can end it), so a search
    function must bear a new call while an older one still runs. Of a passage's title and text together `passage_chars`
    characters are kept.
    """
    started, calls = time.monotonic(), 0
    pending = list(dict.fromkeys(queries))
    by_query: dict[str | Call, tuple[Passage, ...] | Fault] = {}
    for attempt in range(retries + 1):
        if attempt and pending:
            pause_s = FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)
            sleep(max(0.0, min(pause_s, started + deadline_s - time.monotonic())))
        for batches in [[[query]] for query in pending] if attempt else [_by_tool(pending)]:
            left_s = started + deadline_s - time.monotonic()
            if left_s <= 0:
                late = Fault(f"no result within {deadline_s:g} s")
                by_query.update({query: by_query.get(query, late) for batch in batches for query in batch})
                continue
            calls += len(batches)
            for batch, results in zip(batches, _call(search, batches, k, left_s), strict=True):
                by_query.update(zip(batch, results))
        pending = [query for query in pending if isinstance(by_query[query], Fault)]
    failed, cut = sum(isinstance(result, Fault) for result in by_query.values()), 0
    for query, result in by_query.items():
        if not isinstance(result, Fault):
            by_query[query] = kept = tuple(shortened(passage, passage_chars) for passage in result)
            cut += sum(short is not whole for short, whole in zip(kept, result, strict=True))
    return Searched(by_query, len(queries), len(by_query), failed, calls, cut, time.monotonic() - started)


def limits(settings: Rollout) -> dict[str, Any]:
    """Return the settings' limits on a rollout's searches, by `run_searches`' names."""
    return {
        "deadline_s": settings.search_deadline_s,
        "retries": settings.search_retries,
        "passage_chars": settings.passage_chars,
    }


def found(search: SearchFunction, queries: Sequence[str | Call], k: int, **how: Any) -> list[tuple[Passage, ...]]:
    """Return each query's passages, by `run_searches`; for a Fault raise what the search raised, or TimeoutError."""
    passages = []
    by_query = run_searches(search, queries, k, **how).by_query
    for result in map(by_query.__getitem__, queries):
        if isinstance(result, Fault):
            raise result.error or TimeoutError(f"a search gave {result.reason}")
        passages.append(result)
    return passages


def shortened(passage: Passage, chars: int) -> Passage:
    """Return the passage, cut to `chars` characters of title and text together; a long title leaves the text half.

    A cut falls as in `fit_observation`.
    """
    if len(passage.title) + len(passage.text) <= chars:
        return passage
    title = passage.title
    if len(title) > chars // 2:
        title = _first_chars(title, max(chars - len(passage.text), chars // 2))
    return replace(passage, title=title, text=_first_chars(passage.text, chars - len(title)))


def _first_chars(text: str, chars: int) -> str:
    end = cut_before(text, chars)
    return text if end >= len(text) else _to_a_word(text, end) or text[:end]


def _by_tool(queries: Sequence[str | Call]) -> list[list[str | Call]]:
    batches: dict[str, list[str | Call]] = {}
    for query in queries:
        batches.setdefault(query.tool if isinstance(query, Call) else "", []).append(query)
    return list(batches.values())


def _call(search: SearchFunction, batches: Sequence[list], k: int, limit_s: float) -> list[Sequence[Any]]:
    """Call the search for each batch, all at once, each in a thread of its own: passages for each query of the batch,
    or the same Fault for all.
    """
    outcomes: list[list[Any]] = [[] for _ in batches]

    def work(batch: list, outcome: list[Any]) -> None:
        try:
            results = search(list(batch), k)
            if len(results) != len(batch):
                given = f"{len(results)} lists of passages for {len(batch)} queries"
                raise PluginError(f"the retriever returned {given}; does it change the list of queries?")
            outcome.append(results)
        except Exception as error:  # whatever a retriever raises is a fault, not the run's end
            outcome.append(Fault(plugins.in_a_line(error)[:300], isinstance(error, WRONG), error))

    work_of = zip(batches, outcomes, strict=True)
    threads = [threading.Thread(target=work, args=each, name="search", daemon=True) for each in work_of]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0.0, ends - time.monotonic()))
    late = Fault(f"no result after {limit_s:.3g} s")
    results = [next(iter(outcome), late) for outcome in outcomes]
    return [
        [each] * len(batch) if isinstance(each, Fault) else each for batch, each in zip(batches, results, strict=True)
    ]


def fit_observation(
    env: Callable[[Query, Sequence[Turn]], Say | Search | Stop],
    query: Query,
    turns: Sequence[Turn],
    encode_length: Callable[[str], int],
    budget_tokens: int,
) -> tuple[Say | Search | Stop, tuple[Turn, ...]]:
    """Cut the last turn's passages until the environment's text has at most `budget_tokens`; return the environment's
    move and the cut turns.

    `env` has its settings bound. The lowest-ranked passages are cut first (of one rank, the last query's), each from
    the end of its text, and dropped when no word is left. The first passages of the queries stay: they are cut to one
    length. A title that leaves its text no room is cut too, and leaves it half. A cut falls after a word, or, in a long
    word or a script without blanks, after a character. As many characters stay as fit; tags stay whole. A move that is
    over the budget even without passages comes back without them. A move that says nothing (Stop, Search) comes back
    with the turns as they were.
    """
    turns = tuple(turns)
    if not turns:
        return env(query, turns), turns
    whole = turns[-1].passages
    total = sum(_size(passage) for ranked in whole for passage in ranked)

    def keeping(chars: int) -> tuple[Say | Search | Stop, tuple[Turn, ...], bool]:
        kept = turns if chars == total else (*turns[:-1], replace(turns[-1], passages=_kept(whole, chars)))
        move = env(query, kept)
        return move, kept, isinstance(move, Say) and encode_length(move.text) <= budget_tokens

    low, high, best = 0, min(total, FIRST_CHARS * max(budget_tokens, 1)), None
    while True:  # more and more is tried, so that what cannot fit is not tokenised
        tried = keeping(high)
        if high == total and (tried[2] or not isinstance(tried[0], Say)):
            return tried[0], tried[1]
        if not tried[2] and isinstance(tried[0], Say):
            break
        low, high, best = high, min(total, 2 * high), tried
    best = best or keeping(0)
    while high - low > 1:
        middle = (low + high) // 2
        tried = keeping(middle)
        if tried[2]:
            low, best = middle, tried
        else:
            high = middle
    return best[0], best[1]


def count_cut(before: Turn, after: Turn) -> int:
    """Count the passages of a turn that `fit_observation` cut or left out."""
    kept = {id(passage) for ranked in after.passages for passage in ranked}
    return sum(id(passage) not in kept for ranked in before.passages for passage in ranked)


def _size(passage: Passage) -> int:
    return max(1, len(passage.title) + len(passage.text))


def _kept(passages: Sequence[Sequence[Passage]], chars: int) -> tuple[tuple[Passage, ...], ...]:
    """Share `chars` characters over the passages: evenly over each query's top passage, then over the rest in order.

    That order is by rank, and within a rank by query. Each passage keeps its beginning.
    """
    places = sorted((rank, at) for at, ranked in enumerate(passages) for rank in range(len(ranked)))
    sizes = {place: _size(passages[place[1]][place[0]]) for place in places}
    firsts = sorted((place for place in places if place[0] == 0), key=sizes.__getitem__)
    room: dict[tuple[int, int], int] = {}
    for done, place in enumerate(firsts):
        room[place] = min(sizes[place], -(-chars // (len(firsts) - done)))
        chars -= room[place]
    for place in places[len(firsts) :]:
        room[place] = min(sizes[place], chars)
        chars -= room[place]
    return tuple(
        tuple(cut for rank, passage in enumerate(ranked) if (cut := _cut(passage, room[rank, at], rank == 0)))
        for at, ranked in enumerate(passages)
    )


def _cut(passage: Passage, chars: int, is_first: bool) -> Passage | None:
    """Keep the first `chars` characters of title and text. None if nothing would be left; of a query's later passages
    also if no word of the text and less than LONG_TITLE characters would be.
    """
    if chars >= _size(passage):
        return passage
    text = _to_a_word(passage.text, chars - len(passage.title))
    if text.strip():
        return replace(passage, text=text)
    title = passage.title
    if len(title) > min(chars, LONG_TITLE):
        title = _to_a_word(title, max(chars - len(passage.text), chars // 2))
        text = _to_a_word(passage.text, chars - len(title))
        title = title if text.strip() else _to_a_word(passage.title, chars)
    if (title + text).strip() and (is_first or len(title + text) >= LONG_TITLE):
        return replace(passage, title=title, text=text)
    if not is_first or chars < 1:
        return None
    # not even a word fits
    if passage.title.strip():
        return replace(passage, title=passage.title[: cut_before(passage.title, chars)], text="")
    return replace(passage, title="", text=passage.text[: cut_before(passage.text, chars)])


def _to_a_word(text: str, chars: int) -> str:
    """Cut a text to at most `chars` characters: at a word's end, or anywhere in a long word or an unspaced script."""
    if chars <= 0 or chars >= len(text):
        return text if chars > 0 else ""
    end = cut_before(text, chars)
    for at in range(end, max(end - LONG_WORD, 0) - 1, -1):
        parted = at == 0 or text[at - 1].isspace() or text[at].isspace()
        if parted or is_unspaced(text[at]) or (is_unspaced(text[at - 1]) and not is_mark(text[at])):
            return text[:at].rstrip()
    return text[:end]
