"""Turn a row of a file into a query or a passage. sets/ first converts the rows of other systems."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from qr_jax import plugins
from qr_jax.answers import check_answers, normalise
from qr_jax.data import limits
from qr_jax.errors import UserError
from qr_jax.records import Passage, Query
from qr_jax.settings.settings import names

Row = Mapping[str, Any]
ANSWERS = ("answers", "golden_answers", "answer")
OURS = {"id", "question", "answers"}  # columns that each of our rows has
MAY_HAVE = OURS | {"dataset", "split", "kind", "type", "level", "hops", "entities", "relations", "phrasings"}
MAY_HAVE |= {"supporting", "supporting_titles", "supporting_is_weak", "generator", "searches"}
# An answer or a type with one of these words may say that there is no answer, or hold several.
TELLING = re.compile("answer|information|impossible", re.IGNORECASE)


class Unanswerable(UserError):
    """The row says itself that its question has no answer."""


def query_of(row: Row) -> Query:
    """Return the query of a row, also of other systems' rows (sets/formats.py).

    ValueError says which column is missing or wrong, and which looks right. Unanswerable if the row says it has none.
    """
    if _is_ours(row):
        answers = tuple(dict.fromkeys(texts(row, "answers", most_chars=limits.MOST_QUESTION_CHARS)))
    else:
        row, answers = _as_ours(row)
    entities = texts(row, "entities") if "entities" in row else ()
    meta = {name: value for name, value in row.items() if name not in OURS | {"entities"}}
    for name in ("supporting", "supporting_titles"):
        if row.get(name):
            meta[name] = list(texts(row, name, most_chars=limits.MOST_QUESTION_CHARS))
    for name in ("dataset", "kind", "hops", "type"):  # an evaluation makes a table of each
        if isinstance(meta.get(name), str):
            one_text(meta[name], repr(name), empty=True, most_chars=limits.MOST_ID_CHARS)
    hops = str(meta.get("hops"))
    if hops.isdecimal() and (len(hops) > 9 or int(hops) > limits.MOST_HOPS):
        raise UserError(f"'hops' is {show(meta['hops'])}; wanted at most {limits.MOST_HOPS:,}")
    golds = tuple(answer for answer in answers if normalise(answer))
    if golds and golds != answers:
        meta["refused_answers"] = tuple(answer for answer in answers if answer not in golds)
    question = text(row, "question", most_chars=limits.MOST_QUESTION_CHARS)
    query = Query(identity(row), question, golds or answers, entities, meta)
    check_answers(query)
    return query


def _as_ours(row: Row) -> tuple[Row, tuple[str, ...]]:
    """Return another system's row in our columns, with its answers; without qr_jax.sets only rows with our columns."""
    if formats := plugins.around("sets.formats", optional=True):
        return formats.as_ours(row)
    if lacking := sorted(OURS - row.keys()):
        raise missing(lacking[0], row, f"no {lacking[0]!r}")
    return row, texts(row, "answers", most_chars=limits.MOST_QUESTION_CHARS)


def _is_ours(row: Row) -> bool:
    """Return True for a row of our columns alone, none of which may say that there is no answer."""
    if not OURS <= row.keys() <= MAY_HAVE:
        return False
    said = [row["answers"], row.get("type"), row.get("kind")]
    return TELLING.search(" ".join(map(str, said))) is None


def passage_of(row: Row) -> Passage:
    """Make a passage of a row of a corpus.

    The first line of `contents` is the title, its quotes taken off, when a text follows it.
    """
    if "text" in row:
        return Passage(identity(row), text(row, "title", empty=True) if "title" in row else "", text(row, "text"))
    if "contents" not in row:
        raise missing("text", row, "neither 'text' nor 'contents'")
    contents = text(row, "contents")
    title, _, body = contents.partition("\n")
    if not body.strip():
        return Passage(identity(row), "", contents)
    quoted = len(title) > 1 and title[0] == title[-1] == '"'
    return Passage(identity(row), title[1:-1] if quoted else title, body)


def identity(row: Row) -> str:
    """Return the row's id as a text; whole numbers are taken too."""
    if isinstance(row.get("id"), int) and not isinstance(row["id"], bool):
        return one_text(str(row["id"]), "'id'", most_chars=limits.MOST_ID_CHARS)
    return text(row, "id", most_chars=limits.MOST_ID_CHARS)


def text(row: Row, column: str, *, empty: bool = False, most_chars: int = limits.MOST_TEXT_CHARS) -> str:
    """Return a column that must hold text, not blank unless `empty`, of at most so many characters."""
    if column not in row:
        raise missing(column, row, f"no {column!r}")
    return one_text(row[column], repr(column), empty, most_chars)


def texts(row: Row, column: str, *, most_chars: int = limits.MOST_TEXT_CHARS) -> tuple[str, ...]:
    """Return a column that must hold a text or a list of one or more texts (none is allowed for entities)."""
    value = [row[column]] if isinstance(row[column], str) else row[column]
    items: Iterable[Any] = value if isinstance(value, list) else [value]
    is_taken = isinstance(value, dict) or all(isinstance(item, str | int | float) for item in items)
    todo = "; `qr-jax data convert FILE NEW` takes numbers, true and false, and SQuAD's answers" * (
        is_taken and column in ANSWERS
    )
    if not isinstance(value, list):
        raise UserError(f"{column!r} must be a text or a list of texts, and is {show(value)}{todo}")
    if not value and column != "entities":
        raise UserError(f"{column!r} is an empty list; a question needs at least one answer")
    if wrong := next((at for at, item in enumerate(value, 1) if not isinstance(item, str)), None):
        raise UserError(f"item {wrong} of {column!r} must be a text, and is {show(value[wrong - 1])}{todo}")
    named = ((item, f"item {at} of {column!r}") for at, item in enumerate(value, 1))
    return tuple(one_text(item, name, most_chars=most_chars) for item, name in named)


def one_text(value: Any, name: str, empty: bool = False, most_chars: int = limits.MOST_TEXT_CHARS) -> str:
    """Return the value if it is a text that UTF-8 can hold; ValueError begins with `name`."""
    if not isinstance(value, str):
        raise UserError(f"{name} must be a text, and is {show(value)}")
    limits.check_text(value, most_chars, name)
    if not empty and not value.strip():
        raise UserError(f"{name} is blank")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{name} holds half of a surrogate pair at character {error.start}; it is not text") from error
    return value


def missing(column: str, row: Row, what: str) -> UserError:
    """Return the error of a row without a column, with the column that looks right."""
    formats = plugins.around("sets.formats", optional=True)
    return UserError(formats.missing(column, row, what) if formats else f"has {what}; fields found: {names(row)}")


def show(value: Any) -> str:
    """Return a row's value as errors show it: its type and the beginning of its JSON."""
    if value is None:
        return "null"
    shown = json.dumps(value, ensure_ascii=True, default=repr)  # Parquet holds bytes and dates, which are no JSON
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
