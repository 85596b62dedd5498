"""Expert traces made of questions, by their gold passages or by one search each.

A made trace is honest about the retriever: it is kept only if each of its searches really returns its gold passages,
since the environment will show the learner what the same retriever returns."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from qr_jax.answers import first_in
from qr_jax.data.characters import SHARP, is_mark, nfc, spread
from qr_jax.data.traces import TRIED, ExpertTurn, has_tag_signs
from qr_jax.errors import UserError
from qr_jax.records import Passage, Query, SearchFunction, Trace

FROM_GOLD = "data.traces=supporting makes traces of questions' gold passages"
UNTITLED = "ids of gold passages that no passage with a title has (is data.corpus the right one?)"
ABSENT = "a gold passage that is not in the corpus"
log = logging.getLogger(__name__)

# Short, and without the title they lead to: a small model's turn has few tokens, and the search names the title anyway.
THOUGHTS = {
    "first": "I start with what the question names.",
    "named": "The passages name what I need next.",
    "other": "There is one more thing to look up.",
    "last": "Now I know the answer.",
}

# Function words and question words: a search made of the others finds what the question is about.
EMPTY_WORDS = """
a an and are as at be been between both by did do does first for from had has have he her his how in into is
it its later many more much name of on or other same she than that the their them they this to was were what
when where which while who whom whose why will with you
"""


Asked = Callable[[str, Query], str]  # a search's text as it is sent for a question


def _as_written(text: str, query: Query) -> str:
    return text


@dataclass(frozen=True)
class Hop:
    """One gold title: its gold passages' ids, the search that found them (None: none), and all that the search found.

    Without ids (`gold` empty) any passage of the title counts.
    """

    title: str
    gold: frozenset[str]
    search: str | None = None
    found: tuple[Passage, ...] = field(default=(), repr=False)

    def is_gold(self, passage: Passage) -> bool:
        return passage.id in self.gold if self.gold else spelling(passage.title) == spelling(self.title)

    def is_found(self, passages: Sequence[Passage]) -> bool:
        """Return True if the passages have all gold ids of the title, or, without ids, one passage of the title."""
        return self.gold <= {passage.id for passage in passages} and any(map(self.is_gold, passages))

    def evidence(self) -> str:
        return " ".join(f"{passage.title} {passage.text}" for passage in self.found if self.is_gold(passage))


def supporting_traces(
    queries: Sequence[Query],
    search: SearchFunction,
    *,
    write: ExpertTurn,
    parallel: int = 1,
    k: int = 3,
    absent: Collection[str] = (),
    asked: Asked = _as_written,
    what: str = "supporting traces",
) -> list[Trace]:
    """Make traces of the questions whose gold passages `search` returns in its first `k`, in the queries' order.

    A question must name its gold passages by `supporting_titles`, or by ids in `supporting`, to which `with_titles`
    adds the titles and tells which are `absent` from the corpus; given both, lists of one length, the ids count.
    Questions marked `supporting_is_weak` make no trace. Each title is searched for by itself and, if that misses, with
    the question's content words. The title that the question names comes first, then the one that the passages found so
    far name. `write` is the environment's; `parallel` is how many titles that the question names it searches in one
    turn. `asked` marks a search with its question, where questions search passages of their own. The log tells how many
    traces (`what`) were kept, and why the others were not.
    """
    reasons = [unfit(query, absent) for query in queries]
    hops_Q = [[] if reason else hops_of(query) for query, reason in zip(queries, reasons, strict=True)]
    for with_question in (False, True):
        hops_Q = searched(queries, hops_Q, search, k, with_question, asked)
    traces, counts = [], Counter()
    for query, hops, reason in zip(queries, hops_Q, reasons, strict=True):
        if reason is None and any(hop.search is None for hop in hops):
            reason = f"a gold passage not among the {k} found (rollout.search_k)"
        counts[reason or "kept"] += 1
        if reason is None:
            traces.append(Trace(query, expert_turns(query, ordered(query.question, hops), write, parallel)))
    why = "".join(f"; left out: {count}, {reason}" for reason, count in counts.items() if reason != "kept")
    log.info("%s: %d of %d questions kept%s", what, len(traces), len(queries), why)
    return traces


def with_titles(queries: Sequence[Query], passages: Iterable[Passage]) -> tuple[list[Query], frozenset[str]]:
    """Add titles to the queries that have gold ids alone; return the queries, and the gold names not in the corpus.

    Names are those of `gold_names`: ids, or titles of questions without ids.
    """
    by_id = {name for query in queries for name in query.meta.get("supporting") or ()}
    by_title = {name for query in queries for name in gold_names(query)} - by_id
    spelt = {name: spelling(name) for name in by_title}
    wanted, title_of, found = set(spelt.values()), dict[str, str](), set()
    for passage in passages:
        if passage.id in by_id:
            title_of[passage.id] = passage.title
        if wanted:
            found |= wanted & {spelling(passage.title)}

    def titled(query: Query) -> Query:
        ids = query.meta.get("supporting") or ()
        if query.meta.get("supporting_titles") or not ids or not all(title_of.get(name) for name in ids):
            return query
        return replace(query, meta={**query.meta, "supporting_titles": [title_of[name] for name in ids]})

    absent = {name for name in by_id if name not in title_of} | {n for n in by_title if spelt[n] not in found}
    return [titled(query) for query in queries], frozenset(absent)


def gold_names(query: Query) -> Sequence[str]:
    """Return the names of the question's gold passages: their ids, or else their titles."""
    return query.meta.get("supporting") or query.meta.get("supporting_titles") or ()


