"""Generator: a walk over links between passages, and a question that needs every passage of it."""

from collections.abc import Sequence

from qr_jax.sets.made_traces import plain
from qr_jax.sets.synth.draft import Chance, Draft, Refused
from qr_jax.sets.synth.library import Library
from qr_jax.sets.synth.prompts import WALK
from qr_jax.sets.synth.teacher import Teacher, text_of

DOCUMENTS = (2, 3, 4)
STARTS = 50  # passages tried for one from which so long a walk goes


def link_walk(library: Library, teacher: Teacher, chance: Chance, documents: Sequence[int] = DOCUMENTS) -> Draft:
    """A question over 2 to 4 linked passages, which names none of them but the first."""
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
    """The places of a walk over links that comes to no passage twice; None where it ends too early."""
    places = [chance.below(len(library.passages))]
    while len(places) < hops:
        onward = [place for place in library.links[places[-1]] if place not in places]
        if not onward:
            return None
        places.append(chance.pick(onward))
    return places
