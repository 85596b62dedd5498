"""Columns beside a question's answer: further accepted answers, and whether there is one."""

import re
from collections.abc import Mapping
from typing import Any

from qr_jax.settings import show

# MuSiQue's answer_aliases, PopQA's o_aliases. "possible_answers" beside an answer may be the choices of a test, so it
# counts only where no other column holds the answer (`qr-jax data convert`).
ALSO_ANSWERS = re.compile(
    r"aliases|(answers?|golden_answers?|golds?|o|object)_?alias(es)?|(accept\w*|alt\w*|correct|valid)_answers"
)
NO_ANSWER = {"answerable": ("false", "0"), "is_impossible": ("true", "1")}  # MuSiQue's column, and SQuAD's


class Unanswerable(ValueError):
    """The row says itself that its question has no answer."""


def check_answerable(row: Mapping[str, Any]) -> None:
    """Raise Unanswerable where the row says so."""
    for name, denials in NO_ANSWER.items():
        if name in row and str(row[name]).lower() in denials:
            raise Unanswerable(f"has no answer, as its {name!r} says: {show(row[name])}")
