"""Convert questions and passages of other programs to our rows: other column names and shapes, official files.

A run reads JSON lines and Parquet alone (readers.py). Everything else is converted once by `qr-jax data convert`, which
prints how it read each column, so that no guess is silent."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from qr_jax.answers import normalise
from qr_jax.data import parsing, readers
from qr_jax.data.parsing import ANSWERS, Row, Unanswerable, show
from qr_jax.errors import UserError
from qr_jax.records import Passage, Query
from qr_jax.sets import carried, foreign_rows, formats, inputs
from qr_jax.sets.answer_columns import NOT_TAKEN, as_text, check_answerable, in_objects, list_in, not_taken
from qr_jax.sets.columns import Columns, listed
from qr_jax.sets.foreign_rows import ASKS, KNOWN
from qr_jax.sets.formats import OTHER_SCHEMAS
from qr_jax.sets.inputs import Input
from qr_jax.settings.settings import names

NUMBERED = re.compile(r"(answers?|golds?)[ _-]?\d+", re.IGNORECASE)  # columns of one answer each
NEEDED = KNOWN - {"id", "title", *OTHER_SCHEMAS["id"], *OTHER_SCHEMAS["title"]}
NO_COLUMNS = Columns()
SHOWN = 10  # kinds of unreadable rows that are shown
OWN_ADVICE = re.compile(r"; (or )?`qr-jax data convert FILE NEW.*", re.DOTALL)  # to do what is being done
ALIKE = re.compile(r"'[^']*'|\"[^\"]*\"|\d+|, and is .*|fields found: [^;]*")  # in which errors of one kind differ
LISTS = (*ANSWERS, "entities", "supporting", "supporting_titles")
PAGES = ("entity_pages", "search_results", "EntityPages", "SearchResults")  # TriviaQA's, up to a million characters


UNSCORABLE = "questions whose only answer normalises to nothing (A alone), left out: exact match cannot score it"


class Unscorable(UserError):
    """A question whose only answer normalises to nothing, as HLE's "A" does."""


class Converted(NamedTuple):
    """Questions or passages, a line for each conversion that was made, and the passages found beside questions."""

    items: list[Query] | list[Passage]
    said: list[str]
    corpus: list[Passage]


def read(
    words: str | Path | Sequence[str | Path],
    encoding: str | None = None,
    *,
    skip_broken: bool = False,
    columns: Columns = NO_COLUMNS,
) -> Converted:
    """Read the questions or passages in the files that `words` name (inputs.py), and the passages inside question rows.

    Identical rows are taken once. Questions whose row says that they have no answer are left out, and those of HLE
    whose only answer normalises to nothing. A file of text or HTML holds passages. With `skip_broken`, unreadable
    rows are counted and left out; otherwise a ValueError names the first row of each kind of error, and counts them.
    """
    words = [words] if isinstance(words, str | Path) else words
    files, left_out = inputs.find(words)
    said: Counter[str] = Counter(dict.fromkeys(left_out, -1))
    found: dict[str, tuple[str, Any]] = {}
    corpus: dict[str, Passage] = {}
    refused: list[tuple[str, str]] = []
    wrong: list[tuple[str, str]] = []
    made: dict[str, dict[str, str]] = {}  # by an id that was made of a text, the ids of the items with that text
    for where, row in _all_rows(files, encoding, said, columns.first):
        try:
            if isinstance(row, ValueError):
                raise row
            item, is_made, beside = _item(columns.of(row) if columns else row, said)
        except Unscorable:
            said[UNSCORABLE] += 1
            continue
        except Unanswerable:
            said["questions left out, whose rows say that they have no answer"] += 1
            continue
        except ValueError as error:
            wrong.append((where, OWN_ADVICE.sub("", str(error))))
            continue
        corpus |= {passage.id: passage for passage in beside if passage.id not in corpus}
        refused += [(where, answer) for answer in getattr(item, "meta", {}).get("refused_answers", ())]
        for name in not_taken(getattr(item, "meta", {})):
            said[f"rows whose {NOT_TAKEN.format(name=name)}"] += 1
        if is_made:
            item = replace(item, id=_free_id(item, made.setdefault(item.id, {}), found))
        first, other = found.setdefault(item.id, (where, item))
        if other != item:
            wrong.append((where, f"id {item.id!r} stands in {first} too; {readers.UNIQUE}"))
        said["rows that stand there twice, taken once"] += other == item and other is not item
    shown = files[0].name if len(files) == 1 else " ".join(map(str, words))
    if wrong and (not skip_broken or not found):
        todo = "; --skip-broken leaves such rows out" * bool(found)
        raise UserError(_broken(shown, wrong, len(files)) + todo)
    if wrong:
        _tell_left_out(wrong, said)
    if not found:
        raise UserError(f"{shown} has no rows{''.join(f' ({line})' for line in _told(said))}")
    if refused:
        where, answer = refused[0]
        said[f"answers that normalise to nothing, left out (the first: {answer[:40]!r} in {where})"] = len(refused)
    return Converted(_of_one_kind(found, shown), _told(said), list(corpus.values()))


