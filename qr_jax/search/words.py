"""The words of a text in any script, by which BM25 searches."""

import functools
import itertools
import re

from qr_jax.data.characters import HAN, SHARP, UNSEEN, marks, nfkc, unspaced, unspaced_character

# Words of two characters and more, those that end in a sign (libc++, GTK+), C++, C# and B♭, and single characters
# ("Vitamin C"), but none after a '. A sign before a letter (a+b, item#5) joins nothing, nor does one after a digit.
WORD = r"(?u)\w\w+(?:(?<![\d_])(?:\+\+|[+#♭](?!\w)))?|[^\W\d_](?:\+\+|#|[+♭](?!\w))|(?<!['’])\w"
_PLAIN = re.compile(WORD)


def words(text: str) -> list[str]:
    """Split a text into words: NFKC, lower case, a mark belongs to the letter before it (Unicode's UAX #29).

    Where a script has no blanks between words, each character is a word, and each pair of neighbours.
    """
    text = nfkc(text).lower().translate(SHARP)
    if text.isascii() or not _special().search(text):
        return _PLAIN.findall(text)
    found: list[str] = []
    for at, part in enumerate(_unspaced_run().split(_unseen().sub("", text))):
        found += _pairs(part) if at % 2 else _marked().findall(part)
    return found


def _pairs(run: str) -> list[str]:
    signs = unspaced_character().findall(run)
    pairs = map("".join, itertools.pairwise(signs))
    return [word for both in itertools.zip_longest(signs, pairs) for word in both if word]


@functools.cache
def _special() -> re.Pattern[str]:
    """Match what WORD alone does not read. Characters beyond U+FFFF are one range: many ranges would be slow."""
    below = "".join(sign for sign in marks() + unspaced().replace(HAN, "") if sign <= "\uffff")
    return re.compile(f"[{below}{HAN}{UNSEEN}\U00010000-\U0010ffff]")


@functools.cache
def _unseen() -> re.Pattern[str]:
    return re.compile(f"[{UNSEEN}]")


@functools.cache
def _marked() -> re.Pattern[str]:
    """Match WORD, with marks."""
    return re.compile(WORD.replace(r"\w\w+", rf"\w[\w{marks()}]+"))


@functools.cache
def _unspaced_run() -> re.Pattern[str]:
    return re.compile(f"((?:[{unspaced()}][{marks()}]*)+)")
