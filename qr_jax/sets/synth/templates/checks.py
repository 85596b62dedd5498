"""Is a template's question good? By word matching and the retriever alone: no model reads it."""

from qr_jax.answers import proving
from qr_jax.data.traces import plain
from qr_jax.sets.synth.draft import Draft, Refused, check_words, says
from qr_jax.sets.synth.library import Library

FOUND = 5  # passages of a search for the question itself


def verify(draft: Draft, library: Library) -> None:
    """Refuse the draft with the first reason found.

    A passage answers alone if it says the answer and all that the question starts from: the titles that it may name,
    or, where it may name none, all titles. A chain whose last passage is what a search for the question finds first
    needs no chain, and a passage that names what lies two steps on makes the step between needless.
    """
    check_words(draft)
    titles = [plain(passage.title) for passage in draft.passages]
    starts = [title for title in titles if title not in draft.hidden] or titles
    for at, passage in enumerate(draft.passages):
        if starts != titles and any(says(f"{passage.title} {passage.text}", title) for title in titles[at + 2 :]):
            raise Refused("a hop can be skipped", passage.title)
    found = library.search([draft.question], FOUND)[0]
    cited, golds = {passage.id for passage in draft.passages}, proving(draft.answers)
    for passage in (*draft.passages, *found):
        text = f"{passage.title} {passage.text}"
        if any(says(text, answer) for answer in golds) and all(says(text, start) for start in starts):
            where = "answered from one passage" if passage.id in cited else "answered without its passages"
            raise Refused(where, passage.title)
    if starts != titles and len(titles) > 1 and found and found[0].id == draft.passages[-1].id:
        raise Refused("found by one search", found[0].title)
