"""Searches among each question's own paragraphs (data.corpus=own), as HotpotQA, 2WikiMultihopQA and MuSiQue carry them.

An environment's searches are marked with their question; a text without a mark is searched for among all paragraphs.
"""

import functools
from collections.abc import Callable, Sequence
from typing import overload

from qr_jax.data import readers
from qr_jax.errors import UserError
from qr_jax.records import Passage, Query, Say, Search, SearchFunction, Stop, Turn
from qr_jax.sets import carried

KEPT = 4096  # questions whose index is kept


class OwnParagraphs(Sequence[Passage]):
    """The paragraphs of all questions, each once; `by_question` has each question's own, by its id."""

    def __init__(self, queries: Sequence[Query]):
        """Read the paragraphs that the questions' rows carry; UserError for a question without any."""
        known: dict[carried.Pair, Passage] = {}
        self.by_question: dict[str, list[Passage]] = {}
        for query in queries:
            pairs = dict.fromkeys(pair for pair in carried.passages(query.meta)[0] if pair[1].strip())
            if not pairs:
                raise UserError(
                    f"data.corpus=own, and question {query.id!r} carries no paragraphs; wanted a column 'context' or "
                    "'paragraphs', as in the files of HotpotQA, 2WikiMultihopQA and MuSiQue; or name files of passages"
                )
            own = [known.setdefault(pair, Passage(str(len(known)), *pair)) for pair in pairs]
            if self.by_question.setdefault(query.id, own) != own:
                raise UserError(
                    f"data.corpus=own, and two questions {query.id!r} (one to train on, one held out) carry other "
                    f"paragraphs; {readers.UNIQUE}"
                )
        self._all = list(known.values())

    def __len__(self) -> int:
        return len(self._all)

    @overload
    def __getitem__(self, at: int) -> Passage: ...
    @overload
    def __getitem__(self, at: slice) -> list[Passage]: ...
    def __getitem__(self, at: int | slice) -> Passage | list[Passage]:
        return self._all[at]


class Within(str):
    """The text of a search that goes to one question's paragraphs alone; equal texts of two questions differ."""

    question: str

    def __new__(cls, text: str, question: str) -> "Within":
        made = super().__new__(cls, text)
        made.question = question
        return made

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) is True and self.question == getattr(other, "question", None)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((str(self), self.question))

    def __reduce__(self):
        return Within, (str(self), self.question)


def asked(text: str, query: Query) -> Within:
    """Return the text as a search of this question's paragraphs."""
    return Within(text, query.id)


def marked(env: Callable[[Query, Sequence[Turn]], Say | Search | Stop]) -> Callable:
    """Return the environment whose searches go to the paragraphs of their question; calls of tools stay as they are."""

    @functools.wraps(env)
    def moves(query: Query, turns: Sequence[Turn]) -> Say | Search | Stop:
        move = env(query, turns)
        if not isinstance(move, Search):
            return move
        return Search(tuple(Within(one, query.id) if isinstance(one, str) else one for one in move.queries))

    return moves


def searching(make: Callable[..., SearchFunction], own: OwnParagraphs) -> SearchFunction:
    """Return a search by the retriever that `make` makes of a corpus: one of each question's paragraphs, and of all."""

    @functools.lru_cache(KEPT)
    def over(question: str | None) -> SearchFunction:
        return make(corpus=own if question is None else own.by_question[question])

    def search(queries: Sequence[str], k: int) -> list[Sequence[Passage]]:
        asked = [(str(query), getattr(query, "question", None)) for query in queries]
        return [over(name if name in own.by_question else None)([text], k)[0] for text, name in asked]

    return search
