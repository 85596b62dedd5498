"""Secrets come from the environment only, and reach no file and no terminal."""

import functools
import os
import re
from collections.abc import Iterable

LAST_WORD = re.compile(
    r"(^|[._-])((api|access|auth)?(key|token)|secret|pass(word|wd|phrase)?|pat|credentials?|sig|signature)(_id|_value)?$"
)
SHORTEST = 6  # shorter values are not redacted: they would also match ordinary text


def looks_secret(name: str) -> bool:
    """Return True if a setting or environment variable of this name holds a secret, by its last word."""
    return LAST_WORD.search(name.lower()) is not None


def redact(text: str) -> str:
    """Redact the values, of SHORTEST characters or more, of environment variables whose names look secret."""
    values = (value.strip() for name, value in os.environ.items() if looks_secret(name))
    return without(text, (value for value in values if len(value) >= SHORTEST))


def without(text: str, secrets: Iterable[str]) -> str:
    """Redact the secrets, also as JSON, a URL or HTML writes them: an endpoint may echo what it was sent.

    A hostile endpoint can write them in other ways.
    """
    for value in sorted(set(secrets), key=len, reverse=True):
        text = _pattern(value).sub("[redacted]", text)
    return text


@functools.lru_cache(64)
def _pattern(value: str) -> re.Pattern[str]:
    def written(character: str) -> str:
        plain, code = re.escape(character), f"{ord(character):02x}"
        quoted = rf"\\{{1,2}}{plain}|\\{{1,2}}(?i:u00{code})|%(?:25)?(?i:{code})|&#{ord(character)};|&#(?i:x0*{code});"
        return f"(?:{plain}|{quoted})"

    return re.compile("".join(map(written, value)))
