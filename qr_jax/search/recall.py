"""Recall of a retriever: the share of each question's gold passages among the first k that it returns."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qr_jax import plugins
from qr_jax.data import readers
from qr_jax.data.characters import nfc
from qr_jax.errors import UserError
from qr_jax.logging.terminal import progress
from qr_jax.records import Passage, Query, SearchFunction
from qr_jax.settings.settings import Use, plain, show

BATCH = 32  # questions of one call
MOST_ABSENT, SHOWN = 100, 3  # gold passages that the corpus lacks: by name in JSON, and in the table


@dataclass(frozen=True)
class Gold:
    """The gold passages of each question, by their ids or, if the questions give none, by their titles."""

    by: str
    wanted: Sequence[frozenset[str]]  # ids or titles for each question
    name: Callable[[Passage], str]  # a passage's id or title


def recall(corpus: str | None, questions: str, use: Use, *, k: int = 5, reader: Any = readers) -> dict[str, Any]:
    """Measure the retriever's recall over all questions, each searched as it stands.

    `recall` is the mean share of a question's gold passages among the first k, `all_gold` the share of questions with
    all of them there; `queries_per_second` counts searching alone, in calls of `batch` questions. `by_hops` has both
    for each number of hops, if the questions have it. Questions without gold are counted in `questions_without_gold`
    and are in no mean; `of_these_by_title` have titles, where others have ids. `gold_not_in_corpus` counts the
    `gold_passages` that no search could find, and `absent` names the first; `gold_absent` is the share of the questions
    none of whose gold is there (None, empty and None if the retriever searches no corpus of files). ValueError if no
    question has gold, if the retriever wants a corpus and none is named, or if one is named and it searches none.
    `reader` reads both files: readers.py, or a `columns.Reader` for columns by other names.
    """
    make = plugins.bind("retriever", use)
    queries = reader.read_queries(questions)
    gold = gold_of(queries, questions)
    start = time.perf_counter()
    passages: Sequence[Passage] = ()
    if plugins.wants_corpus(use):
        if corpus is None:
            raise UserError(f"the retriever {use.name!r} searches a corpus: name its files with --corpus")
        passages = reader.read_passages(corpus)
        search: SearchFunction = make(corpus=passages)
    elif corpus is not None:
        raise UserError(f"the retriever {use.name!r} searches no corpus of files: leave --corpus out")
    else:
        search = make()
    built_s = time.perf_counter() - start
    asked = [at for at, wanted in enumerate(gold.wanted) if wanted]
    by_title = sum(bool(_titles(query.meta)) for query, want in zip(queries, gold.wanted, strict=True) if not want)
    texts, wanted = [queries[at].question for at in asked], [gold.wanted[at] for at in asked]
    shares, searched_s = _ask(search, texts, wanted, gold, k)
    names = frozenset().union(*gold.wanted)
    absent = [] if corpus is None else sorted(names.difference(map(gold.name, passages)))
    missing = {*absent}
    lost = None if corpus is None else sum(want <= missing for want in wanted) / len(wanted)
    return _mean(shares) | {
        "k": k, "retriever": use.name, "settings": plain(use.settings), "questions": len(asked),
        "questions_without_gold": len(queries) - len(asked), "of_these_by_title": by_title,
        "gold": gold.by, "gold_passages": len(names),
        "gold_not_in_corpus": None if corpus is None else len(absent), "absent": absent[:MOST_ABSENT],
        "gold_absent": lost,
        "passages": None if corpus is None else len(passages),
        "queries_per_second": len(asked) / searched_s, "batch": BATCH, "built_s": built_s,
        "by_hops": _by_hops([queries[at] for at in asked], shares),
    }  # fmt: skip


def gold_of(queries: Sequence[Query], name: str) -> Gold:
    """Take gold from the ids in `supporting`, or else from the titles in `supporting_titles`."""
    for by, names, key in (
        ("supporting", lambda meta: meta.get("supporting"), lambda passage: passage.id),
        ("supporting_titles", _titles, lambda passage: nfc(passage.title)),
    ):
        wanted = [frozenset(map(str, names(query.meta) or ())) for query in queries]
        if any(wanted):
            return Gold(by, wanted, key)
    wanted = "a column 'supporting' (passage ids) or 'supporting_titles'"
    raise UserError(f"no question of {name} says which passages are gold; wanted {wanted}")


def _titles(meta: Mapping[str, Any]) -> list[str]:
    """Return the gold titles, in NFC."""
    return [nfc(str(title)) for title in meta.get("supporting_titles") or ()]


def _ask(
    search: SearchFunction, texts: Sequence[str], wanted: Sequence[frozenset[str]], gold: Gold, k: int
) -> tuple[list[float], float]:
    """Search all questions; return the share of gold found for each, and the seconds of searching."""
    shares, seconds = [], 0.0
    for start in progress(range(0, len(texts), BATCH), -(-len(texts) // BATCH), f"calls of {BATCH} questions"):
        batch = list(texts[start : start + BATCH])
        begun = time.perf_counter()
        results = search(batch, k)
        seconds += time.perf_counter() - begun
        for want, passages in zip(wanted[start : start + BATCH], results, strict=True):
            shares.append(len(want & {gold.name(passage) for passage in passages}) / len(want))
    return shares, max(seconds, 1e-9)


def _mean(shares: Sequence[float]) -> dict[str, float]:
    return {"recall": sum(shares) / len(shares), "all_gold": sum(share == 1.0 for share in shares) / len(shares)}


def _by_hops(queries: Sequence[Query], shares: Sequence[float]) -> dict[str, dict[str, float]]:
    groups: dict[str, list[float]] = {}
    for query, share in zip(queries, shares, strict=True):
        if query.meta.get("hops") is not None:
            groups.setdefault(str(query.meta["hops"]), []).append(share)
    return {hops: _mean(group) | {"questions": len(group)} for hops, group in sorted(groups.items())}


def format_table(figures: Mapping[str, Any]) -> str:
    """Format the figures in lines, all questions first."""
    asked = f"k = {figures['k']} (--k; a run asks for rollout.search_k)"
    count = figures["passages"]
    told = "passages of its own" if count is None else f"{count:,} passages"
    head = f"{figures['retriever']}, {asked}, {told}, gold by {figures['gold']}"
    rows = [("all", figures), *figures["by_hops"].items()]
    lines = [f"{'hops':>5} {'questions':>10} {'recall':>7} {'all gold':>9}"]
    lines += [f"{n:>5} {row['questions']:>10} {row['recall']:>7.3f} {row['all_gold']:>9.3f}" for n, row in rows]
    left, absent = figures["questions_without_gold"], figures["gold_not_in_corpus"]
    if left:
        titled = figures["of_these_by_title"]
        only = f" in 'supporting' ({titled} of them only in 'supporting_titles')" if titled else ""
        lines.append(f"{left} questions have no gold{only} and are not counted")
    if absent:
        gone = f"{absent:,} of {figures['gold_passages']:,} different gold passages are not in the corpus"
        more = f" and {absent - SHOWN} more" if absent > SHOWN else ""
        lines.append(f"{gone}, as {', '.join(map(show, figures['absent'][:SHOWN]))}{more}: is it the right one?")
    if lost := figures["gold_absent"]:
        lines.append(f"{lost:.1%} of the questions have no gold passage in the corpus: no search can find any")
    lines.append(f"{figures['queries_per_second']:.0f} queries/s, built in {figures['built_s']:.1f} s")
    return "\n".join([head, *lines])
