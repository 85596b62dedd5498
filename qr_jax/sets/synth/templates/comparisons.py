"""Template generator: two or three things of one kind, described and not named; which came first?"""

import re
from collections.abc import Mapping

from qr_jax.answers import normalise
from qr_jax.sets.synth.draft import Chance, Draft, Refused, says
from qr_jax.sets.synth.library import Library
from qr_jax.sets.synth.templates.facts import NATIONS, Page

WORDS = (6, 20)  # of a description: shorter ones fit many, longer ones nobody asks
KIND_WORDS = 3  # a description's first words, by which things of its kind are searched
CLEARLY = 1.35  # how much better than the next passage a description must find its own, in the retriever's score
FOUND = 20  # passages of that search
FACTS = {
    "born": "Who was born {}",
    "released": "Which {kind} was released {}",
    "founded": "Which {kind} was founded {}",
}


def describable(pages: Mapping[int, Page]) -> dict[int, tuple[str, str]]:
    """Place -> (description without its year, the fact by which it is compared) of the pages that can be compared."""
    found = {}
    for at, page in pages.items():
        fact = next((name for name in FACTS if name in page.said), None)
        text = re.sub(r"^\d{4} ", "", page.description)
        names = [word for word in re.findall(r"(?<!^)\b[A-Z]\w+", text) if word not in NATIONS]
        short = WORDS[0] <= len(text.split()) <= WORDS[1]
        clean = not re.search(r"\d|[():;]|\bcurrent", text) and text.count('"') % 2 == 0
        own = says(text, page.title)
        if fact and page.kind and short and clean and len(set(names)) > 1 and not own:
            found[at] = (text, fact)
    return found


def draft(
    at: int, pages: Mapping[int, Page], described: Mapping[int, tuple[str, str]], library: Library, chance: Chance
) -> Draft:
    """A comparison of the page at `at` with one or two others that a search for its kind finds."""
    first, (text, fact) = pages[at], described[at]
    kind_words = " ".join(text.split()[:KIND_WORDS])
    found = [library.place[passage.id] for passage in library.search([kind_words], FOUND)[0]]
    count = 3 if chance.below(4) == 0 else 2
    chosen = [first]
    while len(chosen) < count:
        years = {page.said[fact][0] for page in chosen}
        others = [
            pages[place]
            for place in found
            if place in described
            and pages[place] not in chosen
            and pages[place].kind == first.kind
            and described[place][1] == fact
            and pages[place].said[fact][0] not in years
        ]
        if not others:
            raise Refused("nothing to compare it with", first.title)
        chosen.append(chance.pick(others))
    chosen.sort(key=lambda page: normalise(described[page.place][0]))  # an order that says nothing of the answer
    texts = [described[page.place][0] for page in chosen]
    for page, description, passages in zip(chosen, texts, library.search(texts, 2), strict=True):
        scores = [passage.score for passage in passages] + [0.0]
        if not passages or passages[0].id != library.passages[page.place].id or scores[0] < CLEARLY * scores[1]:
            raise Refused("a description that fits another passage as well", description)
    latest = chance.below(2)
    winner = sorted(chosen, key=lambda page: int(page.said[fact][0]))[-latest]
    opening = FACTS[fact].replace("{kind}", first.kind).format("last" if latest else "first")
    listed = ", ".join(f"the {one}" for one in texts[:-1])
    question = f"{opening}, {listed} or the {texts[-1]}?"
    cited = tuple(library.passages[page.place] for page in chosen)
    hidden = tuple(page.title for page in chosen)
    return Draft(question, (winner.title,), cited, f"comparison of {count}", hidden, (tuple(texts),))
