"""Was this asked before? By the normalised question, or by answer and words; for near-duplicates and for test sets."""

from collections import Counter, defaultdict

from qr_jax.answers import fold
from qr_jax.data import readers
from qr_jax.records import Query
from qr_jax.sets.made_traces import EMPTY_WORDS

LIKE = 0.6  # share of content words (of both questions together) in common, of two questions with one answer
SAME = 0.8  # share of runs of three words in common, of two questions with any answers
COMMON = 200  # a run of words that so many questions have says nothing
EMPTY = frozenset(EMPTY_WORDS.split())


class Repeats:
    """Questions seen so far.

    A question repeats another if their normalised words are the same; if they have one answer and the same cited
    passages or mostly the same content words; or, whatever the answers, nearly all runs of three words in common.
    """

    def __init__(self):
        self._by_question: dict[str, str] = {}
        self._by_answer: dict[str, list[tuple[frozenset[str], frozenset[str], str]]] = defaultdict(list)
        self._by_run: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._names: list[tuple[str, int]] = []  # a question's name and the number of its runs

    def __len__(self) -> int:
        return len(self._names)

    def add(self, query: Query) -> None:
        asked = fold(query.question)
        self._by_question.setdefault(asked, query.id)
        for answer in {fold(answer) for answer in query.answers}:
            self._by_answer[answer].append((content(asked), cited(query), query.id))
        runs = runs_of(asked)
        for run in runs:
            self._by_run[run].append(len(self._names))
        self._names.append((query.id, len(runs)))

    def find(self, query: Query) -> str | None:
        """Return the id of a question that this one repeats."""
        asked = fold(query.question)
        if asked in self._by_question:
            return self._by_question[asked]
        words, passages = content(asked), cited(query)
        for answer in {fold(answer) for answer in query.answers}:
            for their_words, their_passages, name in self._by_answer.get(answer, ()):
                if (passages and passages == their_passages) or jaccard(words, their_words) >= LIKE:
                    return name
        runs, shared = runs_of(asked), Counter()
        for run in runs:
            holders = self._by_run.get(run, ())
            if len(holders) < COMMON:
                shared.update(holders)
        near = (self._names[at] + (count,) for at, count in shared.items())
        return next((name for name, size, count in near if count >= SAME * (size + len(runs) - count)), None)


def content(asked: str) -> frozenset[str]:
    return frozenset(asked.split()) - EMPTY


def cited(query: Query) -> frozenset[str]:
    """Return the ids of its gold passages; none where they are weak."""
    return frozenset(() if query.meta.get("supporting_is_weak") else query.meta.get("supporting") or ())


def runs_of(asked: str) -> frozenset[tuple[str, ...]]:
    words = asked.split()
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / len(first | second) if first or second else 0.0


def of_sets(files: dict[str, str]) -> tuple[Repeats, dict[str, int], dict[str, str]]:
    """Read the questions of these files by set: (all of them, set -> how many, set -> why it is missing)."""
    every, counts, missing = Repeats(), {}, {}
    for name, file in files.items():
        try:
            readers.resolve(file)
        except ValueError as error:
            missing[name] = str(error)
            continue
        queries = readers.read_queries(file)
        for query in queries:
            every.add(query)
        counts[name] = len(queries)
    return every, counts, missing
