"""Generator: two or three things of one kind, found by parallel searches, and a question that compares them."""

from collections.abc import Mapping, Sequence
from typing import Any

from qr_jax.sets.synth.draft import Chance, Draft, Refused
from qr_jax.sets.synth.library import Library
from qr_jax.sets.synth.prompts import COMPARE, ENTITIES
from qr_jax.sets.synth.teacher import Teacher, numbers_of, text_of, texts_of

FOUND = 3  # passages of a search


def comparative_search(library: Library, teacher: Teacher, chance: Chance, documents: Sequence[int] = ()) -> Draft:
    """A question over 2 or 3 passages, as the teacher chooses, that one turn of parallel searches finds."""
    seed = library.passages[chance.below(len(library.passages))]
    compared, queries = teacher.ask(
        ENTITIES,
        {"passage": {"title": seed.title, "text": seed.text}},
        lambda reply: (text_of(reply, "property"), texts_of(reply, "queries", 2, 3)),
    )
    found = list({passage.id: passage for result in library.search(queries, FOUND) for passage in result}.values())
    if len(found) < 2:
        raise Refused("a search found nothing new", " | ".join(queries))
    listed = [{"number": at, "title": one.title, "text": one.text} for at, one in enumerate(found, 1)]
    question, answer, places, asked = teacher.ask(
        COMPARE, {"property": compared, "found": listed}, lambda reply: _compared(reply, len(found))
    )
    passages = tuple(found[place] for place in places)
    return Draft(question, (answer,), passages, f"comparison of {len(passages)}", searches=(asked,))


def _compared(reply: Mapping[str, Any], size: int) -> tuple[str, str, tuple[int, ...], tuple[str, ...]]:
    places = numbers_of(reply, "passages", size, 2, 3)
    queries = texts_of(reply, "queries", len(places), len(places))
    return text_of(reply, "question"), text_of(reply, "answer", 200), places, queries