def check_supporting(
    queries: Sequence[Query],
    search: SearchFunction,
    *,
    write: ExpertTurn,
    parallel: int,
    k: int,
    absent: Collection[str] = (),
    asked: Asked = _as_written,
) -> None:
    """Raise ValueError, before compilation, if no trace can be made, by the questions' fault or the retriever's.

    Only the first TRIED fit questions are searched for. Gold passages that the corpus lacks go to the log.
    """
    fit = check_fit(queries, absent=absent)
    without = sum(unfit(query, absent) == ABSENT for query in queries)
    if without:
        told = f"{without} of {len(queries)} questions have {ABSENT}, such as {min(absent)!r}"
        log.info("data.traces=supporting: %s; no trace is made of them (is data.corpus the right one?)", told)
    how = {"write": write, "parallel": parallel, "k": k, "asked": asked, "what": "a first look at supporting traces"}
    if not supporting_traces(fit[:TRIED], search, **how):
        todo = "raise rollout.search_k, look with `qr-jax recall` at what the retriever finds, or set sft.steps=0"
        raise UserError(f"{FROM_GOLD}, and of the first {len(fit[:TRIED])} the retriever finds none; {todo}")


def check_fit(queries: Sequence[Query], *, passages_read: bool = True, absent: Collection[str] = ()) -> list[Query]:
    """Return the questions of which a trace may be made; ValueError if there are none.

    Without passages read, the titles of passages given by id are not known yet, and their questions count as fit.
    """
    known = [UNTITLED] * (not passages_read)
    reasons = [unfit(query, absent) for query in queries]
    fit = [query for query, reason in zip(queries, reasons, strict=True) if reason in (None, *known)]
    if not fit:
        listed = ", ".join(f"{count} with {reason}" for reason, count in Counter(reasons).items())
        if ABSENT in reasons:
            listed += f" (such as {min(absent)!r}: is data.corpus the right one?)"
        wanted = "wanted columns supporting (a list of passages' ids) or supporting_titles (of their titles)"
        others = "data.traces=retrieved needs none, where one search finds an answer; sft.steps=0 does without traces"
        raise UserError(f"{FROM_GOLD}, and of {len(queries)} none is fit: {listed}; {wanted}; {others}")
    return fit


def retrieved_traces(
    queries: Sequence[Query], search: SearchFunction, *, write: ExpertTurn, k: int, asked: Asked = _as_written
) -> list[Trace]:
    """Make traces of one search, by the question itself, if its first `k` passages have an accepted answer.

    The answer is the first accepted one that stands in the passages (`answers.first_in`: yes or no, function words and
    single characters prove nothing, and make no trace). No gold passages are needed, and no thoughts are written. Such
    traces show how to search, read and copy; a passage with the answer's words need not prove the answer. `asked` as
    for `supporting_traces`.
    """
    fit = [query for query in queries if not has_tag_signs(query.question)]
    traces = []
    texts = [asked(query.question, query) for query in fit]
    for query, found in zip(fit, search(texts, k) if fit else (), strict=True):
        shown = " ".join(f"{passage.title} {passage.text}" for passage in found[:k])
        standing = first_in(shown, [text for text in query.answers if not has_tag_signs(text)])
        if standing is not None:
            traces.append(Trace(query, (write("", [query.question]), write("", (), standing))))
    log.info("retrieved traces: the answer was found for %d of %d questions", len(traces), len(queries))
    return traces


def check_retrieved(
    queries: Sequence[Query], search: SearchFunction, *, write: ExpertTurn, k: int, asked: Asked = _as_written
) -> None:
    """Raise ValueError, before compilation, if no passage found has an answer."""
    if not retrieved_traces(queries[:TRIED], search, write=write, k=k, asked=asked):
        raise UserError(
            "data.traces=retrieved makes traces of questions whose answer (no yes or no, function word or single "
            f"character) stands in what a search for them finds, and of the first {len(queries[:TRIED])} none does; "
            "raise rollout.search_k, look with `qr-jax recall` at what the retriever finds, or set sft.steps=0"
        )


