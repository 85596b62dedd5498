"""Unicode: its composed forms in linear time, what is seen, and where a text may be cut."""

import functools
import re
import sys
import unicodedata

MARKS = 30  # most marks in a row; then a joiner is put in (UAX #15, stream-safe text); no language needs as many
SHARP = str.maketrans("♯", "#")
HAN = r"\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Blocks of other scripts without blanks between words: Thai and Lao, Burmese, Khmer, Tai Le to New Tai Lue, Tai Tham,
# Balinese, kana and bopomofo, Javanese and more of Burmese, Tai Viet.
BLOCKS = ((0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF), (0x1B00, 0x1B7F))
BLOCKS += ((0x3041, 0x312F), (0x31A0, 0x31FF), (0xA980, 0xA9FF), (0xAA60, 0xAADF), (0x1B000, 0x1B16F))
# Joiners, direction marks, variation selectors and the soft hyphen are no part of a word. U+200B parts words.
UNSEEN = r"\u00ad\u034f\u061c\u180b-\u180f\u200c-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
UNSEEN += r"\U000e0100-\U000e01ef"
JOINER = "\u200d"


def nfkc(text: str) -> str:
    """Return the text as NFKC makes it, rows of more than MARKS combining marks broken by U+034F.

    Python sorts a row of marks by insertion: 20,000 of them take a second.
    """
    return text if text.isascii() else unicodedata.normalize("NFKC", _long_row().sub("\\g<0>\u034f", text))


def nfc(text: str) -> str:
    """Compose the text by NFC, long rows of marks broken as by `nfkc`: canonically equal texts become the same."""
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text
    return unicodedata.normalize("NFC", _long_row().sub("\\g<0>\u034f", text))


def seen(text: str) -> str:
    """Leave out what no reader sees: joiners, marks of direction, soft hyphens, fillers, tags and controls."""
    return _never_seen().sub("", text)


def spread(text: str) -> str:
    """Put blanks around each character of a script that has none, so that words can be looked for."""
    return text if text.isascii() else unspaced_character().sub(r" \g<0> ", text)


def is_unspaced(sign: str) -> bool:
    """Return True for a character of a script without blanks between words."""
    return unspaced_character().match(sign) is not None


def is_mark(sign: str) -> bool:
    """Return True for a character that belongs to the one before it: a mark, a joiner, a Hangul vowel or final jamo."""
    return unicodedata.category(sign)[0] == "M" or "\u1160" <= sign <= "\u11ff" or sign in ("\u200c", JOINER)


def cut_before(text: str, end: int) -> int:
    """Return the last position up to `end` that splits no character from its marks; `end` if the marks are too many."""
    for at in range(end, max(end - MARKS, 0), -1):
        if at >= len(text) or not (is_mark(text[at]) or text[at - 1] == JOINER):
            return at
    return end


@functools.cache
def marks() -> str:
    """List Unicode's marks (Mn, Mc, Me), as the inside of a character class."""
    return "".join(sign for sign in map(chr, range(0x300, 0x1F000)) if unicodedata.category(sign)[0] == "M")


@functools.cache
def unspaced() -> str:
    """List the letters and digits of scripts without blanks, as the inside of a character class."""
    return HAN + "".join(sign for low, high in BLOCKS for sign in map(chr, range(low, high + 1)) if sign.isalnum())


@functools.cache
def _never_seen() -> re.Pattern[str]:
    """Match controls but blanks, format characters (Cf), U+200B and Unicode's other default ignorables."""
    every = map(chr, range(0x20000))  # those beyond stand among the fillers
    kinds = [sign for sign in every if unicodedata.category(sign) in ("Cc", "Cf") and not sign.isspace()]
    fillers = r"\u115f\u1160\u17b4\u17b5\u3164\uffa0\U000e0000-\U000e0fff"
    return re.compile(f"[{re.escape(''.join(kinds))}{UNSEEN}{fillers}]")


@functools.cache
def unspaced_character() -> re.Pattern[str]:
    return re.compile(f"[{unspaced()}][{marks()}]*")


@functools.cache
def _long_row() -> re.Pattern[str]:
    """Return a pattern of MARKS marks before another; a mark's NFKD begins with a combining character."""
    every = map(chr, range(0x300, sys.maxunicode + 1))
    marks = [sign for sign in every if unicodedata.combining(unicodedata.normalize("NFKD", sign)[0])]
    return re.compile(f"[{''.join(marks)}]{{{MARKS}}}(?=[{''.join(marks)}])")
