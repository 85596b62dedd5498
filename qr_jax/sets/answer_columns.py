"""Columns beside a question's answer, further accepted answers and whether there is one; and answers in other forms."""

import ast
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from qr_jax.data import limits
from qr_jax.data.parsing import Row, Unanswerable
from qr_jax.settings import json_text
from qr_jax.settings.settings import WORDS, show

# Names are compared without case, blanks, dots, - and _: MuSiQue's answer_aliases, PopQA's o_aliases, answerAliases.
# "possible_answers", "alternatives" and "other_answers" beside an answer may be the choices of a test, so they are not
# taken (UNCLEAR), except the first where no other column holds the answer. Names of the subject (s_aliases) are none.
# A name is answer, gold or a word for further names, with words before and after it that say no more.
JOINTS = re.compile(r"[-_.\s]+")
ADDED = r"(also)?accept[a-z]*|alt[a-z]*|also|short|additional|further|extra"
FURTHER = rf"({ADDED}|correct|valid|all)"
OTHER_NAMES = r"(alias(es)?|synonyms?|variants?|variations?|spellings?)"
ALSO_ANSWERS = re.compile(
    rf"(metadata|extrainfo)?((normali[sz]ed|other|{FURTHER})?(golden)?(answers?|golds?|labels?|obj(ect)?|o)?{OTHER_NAMES}"
    rf"|{FURTHER}(golden)?(answers|golds)|({ADDED})(answer|gold)|(answers?|golds?)alts?|alsoaccept[a-z]*)(list|set)?"
)
UNCLEAR = re.compile(
    rf"(metadata|extrainfo)?((possible|other)answers|({FURTHER}|golden)?(answers?|golds?)?alternatives?)"
)
DENIED = re.compile(r"(is)?((un|not)answerable|impossible)|noanswers?")  # names whose "true" says that there is none
# An answer that says that there is none: MS MARCO's, QuAC's; compared as names are, without other signs.
NO_ANSWER = re.compile(
    r"(this|the)?(question)?(is|was)?(un|not)answerable|(ican|can|couldn?)(not|t)(be)?answer(ed)?"
    r"|no(valid|correct)?answers?(is)?(present|available|given|found|possible|exists?)?"
    r"|(not enough|insufficient) ?information".replace(" ", "")
)
TYPE = re.compile(r"(answer|question)?(type|kind|category|class|status)")  # names of columns that may say so too
HAS_ANSWER = re.compile(rf"(is)?answerable|answerability|hasanswers?|{DENIED.pattern}")  # MuSiQue's column, and SQuAD's
TRUTH = WORDS | {"y": True, "t": True, "n": False, "f": False}
BESIDE = ("metadata", "meta", "extra_info")  # objects that may hold such columns
SPLIT = "<|answer_split|>"
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
NOT_TAKEN = "{name!r} may hold accepted answers or a test's wrong choices, and is not taken (accepted ones: 'aliases')"
# Under which an object that is an answer says it.
ANSWER_HAS = ("text", "texts", "value", "answer", "answer_text", "name", "alias")


def holds_answers(name: str) -> bool:
    """Tell whether a column of that name holds further accepted answers."""
    return ALSO_ANSWERS.fullmatch(_plain(name)) is not None


def may_hold_answers(name: str) -> bool:
    """Tell whether a column of that name may hold accepted answers, but also a test's wrong choices."""
    return UNCLEAR.fullmatch(_plain(name)) is not None


def says_answerable(name: str) -> bool:
    """Tell whether a column of that name says whether the question has an answer."""
    return HAS_ANSWER.fullmatch(_plain(name)) is not None


def tells_of_answers(name: str) -> bool:
    """Tell whether a column holds answers, may hold them, or says whether there are any."""
    return holds_answers(name) or may_hold_answers(name) or says_answerable(name.rpartition(".")[2])


def beside(row: Row) -> Iterator[tuple[str, Any]]:
    """Yield each column of the row, and of the metadata objects inside it, with the name that an error gives it."""
    yield from row.items()
    for name in BESIDE:
        if isinstance(inner := row.get(name), Mapping):
            yield from ((f"{name}.{of}", value) for of, value in inner.items())