def unfit(query: Query, absent: Collection[str] = ()) -> str | None:
    """Return why no trace can be made of a question, before any search; None if one may.

    `absent`: gold passages that are known not to be in the corpus.
    """
    ids, titles = query.meta.get("supporting") or (), query.meta.get("supporting_titles") or ()
    if any(name in absent for name in gold_names(query)):
        return ABSENT
    if not titles:
        return UNTITLED if ids else "no gold passages"
    if ids and len(ids) != len(titles):
        return "not as many ids as titles of gold passages"
    if query.meta.get("supporting_is_weak"):
        return "gold passages marked as weak"
    if has_tag_signs(*titles, query.question, query.answers[0]):
        return "signs of a tag"
    return None


def hops_of(query: Query) -> list[Hop]:
    """Return a hop for each distinct gold title, in the question's order."""
    titles = dict.fromkeys(query.meta["supporting_titles"])
    if not query.meta.get("supporting"):
        return [Hop(title, frozenset()) for title in titles]
    pairs = list(zip(query.meta["supporting_titles"], query.meta["supporting"], strict=True))
    return [Hop(title, frozenset(id for of, id in pairs if of == title)) for title in titles]


def searched(
    queries: Sequence[Query],
    hops_Q: list[list[Hop]],
    search: SearchFunction,
    k: int,
    with_question: bool,
    asked: Asked = _as_written,
) -> list[list[Hop]]:
    """Fill in the search of each hop for which it returns all gold passages of the title; one batch for all hops."""
    wanted = [
        (q, at, f"{title} {content_words(queries[q].question, title)}".strip() if with_question else title)
        for q, hops in enumerate(hops_Q)
        for at, hop in enumerate(hops)
        if hop.search is None and (title := plain(hop.title))
    ]
    result = [list(hops) for hops in hops_Q]
    texts = [asked(text, queries[q]) for q, _, text in wanted]
    for (q, at, text), passages in zip(wanted, search(texts, k) if wanted else (), strict=True):
        hop, found = result[q][at], tuple(passages)[:k]
        if hop.is_found(found):
            result[q][at] = Hop(hop.title, hop.gold, text, found)
    return result


def ordered(question: str, hops: Sequence[Hop]) -> list[Hop]:
    """Order the hops as an expert would find them: next is the title best named by the text read so far."""
    left, done, read_so_far = list(hops), [], question
    while left:
        best = max(left, key=lambda hop: named(hop.title, question) + named(hop.title, read_so_far))
        left.remove(best)
        done.append(best)
        read_so_far += " " + best.evidence()
    return done


def named(title: str, text: str) -> float:
    """Score how far a text names a title: the share of the title's words in it, plus 1 if they stand there in a row."""
    words, text_words = tokens(spread(plain(title))), tokens(spread(text))
    if not words:
        return 0.0
    whole = f" {' '.join(words)} " in f" {' '.join(text_words)} "
    return sum(word in set(text_words) for word in words) / len(words) + whole


def expert_turns(query: Query, hops: Sequence[Hop], write: ExpertTurn, parallel: int) -> tuple[str, ...]:
    """Write the expert's turns: the searches, then the official answer."""
    turns, read_so_far = [], query.question
    for at, step in enumerate(grouped(query.question, hops, parallel)):
        is_named = all(named(hop.title, read_so_far) >= 1 for hop in step)
        thought = THOUGHTS["first" if at == 0 else "named" if is_named else "other"]
        turns.append(write(thought, [str(hop.search) for hop in step]))
        read_so_far += " " + " ".join(hop.evidence() for hop in step)
    turns.append(write(THOUGHTS["last"], (), query.answers[0]))
    return tuple(turns)


def grouped(question: str, hops: Sequence[Hop], parallel: int) -> list[list[Hop]]:
    """Group hops by turn: up to `parallel` of those that the question names in one turn, the rest one a turn."""
    at_once = [hop for hop in hops if named(hop.title, question) >= 2][:parallel] if parallel > 1 else []
    return [*([at_once] if at_once else []), *([hop] for hop in hops if hop not in at_once)]


def plain(title: str) -> str:
    """Remove the bracket that distinguishes a title from others: 'Symphony No. 7 (Beethoven)' -> 'Symphony No. 7'."""
    head, bracket, _ = title.partition(" (")
    return " ".join(head.split()) if bracket and head.strip() else " ".join(title.split())


def content_words(question: str, title: str) -> str:
    """Return the question's first six words that are neither function words nor in the title."""
    known = {*EMPTY_WORDS.split(), *tokens(title)}
    return " ".join(list(dict.fromkeys(word for word in tokens(question) if word not in known))[:6])


def tokens(text: str) -> list[str]:
    """Return the lower-case words of letters and digits, with their marks."""
    return "".join(sign if sign.isalnum() or is_mark(sign) else " " for sign in nfc(text).lower()).split()


def spelling(title: str) -> tuple[str, ...]:
    """Return the part that all spellings of a title share: its words and +, # and ♭ (C++, B♭); without words, all."""
    words = tokens(title)
    return (*words, *(sign for sign in title.translate(SHARP) if sign in "+#♭")) if words else (nfc(title),)
