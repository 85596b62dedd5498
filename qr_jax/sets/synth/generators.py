"""Generators: functions that draft a question with a teacher, each in its own way (Coelho et al. 2026, 2606.10709)."""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from qr_jax.sets.made_traces import plain
from qr_jax.sets.synth.draft import Chance, Draft, Refused
from qr_jax.sets.synth.library import Library
from qr_jax.sets.synth.prompts import BEGIN, COMPARE, ENTITIES, HARDER, WALK
from qr_jax.sets.synth.teacher import Teacher, numbers_of, text_of, texts_of

HARDER_FOUND, COMPARED_FOUND = 5, 3  # passages of a search
FINE = 1_000_000  # steps of a chance
STARTS = 50  # passages tried for one from which so long a walk goes


def chains(documents: Sequence[int]) -> tuple[list[int], dict[int, float]]:
    """Return lengths to draw chains from, and the chance that a question of so many passages on the way is kept.

    Then of all questions of whole chains as many need n passages as n is often among `documents`. A chain of n passes
    by all shorter ones, so as many chains reach n as the largest share of n passages or more has. Without `documents`
    a chain has 2 or 3, and all questions on its way are kept.
    """
    if not documents:
        return [2, 3], {1: 1.0, 2: 1.0, 3: 1.0}
    shares, lengths, kept, reached = Counter(documents), list[int](), dict[int, float](), 0
    for count in range(max(documents), 0, -1):
        lengths += [count] * (shares[count] - reached)
        reached = max(reached, shares[count])
        kept[count] = shares[count] / reached
    return lengths, kept


def iterative_search(library: Library, teacher: Teacher, chance: Chance, documents: Sequence[int] = ()) -> Draft:
    """Draft a question of 2 or 3 passages, each but the first found by a search for what was known.

    It is made harder in rounds, so that its answer needs what was found. Every question on the way is kept beside the
    last, with `documents` by the chance of `chains`; a round that fails ends the chain with the question before it.
    """
    lengths, kept = chains(documents)
    draft = _chain(library, teacher, chance, chance.pick(lengths))
    way = [part for part in draft.earlier if chance.below(FINE) < kept[len(part.passages)] * FINE]
    return replace(draft, earlier=tuple(way))


def _chain(library: Library, teacher: Teacher, chance: Chance, length: int) -> Draft:
    """Draft a chain of so many passages, with all questions on the way."""
    known = [library.passages[chance.below(len(library.passages))]]
    hidden, searches = [], []
    question, answer, query = teacher.ask(
        BEGIN,
        {"passage": {"title": known[0].title, "text": known[0].text}},
        lambda reply: (text_of(reply, "question"), text_of(reply, "answer", 200), text_of(reply, "query")),
    )
    draft = Draft(question, (answer,), tuple(known), "0 rounds")
    for at in range(1, length):
        try:
            found = [
                passage
                for passage in library.search([query], HARDER_FOUND)[0]
                if passage.id not in {one.id for one in known}
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


def link_walk(library: Library, teacher: Teacher, chance: Chance, documents: Sequence[int] = (2, 3, 4)) -> Draft:
    """Draft a question of 2 to 4 linked passages that needs each of them and names none but the first."""
    hops = chance.pick([count for count in documents if count > 1])
    places = next((walk for _ in range(STARTS) if (walk := walked(library, chance, hops))), None)
    if places is None:
        raise Refused("no walk of so many hops")
    passages = tuple(library.passages[place] for place in places)
    hidden = tuple(plain(passage.title) for passage in passages[1:])
    shown = [{"title": passage.title, "text": passage.text} for passage in passages]
    question, answer = teacher.ask(
        WALK,
        {"passages": shown, "hidden": hidden},
        lambda reply: (text_of(reply, "question"), text_of(reply, "answer", 200)),
    )
    bridges = hidden if answer not in hidden[-1:] else hidden[:-1]  # the last passage's subject may be what is asked
    return Draft(question, (answer,), passages, f"walk of {hops}", bridges)


def walked(library: Library, chance: Chance, hops: int) -> list[int] | None:
    """Return the places of a walk over links that comes to no passage twice; None if it ends too early."""
    places = [chance.below(len(library.passages))]
    while len(places) < hops:
        onward = [place for place in library.links[places[-1]] if place not in places]
        if not onward:
            return None
        places.append(chance.pick(onward))
    return places


def comparative_search(library: Library, teacher: Teacher, chance: Chance, documents: Sequence[int] = ()) -> Draft:
    """Draft a comparison of 2 or 3 things of one kind, which one turn of parallel searches finds."""
    seed = library.passages[chance.below(len(library.passages))]
    compared, queries = teacher.ask(
        ENTITIES,
        {"passage": {"title": seed.title, "text": seed.text}},
        lambda reply: (text_of(reply, "property"), texts_of(reply, "queries", 2, 3)),
    )
    found = list(
        {passage.id: passage for result in library.search(queries, COMPARED_FOUND) for passage in result}.values()
    )
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


def questions_of_chain(documents: Sequence[int]) -> float:
    """Return how many questions a whole chain of `iterative_search` gives on average."""
    lengths, kept = chains(documents)
    on_the_way = sum(kept[at] for length in lengths for at in range(1, length))
    return 1.0 + on_the_way / len(lengths)


GENERATORS: Mapping[str, Callable[..., Draft]] = {
    function.__name__: function for function in (comparative_search, iterative_search, link_walk)
}
