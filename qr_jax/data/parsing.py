"""One row of a file -> a query or a passage; what is wrong with it is said by column."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from qr_jax.answers import check_answers, normalise
from qr_jax.data import carried, formats, limits
from qr_jax.data.answer_columns import (
    Unanswerable,
    as_text,
    beside,
    check_answerable,
    holds_answers,
    in_objects,
    list_in,
    says_none,
    separated,
)
from qr_jax.data.formats import show
from qr_jax.errors import UserError
from qr_jax.records import Passage, Query
from qr_jax.settings.settings import names

Row = Mapping[str, Any]
ANSWERS = ("answers", "golden_answers", "answer")
OTHER_SCHEMAS = {  # column -> where other systems keep what is missing
    "id": ("_id", "qid", "query_id", "question_id", "questionid", "docid", "doc_id", "passage_id", "pid"),
    "question": ("prompt", "query", "input", "problem", "messages", "q"),
    "answers": (
        "reward_model",
        "ground_truth",
        "golden_answer",
        "gold",
        "golds",
        "label",
        "target",
        "info",
        "completion",
        "a",
        "possible_answers",
        "answer_aliases",
        "short_answers",
    ),
    "text": ("passage", "content", "body", "document"),
}

OR_CONVERT = "; or let `qr-jax data convert FILE NEW`"


def query_of(row: Row) -> Query:
    """Make a query of a row of questions, a peer's too (formats.py).

    Columns of further accepted answers (answer_columns.py) become golds. ValueError: what column is missing or
    wrong, and what looks right; Unanswerable: the row says that there is no answer.
    """
    row = formats.ours(row)
    check_answerable(row)
    column = next((name for name in ANSWERS if name in row), None)
    if column is None:
        raise UserError(missing("answers", row, f"none of {', '.join(ANSWERS)}"))
    answers = texts(row, column, most_chars=limits.MOST_QUESTION_CHARS)
    answers = accepted(answers, row)
    entities = texts(row, "entities") if "entities" in row else ()
    used = {"id", "question", "entities", column, *filter(holds_answers, row)}
    meta = {name: value for name, value in row.items() if name not in used} | gold(row)
    for name in ("dataset", "kind", "hops", "type"):  # a table each of an evaluation
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


def accepted(answers: Iterable[str], row: Row) -> tuple[str, ...]:
    """Return the answers and those beside them, each once, taken apart at separators (answer_columns.py).

    Answers that say that there is none are left out; Unanswerable where there is no other.
    """
    found = dict.fromkeys(part for answer in (*answers, *also_answers(row)) for part in separated(answer))
    kept = tuple(answer for answer in found if not says_none(answer))
    if found and not kept:
        raise Unanswerable(f"has no answer, as its answer says: {show(next(iter(found)))}")
    return kept


def also_answers(row: Row) -> list[str]:
    """Gather the accepted answers that stand beside the answer; ValueError names a column that holds anything else."""
    found = []
    for name, held in beside(row):
        if not holds_answers(name) or not held:
            continue
        values = (list_in(held) or [held]) if isinstance(held, str) else in_objects(held)
        if not isinstance(values, list):
            wanted = "accepted answers, a text or a list of texts (of anything else give the column another name)"
            raise UserError(f"{name!r} must hold {wanted}, and is {show(values)}")
        for at, value in enumerate(map(as_text, values), 1):
            found.append(one_text(value, f"item {at} of {name!r}", True, limits.MOST_QUESTION_CHARS))
    return found


def gold(row: Row) -> dict[str, Any]:
    """Gather the columns that name a question's gold passages, each a list of texts.

    Where there are none, `supporting_titles` are those that official files mark (carried.py).
    """
    found: dict[str, Any] = {}
    for name in ("supporting", "supporting_titles"):
        if row.get(name):
            found[name] = list(texts(row, name, most_chars=limits.MOST_QUESTION_CHARS))
    facts = row.get("supporting_facts")
    if isinstance(facts, Mapping) and facts.get("title"):
        name = "supporting_facts.title"
        titles = list(texts({name: facts["title"]}, name, most_chars=limits.MOST_QUESTION_CHARS))
        found["supporting_facts"] = {**facts, "title": titles}
    if not {"supporting", "supporting_titles"} & found.keys() and (marked := carried.gold_titles(row)):
        found["supporting_titles"] = marked
    return found


def passage_of(row: Row) -> Passage:
    """One row of a corpus. The first line of `contents` is the title, its quotes taken off, when a text follows it."""
    if "text" in row:
        return Passage(identity(row), text(row, "title", empty=True) if "title" in row else "", text(row, "text"))
    if "contents" not in row:
        raise UserError(missing("text", row, "neither 'text' nor 'contents'"))
    contents = text(row, "contents")
    title, _, body = contents.partition("\n")
    if not body.strip():
        return Passage(identity(row), "", contents)
    quoted = len(title) > 1 and title[0] == title[-1] == '"'
    return Passage(identity(row), title[1:-1] if quoted else title, body)


def identity(row: Row) -> str:
    """The row's id as a text; whole numbers are taken too."""
    if isinstance(row.get("id"), int) and not isinstance(row["id"], bool):
        return one_text(str(row["id"]), "'id'", most_chars=limits.MOST_ID_CHARS)
    return text(row, "id", most_chars=limits.MOST_ID_CHARS)


