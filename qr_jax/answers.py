"""Is this answer right? Normalisation, exact match, F1 and cover match of one answer against its golds.

Canonically equal texts ("é" in one character or two) are equal. On composed texts the scores equal the official
scorers': letters with and without accents differ, and so do full-width digits, ligatures, unseen characters, curly
quotes and dashes from plain ones. `fold`, for finding repeated or leaked questions, ignores all these but accents.

An answer of None, or one that normalises to nothing, never scores; nor does a gold that normalises to nothing match
anything (in five public systems it matches every answer): `check_answers` refuses it when queries are loaded.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable

from qr_jax.data.characters import nfc, nfkc, seen, spread
from qr_jax.errors import UserError
from qr_jax.records import Query

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")
CLOSED_ANSWERS = frozenset({"yes", "no", "noanswer"})
# A gold like these proves nothing when a passage contains it; nor does one of function words only.
SAYS_NOTHING = CLOSED_ANSWERS | {"true", "false", "na", "no answer", "unknown", "not applicable", "not available"}
WORDS_OF_GRAMMAR = """
a about above after all also am an and any are as at be because been before being below between both but by can
could did do does each either every few for from had has have he her here hers him his how i if in into is it its
itself just many may me might mine more most much must my neither no nobody none nor not nothing of off on once one
only or other our ours out over own same shall she should so some such than that the their theirs them then there
these they this those through to too under until up us very was we were what when where which while who whom whose
why will with would yes you your yours
"""
# Dashes and quotes that writers exchange, made ASCII's hyphen and apostrophe, which `normalise` removes.
LIKE_ASCII = str.maketrans(dict.fromkeys("‐‑‒–—―−⁃﹘﹣－", "-") | dict.fromkeys("‘’‚‛“”„‟′″‵‶«»‹›ʼʻ´`", "'"))
FUNCTION_WORDS = frozenset(WORDS_OF_GRAMMAR.split())


def normalise(text: str) -> str:
    """Compose by NFC and follow SQuAD (Rajpurkar et al. 2016, 1606.05250): lower case, single spaces, neither ASCII
    punctuation nor articles. Canonically equal texts become the same, and what was normalised stays as it is."""
    # composed again: after lower() and the removal of punctuation, a letter and its mark may compose
    return " ".join(ARTICLES.sub(" ", nfc(nfc(text).lower().translate(PUNCTUATION))).split())


def fold(text: str) -> str:
    """Return the text after NFKC, case folding and `normalise`, without invisible characters, to compare questions.

    "１９８２" is "1982", and so is "19" and "82" with a soft hyphen between; curly quotes are straight ones, and dashes
    are hyphens.
    """
    return normalise(nfkc(nfkc(seen(text).translate(LIKE_ASCII)).casefold()).translate(LIKE_ASCII))


def proving(golds: Iterable[str]) -> list[str]:
    """Return the golds whose presence in a passage means something: not yes/no, function words, single characters."""
    return [gold for gold in golds if _says_something(normalise(gold))]


def _says_something(normal: str) -> bool:
    return len(normal) > 1 and normal not in SAYS_NOTHING and not FUNCTION_WORDS.issuperset(normal.split())


def first_in(text: str, golds: Iterable[str]) -> str | None:
    """Return the first of the golds that stands in the text word for word, both normalised, and proves something.

    That is a `proving` gold, or an acronym in capitals: US is not in "told us", nor AIDS in "It aids", but AIDS is in a
    text that has no capitals at all. In a script without blanks every character is a word. None: no gold does.
    """
    held, spelled = in_words(normalise(text)), in_words(_spelled(text))
    return next((gold for gold in golds if in_words(normalise(gold)) in held and _proves(gold, spelled)), None)


def _proves(gold: str, spelled: str) -> bool:
    """Tell whether a gold that stands in a text is meant there; `spelled` is the text with its capitals."""
    normal, word = normalise(gold), _spelled(gold)
    is_acronym = len(word) > 1 and word.isupper() and " " not in word and normal not in SAYS_NOTHING
    if is_acronym and normal in FUNCTION_WORDS:
        return f" {word} " in spelled
    if is_acronym and spelled != spelled.lower():
        return any(one.lower() == normal != one for one in spelled.split())
    return _says_something(normal)


def _spelled(text: str) -> str:
    """Return the text as `normalise` makes it, but for case and articles."""
    return " ".join(nfc(nfc(text).translate(PUNCTUATION)).split())


def in_words(normal: str) -> str:
    """Put a normalised text between blanks, so that `in` finds it in another such text only as whole words."""
    return f" {' '.join(spread(normal).split())} "


def exact_match(answer: str | None, golds: Iterable[str]) -> float:
    """Return 1.0 if the normalised answer equals a normalised gold, else 0.0."""
    given = normalise(answer or "")
    return float(given != "" and any(given == normalise(gold) for gold in golds))


def f1(answer: str | None, golds: Iterable[str]) -> float:
    """Return the best word-overlap F1 over the golds, in [0, 1].

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
    """Return 1.0 if a normalised gold is a substring of the normalised answer, else 0.0 (Jin et al. 2025, 2503.09516).

    The substring need not end at a word: gold "art" is covered by "party", gold "2" by "in 1982". A list of guesses
    covers too, so this is a figure to read beside exact match. The reward of this name is stricter.
    """
    given = normalise(answer or "")
    return float(any(gold != "" and gold in given for gold in map(normalise, golds)))


def told(query: Query) -> tuple[str, ...]:
    """Return the golds that a judge is told: those that score, and those of which normalising leaves nothing.

    "A", a choice's letter, is one of these: a judge can tell it, and exact match cannot.
    """
    refused = query.meta.get("refused_answers")
    listed = refused if isinstance(refused, list | tuple) else ()
    return (*query.answers, *(gold for gold in listed if isinstance(gold, str) and not normalise(gold)))


def check_answers(query: Query) -> None:
    """Refuse (ValueError) a query that cannot be scored: without golds, or with one that normalises to nothing."""
    if not query.answers:
        raise UserError(f"query {query.id!r} has no answers; give it at least one, or leave the query out")
    for gold in query.answers:
        if not normalise(gold):
            why = "of which nothing is left without case, punctuation and articles, so no answer could ever match it"
            raise UserError(f"query {query.id!r} has the answer {gold[:60]!r}, {why}; remove this answer, or the query")
