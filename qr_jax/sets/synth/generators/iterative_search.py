"""Generator: a question, a search, then a harder question whose answer needs what was found; so for some rounds.

Every question on the way is kept beside the last (Coelho et al. 2026, arXiv:2606.10709); a round that fails ends the
chain with the question before it.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qr_jax.sets.synth.draft import Chance, Draft, Refused
from qr_jax.sets.synth.library import Library
from qr_jax.sets.synth.prompts import BEGIN, HARDER
from qr_jax.sets.synth.teacher import Teacher, numbers_of, text_of, texts_of

DOCUMENTS = (2, 3)  # one more than searches
FOUND = 5  # passages of a search


def iterative_search(library: Library, teacher: Teacher, chance: Chance, documents: Sequence[int] = DOCUMENTS) -> Draft:
    """A question over 2 or 3 passages, each but the first found by a search for what was known."""
    known = [library.passages[chance.below(len(library.passages))]]
    rounds = chance.pick(documents) - 1
    hidden, searches = [], []
    question, answer, query = teacher.ask(
        BEGIN,
        {"passage": {"title": known[0].title, "text": known[0].text}},
        lambda reply: (text_of(reply, "question"), text_of(reply, "answer", 200), text_of(reply, "query")),
    )
    draft = Draft(question, (answer,), tuple(known), "0 rounds")
    for at in range(1, rounds + 1):
        try:
            found = [
                passage for passage in library.search([query], FOUND)[0] if passage.id not in {one.id for one in known}
            ]
            if not found:
                raise Refused("a search found nothing new", query)
            shown = [{"title": passage.title, "text": passage.text} for passage in known]
            listed = [{"number": number, "title": one.title, "text": one.text} for number, one in enumerate(found, 1)]
            given = {"question": question, "answer": answer, "known": shown, "found": listed}
            asked, read = query, functools.partial(_harder, size=len(found))
            question, answer, place, left_out, query = teacher.ask(HARDER, given, read)
        except Refused as refused:
            return replace(draft, failed=refused)
        searches.append((asked,))
        known.append(found[place])
        hidden += [name for name in left_out if name != answer]
        way = tuple(known), f"{at} rounds", tuple(hidden), tuple(searches)
        draft = Draft(question, (answer,), *way, (*draft.earlier, draft))
    return draft


def _harder(reply: Mapping[str, Any], size: int) -> tuple[str, str, int, tuple[str, ...], str]:
    (place,) = numbers_of({"passage": [reply.get("passage")]}, "passage", size, 1, 1)
    names = texts_of(reply, "hidden", 0, 4)
    return text_of(reply, "question"), text_of(reply, "answer", 200), place, names, text_of(reply, "query")