def text(row: Row, column: str, *, empty: bool = False, most_chars: int = limits.MOST_TEXT_CHARS) -> str:
    """A column that must hold text, not blank unless `empty`, of at most so many characters."""
    if column not in row:
        raise UserError(missing(column, row, f"no {column!r}"))
    return one_text(row[column], repr(column), empty, most_chars)


def texts(row: Row, column: str, *, most_chars: int = limits.MOST_TEXT_CHARS) -> tuple[str, ...]:
    """A column that must hold a text or a list of one or more texts (none is allowed for entities)."""
    value = [row[column]] if isinstance(row[column], str) else row[column]
    items = value if isinstance(value, list) else [value]
    is_taken = isinstance(value, dict) or all(isinstance(one, str | int | float) for one in items)
    todo = "; `qr-jax data convert FILE NEW` takes numbers, true and false, and SQuAD's answers" * (
        is_taken and column in ANSWERS
    )
    if not isinstance(value, list):
        raise UserError(f"{column!r} must be a text or a list of texts, and is {show(value)}{todo}")
    if not value and column != "entities":
        raise UserError(f"{column!r} is an empty list; a question needs at least one answer")
    if wrong := next((at for at, one in enumerate(value, 1) if not isinstance(one, str)), None):
        raise UserError(f"item {wrong} of {column!r} must be a text, and is {show(value[wrong - 1])}{todo}")
    named = ((one, f"item {at} of {column!r}") for at, one in enumerate(value, 1))
    return tuple(one_text(one, name, most_chars=most_chars) for one, name in named)


def one_text(value: Any, name: str, empty: bool = False, most_chars: int = limits.MOST_TEXT_CHARS) -> str:
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


def missing(column: str, row: Row, what: str) -> str:
    """'row has no ...; fields found: ...', with the column of another system's schema that looks right."""
    similar = [name for name in OTHER_SCHEMAS.get(column, ()) if name in row]
    similar += difflib.get_close_matches(column, map(str, row), 1)
    kind = " (a text or a list of texts)" if column == "answers" else ""
    hint = f"; {similar[0]!r} looks like it: rename it to {column!r}{kind}" if similar else ""
    asks = {"question", *OTHER_SCHEMAS["question"]}.intersection(row)
    if column == "answers" and not asks and {"text", "contents", *OTHER_SCHEMAS["text"]}.intersection(row):
        hint = "; these look like passages, which `qr-jax index` and data.corpus take"
        if not {"text", "contents"}.intersection(row):
            other = next(name for name in OTHER_SCHEMAS["text"] if name in row)
            hint += f" once {other!r} is named 'text': rename it{OR_CONVERT} do so"
    elif column == "id" or similar:
        hint += f"{OR_CONVERT} {'do so' if similar else 'name each row'}"
    return f"has {what}; fields found: {names(row)}{hint}"
