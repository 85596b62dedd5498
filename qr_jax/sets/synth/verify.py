"""Verify a question by separate calls, none of which sees how the question came to be.

It must be answered right, twice alike, from its cited passages; not from memory; not from one of several passages; for
a chain, not without one of its passages. No second answer may be supported, by these passages or by those that a search
for the question finds."""

from collections.abc import Mapping, Sequence
from typing import Any

from qr_jax import answers
from qr_jax.records import Passage
from qr_jax.sets.synth.draft import Draft, Refused, check_words
from qr_jax.sets.synth.library import Library
from qr_jax.sets.synth.prompts import ANSWER, UNIQUE
from qr_jax.sets.synth.teacher import Teacher, text_of, texts_of

ALIKE = 0.8  # F1 of two wordings of one answer
OTHERS = 5  # passages of a search for the question, which may hold another answer


def verify(draft: Draft, library: Library, teacher: Teacher) -> None:
    """Refuse the draft for the first fault found; the cheap checks come first."""
    check_words(draft)
    readings = [_answered(teacher, draft.question, draft.passages, sample) for sample in (0, 1)]
    if not all(alike(reading, draft.answers) for reading in readings):
        raise Refused("not answered from its passages", f"{readings}, wanted {draft.answers[0]!r}")
    if not alike(readings[0], (readings[1] or "",)):
        raise Refused("two samplings disagree", f"{readings}")
    if alike(_answered(teacher, draft.question, ()), draft.answers):
        raise Refused("answered without its passages")
    if len(draft.passages) > 1:
        for passage in draft.passages:
            if alike(_answered(teacher, draft.question, (passage,)), draft.answers):
                raise Refused("answered from one passage", passage.title)
    is_chain = not draft.type.startswith("comparison")  # which may be told by two of three
    if is_chain and len(draft.passages) > 2:  # with two of them this has been asked
        for at, passage in enumerate(draft.passages):
            rest = (*draft.passages[:at], *draft.passages[at + 1 :])
            if alike(_answered(teacher, draft.question, rest), draft.answers):
                raise Refused("a hop can be skipped", passage.title)
    cited = {passage.id for passage in draft.passages}
    others = [passage for passage in library.search([draft.question], OTHERS)[0] if passage.id not in cited]
    given = {"question": draft.question, "passages": _shown([*draft.passages, *others])}
    supported = teacher.ask(UNIQUE, given, lambda reply: texts_of(reply, "answers", 0, 20))
    if not supported or not all(alike(answer, draft.answers) for answer in supported):
        raise Refused("not the only answer" if supported else "no answer supported", " | ".join(supported))


def alike(answer: str | None, golds: Sequence[str]) -> bool:
    """Return True if an answer agrees with a gold, perhaps in other words (by F1)."""
    return answers.f1(answer, golds) >= ALIKE


def _answered(teacher: Teacher, question: str, passages: Sequence[Passage], sample: int = 0) -> str | None:
    return teacher.ask(ANSWER, {"question": question, "passages": _shown(passages)}, _answer, sample=sample)


def _answer(reply: Mapping[str, Any]) -> str | None:
    return None if "answer" in reply and reply["answer"] is None else text_of(reply, "answer", 300)


def _shown(passages: Sequence[Passage]) -> list[dict[str, str]]:
    return [{"title": passage.title, "text": passage.text} for passage in passages]
