"""Template generator: the facts of 2 to 4 passages put end to end ("In what year was the director of ... born?")."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qr_jax.data import sources
from qr_jax.sets.synth.draft import Draft
from qr_jax.sets.synth.library import Library
from qr_jax.sets.synth.templates.facts import Page

MOST_LEADS = 3  # relations from the first passage to the last
OF_A_PERSON = {
    "born": "In what year was {} born?",
    "born on": "On what date was {} born?",
    "birthplace": "Where was {} born?",
    "died": "In what year did {} die?",
}
OF_A_THING = {
    "released": "In what year was {} released?",
    "founded": "In what year was {} founded?",
    "base": "Where is {} based?",
    "seat": "What is the county seat of {}?",
}
PUBLISHED = {"novel", "novella", "book", "short story", "memoir", "manga"}
MAKERS = tuple(f"the {maker} of" for maker in ("director", "author", "performer", "creator", "composer", "founder"))


@dataclass(frozen=True)
class Chain:
    """Relations followed from page to page, and what is asked of the last: one of its facts, or who it is (None)."""

    path: tuple[int, ...]
    phrases: tuple[str, ...]
    fact: str | None

    @property
    def form(self) -> tuple[str | None, ...]:
        return (*self.phrases, self.fact)


def chains(pages: Mapping[int, Page]) -> Iterator[Chain]:
    """Every chain over these pages; none comes to a page twice."""
    waiting = [((at,), ()) for at in sorted(pages)]
    while waiting:
        path, phrases = waiting.pop()
        last = pages[path[-1]]
        if phrases:
            alternative = ("born", "born on")[path[-1] % 2]  # a year or a date: both of one person are one question
            yield from (Chain(path, phrases, fact) for fact in last.said if fact != alternative)
        if len(phrases) > 1 and phrases[-1].startswith(MAKERS):
            yield Chain(path, phrases, None)
        if len(phrases) < MOST_LEADS:
            waiting += [((*path, at), (*phrases, phrase)) for phrase, at in last.leads.items() if at not in path]


def in_turns(found: Iterator[Chain], seed: int) -> list[Chain]:
    """The chains in an order fixed by the seed, which takes one of each form in turn: the rare forms come early."""
    by_form: dict[tuple, list[Chain]] = {}
    for chain in found:
        by_form.setdefault(chain.form, []).append(chain)
    ranked = []
    for form in sorted(by_form, key=str):
        same = by_form[form]
        ranked += [(turn, same[at]) for turn, at in enumerate(sources.order(len(same), seed=seed, epoch=0).tolist())]
    return [chain for _, chain in sorted(ranked, key=lambda pair: pair[0])]


def draft(chain: Chain, pages: Mapping[int, Page], library: Library) -> Draft:
    """The chain as a question, with the searches that follow it."""
    followed = [pages[at] for at in chain.path]
    asked = followed[0].phrase()
    for phrase in chain.phrases:
        asked = phrase.format(asked)
    last = followed[-1]
    searches = [followed[0].phrase().removeprefix("the ").replace('"', ""), *(page.title for page in followed[1:])]
    if chain.fact is None:  # who it is stands in the passage before
        question, answers, followed, searches = f"Who is {asked}?", (last.title,), followed[:-1], searches[:-1]
    else:
        wording = (OF_A_PERSON | OF_A_THING)[chain.fact]
        if chain.fact == "released" and last.kind in PUBLISHED:
            wording = wording.replace("released", "published")
        if chain.fact == "founded" and last.kind == "band":
            wording = wording.replace("founded", "formed")
        question, answers = wording.format(asked), last.said[chain.fact]
    passages = tuple(library.passages[page.place] for page in followed)
    hidden = tuple(page.title for page in followed[1:])
    return Draft(question, answers, passages, f"chain of {len(passages)}", hidden, tuple((text,) for text in searches))
