"""Unicode's compatibility form (NFKC) in linear time."""

import functools
import re
import sys
import unicodedata

MARKS = 30  # in a row, after which a joiner ends the row: UAX #15's stream-safe text; no language needs as many


def nfkc(text: str) -> str:
    """The text as NFKC makes it, rows of more than MARKS combining marks broken by U+034F.

    Python sorts a row of marks by insertion: 20,000 of them take a second.
    """
    return text if text.isascii() else unicodedata.normalize("NFKC", _long_row().sub("\\g<0>\u034f", text))


@functools.cache
def _long_row() -> re.Pattern[str]:
    """MARKS characters before another such, each a combining mark or one that NFKC makes of it."""
    every = map(chr, range(0x300, sys.maxunicode + 1))
    marks = [one for one in every if unicodedata.combining(unicodedata.normalize("NFKD", one)[0])]
    return re.compile(f"[{''.join(marks)}]{{{MARKS}}}(?=[{''.join(marks)}])")