def _free_id(item: Query | Passage, known: dict[str, str], found: Mapping[str, tuple[str, Any]]) -> str:
    """Return the id of an item whose id was made here: that of an equal one, else its own, numbered if it is taken."""
    content, number, name = repr(item), len(known) + 1, item.id
    if content not in known:
        free = name if number == 1 else f"{name}-{number}"
        while free in found and found[free][1] != replace(item, id=free):
            number += 1
            free = f"{name}-{number}"
        known[content] = free
    return known[content]


def _tell_left_out(wrong: Sequence[tuple[str, str]], said: Counter[str]) -> None:
    """Count the broken rows, and list the first of them."""
    first, *more = (f"{where}: {what}" for where, what in wrong)
    if more:
        said[f"broken rows, the second and on:{listed(more)}"] = -1
    said[f"rows that cannot be read, left out (the first: {first})"] = len(wrong)


def _of_one_kind(found: Mapping[str, tuple[str, Any]], shown: str) -> list[Any]:
    items = [item for _, item in found.values()]
    if len({type(item) for item in items}) > 1:
        of = next(where for where, item in found.values() if type(item) is not type(items[0]))
        raise UserError(f"{shown} holds questions and passages ({of} is the first of the others); part them")
    return items


def _all_rows(
    files: Sequence[Input], encoding: str | None, said: Counter[str], also: Collection[str]
) -> Iterator[tuple[str, Row | ValueError]]:
    """Yield the rows of all files, each with its place. An unreadable document counts as one unreadable row."""
    for one in files:
        try:
            for number, row in foreign_rows.read(one, encoding, said, also):
                yield f"{f'{one.name} ' * (len(files) > 1)}row {number}", row
        except ValueError as error:
            if not one.is_document:
                raise
            yield one.name, error