def not_taken(row: Row) -> list[str]:
    """List the columns that may hold accepted answers, but also a test's wrong choices, and are not empty."""
    return [name for name, held in beside(row) if may_hold_answers(name) and held]


def check_answerable(row: Row) -> None:
    """Raise Unanswerable if the row says that its question has no answer."""
    for name, value in beside(row):
        of = name.rpartition(".")[2]
        in_words = isinstance(value, str) and DENIED.fullmatch(_plain(value))  # "answerability": "unanswerable"
        if TYPE.fullmatch(_plain(of)) and isinstance(value, str) and says_none(value):
            raise Unanswerable(f"has no answer, as its {name!r} says: {show(value)}")
        if says_answerable(of) and (in_words or _truth(value) is (DENIED.fullmatch(_plain(of)) is not None)):
            raise Unanswerable(f"has no answer, as its {name!r} says: {show(value)}")


def says_none(answer: str) -> bool:
    """Tell whether an answer says that there is none: "No Answer Present.", CANNOTANSWER."""
    return NO_ANSWER.fullmatch(re.sub(r"[\W_]", "", answer).casefold()) is not None


def in_objects(value: Any) -> Any:
    """Return the texts in {"text": [...]}, {"value": ..., "aliases": [...]} or a list of such; else the value."""
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        parts = [in_objects(one) for one in value]
        return [text for part in parts for text in part] if all(isinstance(part, list) for part in parts) else value
    if not isinstance(value, Mapping):
        return value
    plain = {str(name).lower(): held for name, held in value.items()}
    names = [name for name in ANSWER_HAS if name in plain][:1]
    if not names:
        return value
    names += filter(holds_answers, plain)
    lists = [held if isinstance(held, list) else [held] for held in map(plain.get, names) if held is not None]
    return [text for held in lists for text in held]


def list_in(text: str) -> list[str] | None:
    """Return the texts of a list that JSON, Python or NumPy (no commas) wrote as one text; None if it is no list.

    A list of bare numbers is none: it may be one answer, as HLE's [11,19,22] is. A separator makes a list too.
    """
    if SPLIT in text:
        return separated(text)
    text = text.strip()
    if '"' not in text and "'" not in text:
        return None
    if not (text.startswith("[") and text.endswith("]")) or len(text) > limits.MOST_QUESTION_CHARS:
        return None
    try:
        found = json_text.parse(text, parse_float=str, parse_int=str)  # as they are written: 1.10 is no 1.1
        return found if found and all(isinstance(one, str) for one in found) else None
    except ValueError:
        return _quoted_in(text[1:-1])


def separated(text: str) -> list[str]:
    """Return the answers that a separator stands between, as in the 3,197 questions of DeepResearcher."""
    if SPLIT not in text:
        return [text]
    return [part for part in map(str.strip, text.split(SPLIT)) if part] or [text]


def as_text(value: Any) -> Any:
    """Return a number as text and a bool as "yes" or "no"; any other value as it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, int | float) else value


def _plain(name: str) -> str:
    return JOINTS.sub("", name).casefold()


def _truth(value: Any) -> bool | None:
    """Return the truth value of a number or word as tables write it ("yes", 0); None if it is neither."""
    text = str(value).strip().casefold() if isinstance(value, str | int | float) else ""
    try:
        number = float(TRUTH.get(text, text))
    except ValueError:
        return None
    return None if math.isnan(number) else number != 0


def _quoted_in(text: str) -> list[str] | None:
    """Return the quoted texts between blanks and commas, in linear time; None if anything else stands between them."""
    found, at = [], 0
    while at < len(text):
        if text[at] in ", \n":
            at += 1
            continue
        one = QUOTED.match(text, at)
        if one is None:
            return None
        try:
            found.append(ast.literal_eval(one[0]))
        except (SyntaxError, ValueError):  # a line's end within quotes, a backslash before what is no escape
            return None
        at = one.end()
    return found or None
