"""Draft questions as a generator wrote them, before verification, and refusals with their reasons."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qr_jax.answers import fold, in_words, normalise, proving
from qr_jax.data.traces import has_tag_signs
from qr_jax.pool.noise import uniforms
from qr_jax.records import Passage, Query
from qr_jax.sets.made_traces import plain

PURPOSE = 118  # the first part of the key of a candidate's random numbers
POSSESSIVE = re.compile(r"['’]s\b")
DRAWS = 256  # random numbers that one candidate may use


class Refused(Exception):
    """A candidate or trajectory is refused: `reason` is what rejects are counted by, `detail` what was found."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Draft:
    """A drafted question; `passages` are the cited ones, one a hop, in the order in which an expert reads them.

    The question must not name anything in `hidden`. `searches` are an expert's, by turn, if the generator knows them;
    `type` is the kind of question. `earlier` are the questions of fewer passages from which the chain grew, the first
    first; `failed` says why it could not grow further, if it should have.
    """

    question: str
    answers: tuple[str, ...]
    passages: tuple[Passage, ...]
    type: str
    hidden: tuple[str, ...] = ()
    searches: tuple[tuple[str, ...], ...] = ()
    earlier: tuple["Draft", ...] = field(default=(), repr=False)
    failed: Refused | None = None

    def query(self, name: str, generator: str) -> Query:
        """Return the draft as a Query; the titles of its passages are its entities."""
        titles = [passage.title for passage in self.passages]
        meta: dict[str, Any] = {"generator": generator, "type": self.type, "hops": len(self.passages)}
        meta |= {"supporting": [passage.id for passage in self.passages], "supporting_titles": titles}
        if self.searches:
            meta["searches"] = [list(turn) for turn in self.searches]
        entities = tuple(dict.fromkeys(plain(title) for title in titles if title.strip()))
        return Query(name, self.question, self.answers, entities, meta)


class Chance:
    """Random numbers of one candidate, a function of the integers `key` alone."""

    def __init__(self, *key: int):
        self._numbers = iter(uniforms(DRAWS, PURPOSE, *key).tolist())

    def below(self, size: int) -> int:
        return int(next(self._numbers) * size)

    def pick(self, items: Sequence[Any]) -> Any:
        return items[self.below(len(items))]


def check_words(draft: Draft) -> None:
    """Refuse a draft by its words alone: a tag, an answer inside the question, or a name that it must not say."""
    texts = (draft.question, *draft.answers, *(search for turn in draft.searches for search in turn))
    if has_tag_signs(*texts):
        raise Refused("signs of a tag")  # what an expert writes is trusted text: no data in it may look like a tag
    answers = [normalise(answer) for answer in draft.answers]
    if not draft.question.strip() or not all(answers):
        raise Refused("an empty question or answer")
    if len(answers[0].split()) > 12:
        raise Refused("a long answer", draft.answers[0])
    if any(says(draft.question, answer) for answer in proving(draft.answers)):
        raise Refused("the answer is in the question", draft.answers[0])
    named = [name for name in draft.hidden if says(draft.question, plain(name))]
    if named:
        raise Refused("names what must be found", ", ".join(named))


def says(text: str, words: str) -> bool:
    """Return True if a text has these words in a row, both normalised and without possessive 's."""
    text, words = (fold(POSSESSIVE.sub("", one)) for one in (text, words))
    return words != "" and in_words(words) in in_words(text)