def _broken(shown: str, wrong: Sequence[tuple[str, str]], files: int) -> str:
    """Format the unreadable rows: the first of each kind of error, and how many differ from it in values alone."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for where, what in wrong:
        kinds.setdefault(ALIKE.sub("", what), []).append((where, what))
    lines = [
        f"{rows[0][0]}: {rows[0][1]}" + f" (and {len(rows) - 1:,} rows alike, to {rows[-1][0]})" * (len(rows) > 1)
        for rows in list(kinds.values())[:SHOWN]
    ]
    lines += [f"and {len(kinds) - SHOWN} more kinds"] * (len(kinds) > SHOWN)
    has = f"has {len(wrong):,} rows that cannot be read:"
    return "\n  ".join([f"{shown} {has}", *lines] if len(kinds) > 1 else [f"{shown} " * (files == 1) + lines[0]])


def _told(said: Counter[str]) -> list[str]:
    return [f"{what}: {count}" if count > 0 else what for what, count in said.items() if count]


def _item(row: Row, said: Counter[str]) -> tuple[Query | Passage, bool, list[Passage]]:
    """Make the row's question or passage; return it, whether its id was made here, and the passages in its row."""
    cells = {str(name).strip().lstrip("\ufeff"): value for name, value in row.items()}
    empty = {name for name, value in cells.items() if value is None or value != value}  # null, or pandas' NaN
    named = {name: value for name, value in cells.items() if name and name not in empty}  # "" is pandas' index
    form = formats.schema(named)
    if form not in ("qr_jax", "qr_jax corpus"):
        if form.endswith("corpus"):
            return parsing.passage_of(named), False, []
        return _of_another_system(named, form, said)
    asks = any(name.lower() in ASKS for name in cells)
    named, beside = _parted(named, said) if asks else (named, [])
    for column in ("id", "question", "answers") if asks else ("id", "title", "text"):
        named = _renamed(named, column, ANSWERS if column == "answers" else (column,), said)
    numbered = [name for name in named if NUMBERED.fullmatch(name)]
    if asks and numbered and not any(name in named for name in (*ANSWERS, *OTHER_SCHEMAS["answers"])):
        said[f"rows whose {', '.join(map(repr, numbered))} are 'answers' here"] += 1
        named["answers"] = [named.pop(name) for name in numbered]
    elif asks and numbered and isinstance(first := named.get(column := _answers(named)), str):
        said[f"rows whose {', '.join(map(repr, numbered))} are further answers here"] += 1
        named[column] = [*(list_in(first) or [first]), *map(named.pop, numbered)]
    check_answerable(named)
    for column in named:
        if asks and column in LISTS:
            named[column] = _texts(named[column], column, said)
    if asks and named.get("answer_type") == "multipleChoice":
        named = _with_choice(named, said)
    only = named.get(_answers(named)) if asks and "answer_type" in named else None
    if isinstance(only, str) and only.strip() and not normalise(only):
        raise Unscorable(f"has the answer {only[:40]!r} alone, of which normalising leaves nothing")
    needed = (("question",), ANSWERS) if asks else (("text", "contents"),)
    lacking = [names for names in needed if not any(name in named for name in names)]
    blank = [name for name in cells if name in empty and (name.lower() in NEEDED or NUMBERED.fullmatch(name))]
    if lacking and blank:
        raise UserError(f"nothing stands in {', '.join(map(repr, blank))}; fill it in, or take the row out")
    text = named.get("question" if asks else "text")
    if asks and ANSWERS in lacking:
        raise UserError(parsing.missing("answers", named, f"none of {', '.join(ANSWERS)}"))
    if not asks and text is None:
        todo = f"rename them {foreign_rows.NAMES}, or say which is which: --map question=COLUMN answers=COLUMN"
        raise UserError(f"is neither a question nor a passage; fields found: {names(named)}; {todo}")
    dropped = [repr(name) for name in named if not asks and name not in ("id", "title", "text", "contents")]
    if dropped:
        columns = ", ".join(dropped)
        said[f"rows whose {columns} is left out: a passage has id, title and text (--map title=COLUMN keeps one)"] += 1
    is_made = False
    if "id" not in named and isinstance(text, str):
        is_made = True
        said["rows without an id, named by a hash of their text"] += 1
        named["id"] = formats.hash_of(text if asks else f"{named.get('title', '')}\n{text}")
    return parsing.query_of(named) if asks else parsing.passage_of(named), is_made, beside


def _of_another_system(row: Row, form: str, said: Counter[str]) -> tuple[Query, bool, list[Passage]]:
    """Make the question of a row of FlashRAG, verl, SkyRL or TRL; return what `_item` does."""
    if form in ("trl", "flashrag"):
        row = _renamed(dict(row), "id", ("id",), said)
        said["rows without an id, named by a hash of their text"] += "id" not in row
    has_id = "id" in row
    named, beside = _parted(formats.ours(row), said)
    if "id" not in named:
        named["id"] = formats.hash_of(named["question"]) if isinstance(named.get("question"), str) else None
    if "answers" in named:
        named["answers"] = _texts(named["answers"], "answers", said)
    query = parsing.query_of(named)
    return query, not has_id and query.id == formats.hash_of(query.question), beside


def _renamed(row: dict[str, Any], column: str, wanted: Sequence[str], said: Counter[str]) -> dict[str, Any]:
    """Return the row with the column under its name where another system's stands in its place."""
    if any(name in row for name in wanted):
        return row
    others = (*wanted, *OTHER_SCHEMAS.get(column, ()))  # the likeliest first
    other = next((name for other in others for name in row if name.lower() == other), None)
    if other is None:
        return row
    said[f"rows whose {other!r} is {column!r} here"] += 1
    return {column if name == other else name: value for name, value in row.items()}


