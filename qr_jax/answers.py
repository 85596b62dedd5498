"""Is this answer right? Normalisation, exact match, F1 and cover match of one answer against its golds.

Canonically equal texts ("é" in one character or two) are equal. As for the official scorers, which the scores equal on
composed texts, full-width digits, ligatures and letters without their accents stay different: `fold`, for questions and
leaks, equates the first two.

An answer of None, or one that normalises to nothing, never scores; nor does a gold that normalises to nothing match
anything (in five public systems it matches every answer): `check_answers` refuses it when queries are loaded.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable

from qr_jax.characters import nfc, nfkc, spread
from qr_jax.records import Query

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")
CLOSED_ANSWERS = frozenset({"yes", "no", "noanswer"})
SAYS_NOTHING = CLOSED_ANSWERS | {"true", "false"}  # by standing in a passage


def normalise(text: str) -> str:
    """Compose by NFC and follow SQuAD (Rajpurkar et al. 2016, 1606.05250): lower case, single spaces, neither ASCII
    punctuation nor articles."""
    return " ".join(ARTICLES.sub(" ", nfc(text).lower().translate(PUNCTUATION)).split())


def fold(text: str) -> str:
    """Normalise after NFKC and case folding, to tell whether two questions are one: "１９８２" is "1982"."""
    return normalise(nfkc(text).casefold())


def proving(golds: Iterable[str]) -> list[str]:
    """Keep the golds whose standing in a passage says something: no yes or no, no single character."""
    return [gold for gold in golds if len(normal := normalise(gold)) > 1 and normal not in SAYS_NOTHING]


def first_in(text: str, golds: Iterable[str]) -> str | None:
    """Return the first of the `proving` golds that stands in the text word for word, both normalised; None without.

    In a script without blanks every character counts as a word.
    """
    held = in_words(normalise(text))
    return next((gold for gold in proving(golds) if in_words(normalise(gold)) in held), None)


def in_words(normal: str) -> str:
    """Put a normalised text between single blanks: it then stands in another such word for word, or not at all."""
    return f" {' '.join(spread(normal).split())} "


def exact_match(answer: str | None, golds: Iterable[str]) -> float:
    """1.0 when the normalised answer equals a normalised gold, else 0.0."""
    given = normalise(answer or "")
    return float(given != "" and any(given == normalise(gold) for gold in golds))


def f1(answer: str | None, golds: Iterable[str]) -> float:
    """The best word-overlap F1 over the golds, in [0, 1].

    As in HotpotQA (Yang et al. 2018, 1809.09600): where answer or gold is yes, no or noanswer, only equality counts.
    """
    given = normalise(answer or "")
    return max((_f1_of_one(given, normalise(gold)) for gold in golds), default=0.0)


def _f1_of_one(given: str, gold: str) -> float:
    if not given or not gold:
        return 0.0
    if given in CLOSED_ANSWERS or gold in CLOSED_ANSWERS:
        return float(given == gold)
    given_words, gold_words = given.split(), gold.split()
    shared = (Counter(given_words) & Counter(gold_words)).total()
    return 2 * shared / (len(given_words) + len(gold_words))


def cover_match(answer: str | None, golds: Iterable[str]) -> float:
    """1.0 when a normalised gold is a substring of the normalised answer, else 0.0 (Jin et al. 2025, 2503.09516).

    The substring need not end at a word: gold "art" is covered by "party". A list of guesses covers too, so this is a
    figure to read beside exact match; as a reward it teaches long answers.
    """
    given = normalise(answer or "")
    return float(any(gold != "" and gold in given for gold in map(normalise, golds)))


def check_answers(query: Query) -> None:
    """Refuse (ValueError) a query that cannot be scored: without golds, or with one that normalises to nothing."""
    if not query.answers:
        raise ValueError(f"query {query.id!r} has no answers; give it at least one, or leave the query out")
    for gold in query.answers:
        if not normalise(gold):
            why = "of which nothing is left without case, punctuation and articles, so no answer could ever match it"
            raise ValueError(
                f"query {query.id!r} has the answer {gold[:60]!r}, {why}; remove this answer, or the query"
            )
