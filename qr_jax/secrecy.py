"""Secrets come from the environment only, and reach no file and no terminal."""

import os
import re

LAST_WORD = re.compile(
    r"(^|[._-])((api|access|auth)?(key|token)|secret|pass(word|wd|phrase)?|pat|credentials?|sig|signature)(_id|_value)?$"
)
SHORTEST = 6  # a value shorter than this is not searched for: it would blot out ordinary text


def looks_secret(name: str) -> bool:
    """Whether a setting or environment variable of this name holds a secret, by its last word."""
    return LAST_WORD.search(name.lower()) is not None


def redact(text: str) -> str:
    """The text without the values of environment variables whose names look secret."""
    secrets = {value for name, value in os.environ.items() if looks_secret(name) and len(value) >= SHORTEST}
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, "[redacted]")
    return text