def _parted(row: Row, said: Counter[str]) -> tuple[dict[str, Any], list[Passage]]:
    """Split the row into the question, with its gold passages by id and title, and the passages that stood in it."""
    pairs, gold = carried.passages(row)
    rest = dict(row)
    if pages := [name for name in PAGES if rest.pop(name, None)]:
        said[f"rows whose {', '.join(map(repr, pages))} (pages of the web) are left out"] += 1
    if pairs or gold:
        rest = {name: value for name, value in rest.items() if name not in carried.COLUMNS}
        rest = carried.hops(row) | rest
    facts = rest.get("supporting_facts")
    if isinstance(facts, list) and all(isinstance(one, list) and len(one) == 2 for one in facts):
        rest["supporting_facts"] = {"title": [title for title, _ in facts], "sent_id": [at for _, at in facts]}
    lacking = [title for title, text in gold if pairs and not text.strip()]
    said["rows with a gold passage that does not stand among the passages beside the question"] += bool(lacking)
    named = {pair: formats.hash_of("\n".join(pair)) for pair in dict.fromkeys(pairs) if pair[1].strip()}
    if gold and not {"supporting", "supporting_titles"} & rest.keys():
        gold = list(dict.fromkeys(gold))
        if all(pair in named for pair in gold):
            rest["supporting"] = [named[pair] for pair in gold]
        if all(title.strip() for title, _ in gold):
            rest["supporting_titles"] = [title for title, _ in gold]
    rows = ({"id": name, "title": title, "text": text} for (title, text), name in named.items())
    return rest, [parsing.passage_of(one) for one in rows]


def _with_choice(row: dict[str, Any], said: Counter[str]) -> dict[str, Any]:
    """Return HLE's row with the chosen option's text beside its letter: an answer "A" alone normalises to nothing.

    Options stand on lines of their own, or all behind "Answer Choices:" on its line; "A. Asp", "A) Asp" or "(A) Asp".
    An option without a text adds nothing.
    """
    column = _answers(row)
    letter, question = row.get(column), row.get("question")
    if not (isinstance(letter, str) and isinstance(question, str) and re.fullmatch(r"[A-Z]", letter.strip())):
        return row
    letter = letter.strip()
    on_line = re.search(r"Answer Choices:[ \t]*(\S.*)", question, re.DOTALL)
    if on_line:
        following = rf"\(?{re.escape(chr(ord(letter) + 1))}[.):]"
        text = rf"(?!{following})(\S.*?)(?=\s+{following}|\s*\Z)"
        choice = re.search(rf"(?<!\S)\(?{letter}[.):]\s*+{text}", on_line[1], re.DOTALL)
    else:
        choice = re.search(rf"^[ \t]*\(?{letter}[.):][ \t]*(\S.*)$", question, re.MULTILINE)
    if choice is None:
        return row
    said[f"rows whose {column!r} is a choice's letter, with the choice's text as further answers"] += 1
    return row | {column: [letter, choice[0].strip(), choice[1].strip()]}


def _answers(row: Row) -> str:
    return next((name for name in ANSWERS if name in row), "")


def _texts(value: Any, column: str, said: Counter[str]) -> Any:
    """Return answers as texts: from objects (SQuAD, TriviaQA), lists written as one text, numbers and bools."""
    taken = in_objects(value)
    if taken is not value:
        said[f"rows whose {column!r} are objects, of which the texts and their aliases are taken"] += 1
        value = list(dict.fromkeys(taken)) if all(isinstance(one, str | int | float) for one in taken) else taken
    if column in ANSWERS and (value == [] or isinstance(value, str) and "".join(value.split()) == "[]"):
        raise Unanswerable(f"has no answer: {column!r} is {show(value)}")
    if isinstance(value, str):
        listed = list_in(value)
        said[f"rows whose {column!r} were a list written as a text"] += listed is not None
        said[f'rows whose {column!r} hold | or ;, left as one text (several are a list: ["a", "b"])'] += (
            listed is None and any(mark in value for mark in "|;")
        )
        said[f"rows whose {column!r} begin with [, left as one text (several are a list of texts)"] += (
            listed is None and value.lstrip().startswith("[")
        )
        return listed or value
    values = value if isinstance(value, list) else [value]
    said[f"rows with true or false as {column!r}, taken as yes and no"] += any(isinstance(one, bool) for one in values)
    texts = list(map(as_text, values))
    said[f"rows with numbers as {column!r}, taken as texts"] += any(
        isinstance(one, int | float) and not isinstance(one, bool) for one in values
    )
    return value if texts == values else texts
