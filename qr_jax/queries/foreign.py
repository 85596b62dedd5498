"""Files of rows as other programs keep them -> questions or passages: tables, JSON of other shapes, other encodings.

What a run reads is JSON lines and Parquet (readers.py). All else is written anew once, by `qr-jax data convert`, which
says what it took the file for, so that nothing is guessed in silence.
"""

import ast
import codecs
import csv
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qr_jax.queries import formats, limits, parsing, readers, text_files
from qr_jax.queries.parsing import ANSWERS, OTHER_SCHEMAS, Row
from qr_jax.records import Passage, Query
from qr_jax.settings import names

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
ASKS = ("question", *(name for name in OTHER_SCHEMAS["question"] if name != "input"))
KNOWN = {*OTHER_SCHEMAS, *ANSWERS, "title", "contents", *(name for names in OTHER_SCHEMAS.values() for name in names)}
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
NUMBERED = re.compile(r"(answers?|golds?)[ _-]?\d+", re.IGNORECASE)  # columns of one answer each
NEEDED = KNOWN - {"id", "title", *OTHER_SCHEMAS["id"]}
NAMES = "(question, answers, id; or text, title, id; and names that other systems give them)"
SHOWN = 10  # rows that cannot be read
LISTS = (*ANSWERS, "entities", "supporting", "supporting_titles")


def read(file: Path, encoding: str | None = None) -> tuple[list[Query] | list[Passage], list[str]]:
    """The file's questions or passages, and a line for each thing that was taken for something else.

    Rows that stand there twice, entire, are taken once. A file of plain text, or a folder of such files, holds
    passages. ValueError names the rows that cannot be read, the first SHOWN of them.
    """
    said: Counter[str] = Counter()
    if file.is_dir():
        return [
            passage for path in text_files.under(file)
            for passage in _of_text(path, _text(path, encoding, said), str(path.relative_to(file)), said)
        ], _told(said)  # fmt: skip
    again: Counter[str] = Counter()  # how often an id that was made here stood already
    found: dict[str, tuple[int, Any]] = {}
    refused: list[tuple[int, str]] = []
    wrong: dict[int, str] = {}  # by row, and of those past SHOWN the number alone
    rows = readers.rows(file) if file.suffix == ".parquet" else _rows(file, encoding, said)
    for where, row in rows:
        try:
            item, is_made = _item(row, said)
        except ValueError as error:
            what = str(error).partition(parsing.OR_CONVERT)[0]  # which is what runs
            wrong[where] = what if len(wrong) < SHOWN else ""
            continue
        refused += [(where, answer) for answer in getattr(item, "meta", {}).get("refused_answers", ())]
        name = item.id
        first, other = found.setdefault(name, (where, item))
        while is_made and other != replace(item, id=other.id):  # another question of the same text
            again[name] += 1
            item = replace(item, id=f"{name}-{again[name] + 1}")
            first, other = found.setdefault(item.id, (where, item))
        if other != item:
            wrong[where] = f"id {name!r} stands in row {first} too; {readers.UNIQUE}"
        said["rows that stand there twice, taken once"] += other is not item
    if wrong:
        shown = [f"row {where}: {what}" for where, what in wrong.items()][:SHOWN]
        count = f"has {len(wrong)} rows that cannot be read{', first:' if len(wrong) > SHOWN else ':'}\n  "
        raise ValueError(f"{file.name} {count if len(wrong) > 1 else ''}" + "\n  ".join(shown))
    if not found:
        raise ValueError(f"{file.name} has no rows")
    if refused:
        where, answer = refused[0]
        said[f"answers that normalise to nothing, left out (the first: {answer[:40]!r} in row {where})"] = len(refused)
    items = [item for _, item in found.values()]
    if len({type(item) for item in items}) > 1:
        of = next(where for where, item in found.values() if type(item) is not type(items[0]))
        raise ValueError(f"{file.name} holds questions and passages (row {of} is the first of the others); part them")
    return items, _told(said)


def _told(said: Counter[str]) -> list[str]:
    return [f"{what}: {count}" if count > 0 else what for what, count in said.items() if count]


def _item(row: Row, said: Counter[str]) -> tuple[Query | Passage, bool]:
    """What the row holds, and whether its id was made here."""
    cells = {str(name).strip().lstrip("\ufeff"): value for name, value in row.items()}
    named = {name: value for name, value in cells.items() if name and value is not None}  # "" is pandas' index
    form = formats.schema(named)
    if form not in ("qr_jax", "qr_jax corpus"):
        return parsing.passage_of(named) if form.endswith("corpus") else parsing.query_of(named), False
    asks = any(name.lower() in ASKS for name in cells)
    for column in ("id", "question", "answers") if asks else ("id", "title", "text"):
        wanted = ANSWERS if column == "answers" else (column,)
        if not any(name in named for name in wanted):
            others = (*wanted, *OTHER_SCHEMAS.get(column, ()))
            other = next((name for name in named if name.lower() in others), None)
            if other is not None:
                said[f"rows whose {other!r} is {column!r} here"] += 1
                named = {column if name == other else name: value for name, value in named.items()}
    numbered = [name for name in named if NUMBERED.fullmatch(name)]
    if asks and numbered and not any(name in named for name in (*ANSWERS, *OTHER_SCHEMAS["answers"])):
        said[f"rows whose {', '.join(map(repr, numbered))} are 'answers' here"] += 1
        named["answers"] = [named.pop(name) for name in numbered]
    elif asks and numbered and isinstance(first := named.get(column := _answers(named)), str):
        said[f"rows whose {', '.join(map(repr, numbered))} are further answers here"] += 1
        named[column] = [*(list_in(first) or [first]), *map(named.pop, numbered)]
    for column in LISTS:
        if column in named and asks:
            named[column] = _texts(named[column], column, said)
    needed = (("question",), ANSWERS) if asks else (("text", "contents"),)
    lacking = [names for names in needed if not any(name in named for name in names)]
    empty = [name for name in cells if cells[name] is None and (name.lower() in NEEDED or NUMBERED.fullmatch(name))]
    if lacking and empty:
        raise ValueError(f"nothing stands in {', '.join(map(repr, empty))}; fill it in, or take the row out")
    text = named.get("question" if asks else "text")
    if asks and ANSWERS in lacking:
        raise ValueError(parsing.missing("answers", named, f"none of {', '.join(ANSWERS)}"))
    if not asks and text is None:
        raise ValueError(f"is neither a question nor a passage; fields found: {names(named)}; rename them {NAMES}")
    dropped = [repr(name) for name in named if not asks and name not in ("id", "title", "text", "contents")]
    if dropped:
        columns = ", ".join(dropped)
        said[f"rows whose {columns} a passage does not keep (a column that is searched: title)"] += 1
    is_made = False
    if "id" not in named and isinstance(text, str):
        is_made = True
        said["rows without an id, named by a hash of their text"] += 1
        named["id"] = formats.hash_of(text if asks else f"{named.get('title', '')}\n{text}")
    return parsing.query_of(named) if asks else parsing.passage_of(named), is_made


def _answers(row: Row) -> str:
    return next((name for name in ANSWERS if name in row), "")


def _texts(value: Any, column: str, said: Counter[str]) -> Any:
    """SQuAD's answers, a list that was written as a text, and numbers, as texts."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        said[f"rows with SQuAD's form of {column!r}"] += 1
        value = value["text"]
        value = list(dict.fromkeys(value)) if all(map(_is_text_or_number, value)) else value
    if isinstance(value, str):
        listed = list_in(value)
        said[f"rows whose {column!r} were a list written as a text"] += listed is not None
        said[f'rows whose {column!r} hold | or ;, left as one text (several are a list: ["a", "b"])'] += (
            listed is None and any(mark in value for mark in "|;")
        )
        return listed or value
    values = value if isinstance(value, list) else [value]
    if not any(_is_text_or_number(one) and not isinstance(one, str) for one in values):
        return value
    said[f"rows with numbers as {column!r}, taken as texts"] += 1
    return [str(one) if _is_text_or_number(one) else one for one in values]


def list_in(text: str) -> list[str] | None:
    """The texts of a list that JSON, Python or NumPy (which writes no commas) wrote as one text; None: it is none."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")) or len(text) > limits.MOST_QUESTION_CHARS:
        return None
    try:
        found = json.loads(text, parse_float=Spelled)
        return [str(one) for one in found] if found and all(map(_is_text_or_number, found)) else None
    except (ValueError, RecursionError):
        return _quoted_in(text[1:-1])


def _quoted_in(text: str) -> list[str] | None:
    """The quoted texts between blanks and commas; None where anything else stands there: in time linear in the text."""
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


def _is_text_or_number(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


class Spelled(float):
    """A number of JSON that knows how it was written: 1.10 is no 1.1 where it is an answer."""

    text: str

    def __new__(cls, text: str) -> "Spelled":
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __str__(self) -> str:
        return self.text


def _rows(file: Path, encoding: str | None, said: Counter[str]) -> Iterator[tuple[int, Row]]:
    text = _text(file, encoding, said)
    if not text.strip():
        raise ValueError(f"{file.name} is empty")
    ends = Path(file.name.removesuffix(".gz")).suffix
    if text.lstrip()[:1] in ("{", "[") and ends not in readers.TABLE_ENDS:
        return enumerate(_of_json(file, text), 1)
    if ends in text_files.ENDS and not _is_head(text.lstrip().partition("\n")[0][:10_000], file):
        made = _of_text(file, text, file.name, said)
        return enumerate(({"id": one.id, "title": one.title, "text": one.text} for one in made), 1)
    return _of_table(file, text, said)


def _of_text(file: Path, text: str, name: str, said: Counter[str]) -> list[Passage]:
    """A file's passages; its title is its name."""
    made = text_files.passages(text, name=name, title=file.stem.replace("_", " "))
    most = f"of at most {text_files.PASSAGE_WORDS} words"
    said[f"files of plain text, cut at paragraphs into passages {most}, the file's name their title"] += 1
    said["files without a word, left out"] += not made
    return made


def _text(file: Path, encoding: str | None, said: Counter[str]) -> str:
    most = limits.most_bytes(file)
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as opened:
        held = opened.read(most + 1)
    readers.check_text_begins(file, held)
    taken = len(held) + limits.ITEM_BYTES * sum(map(held.count, (b",", b"[", b"{", b"\n", b";", b"\t", b"|")))
    limits.check_unpacked(file, taken, most, "in all")
    is_utf_16 = held.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for name in (encoding,) if encoding else ("utf-16",) if is_utf_16 else ("utf-8-sig", "cp1252"):
        try:
            text = held.decode(name)
        except LookupError as error:
            raise ValueError(f"there is no encoding {name!r}; wanted a name such as latin-1, gbk, shift_jis") from error
        except UnicodeDecodeError as error:
            wrong = f"byte {held[error.start]:#04x} at place {error.start + 1}"
            continue
        if "\0" in text:
            raise ValueError(f"{file.name} is no text: it holds NUL characters")
        if name == "cp1252" and not any("Windows-1252" in note for note in said):
            other = "--encoding NAME reads them as another"
            said[f"{file.name} is no UTF-8: such files are read as Windows-1252; {other}"] = -1
        return text
    todo = "name its encoding: --encoding gbk, say" if not encoding else "name another"
    raise ValueError(f"{file.name} is no text in {encoding or 'UTF-8 or Windows-1252'} ({wrong}); {todo}")


def _of_json(file: Path, text: str) -> Iterator[Row]:
    """The rows of one JSON value, or of several one after the other, on whatever lines."""
    decoder, at = json.JSONDecoder(parse_float=Spelled, object_pairs_hook=_object), 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, getattr(error, "pos", at)) + 1
            raise ValueError(f"{file.name} line {line}: no JSON ({error})") from error
        yield from _in_value(file, value)


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(members)
    if len(made) < len(members):
        raise ValueError(f"an object has more than one {_twice(name for name, _ in members)!r}")
    return made


def _twice(names: Iterable[str]) -> str | None:
    """The first of the names that stands there more than once, and is one."""
    return next((name[:100] for name, count in Counter(names).items() if name and count > 1), None)


def _in_value(file: Path, value: Any) -> Iterable[Row]:
    """A value's rows: itself, a list of them, one of its members, members by id, or columns."""
    if isinstance(value, list):
        return _objects(file, value)
    if not isinstance(value, dict):
        raise ValueError(f"{file.name}: rows are wanted, and this is {formats.show(value)}")
    names = {str(name).strip().lower() for name in value}
    columns = [held for name, held in value.items() if name.strip().lower() in KNOWN]
    if columns and len(columns) == len(value) and all(isinstance(held, dict) for held in columns):  # pandas' to_json
        found: dict[str, dict[str, Any]] = {}
        for name, cells in value.items():
            for place, cell in cells.items():
                found.setdefault(place, {})[name] = cell
        return list(found.values())
    if {*ASKS} & names and all(isinstance(held, list) for held in value.values()):
        lengths = {name: len(held) for name, held in value.items()}
        if len({*lengths.values()}) > 1:
            raise ValueError(f"{file.name} has columns of unlike length: {lengths}")
        return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
    if names & KNOWN - {"title", "q", "a"} or {"q", "a"} <= names:
        return [value]
    lists = [held for held in value.values() if isinstance(held, list) and held and isinstance(held[0], dict)]
    if len(lists) == 1:
        return _objects(file, lists[0])
    if value and all(isinstance(held, dict) for held in value.values()):
        return [{"id": name} | held for name, held in value.items()]
    if len(lists) > 1:
        todo = "put each list into a file of its own"
        raise ValueError(f"{file.name} holds {len(lists)} lists of rows, in {', '.join(list(value)[:8])}; {todo}")
    wanted = f"wanted a list of objects, or one object an id {NAMES}"
    raise ValueError(f"{file.name} is one JSON object with {', '.join(list(value)[:8])}, which are no rows; {wanted}")


def _objects(file: Path, rows: list[Any]) -> list[dict[str, Any]]:
    for row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{file.name}: a list of objects is wanted, and it holds {formats.show(row)}")
    return rows


def _separator(head: str, file: Path) -> str:
    """What parts the first line into most columns."""
    marks = sorted(SEPARATORS, key=lambda mark: (mark != "\t") == (file.suffix == ".tsv"))  # which wins a draw
    return max(marks, key=lambda mark: len(next(csv.reader([head], delimiter=mark), [])))


def _is_head(line: str, file: Path) -> bool:
    """Whether the line names two columns that are known: prose may begin with one of their names."""
    try:
        cells = next(csv.reader([line], delimiter=_separator(line, file)), [])
    except csv.Error:
        return False
    return len({cell.strip().lower() for cell in cells} & KNOWN) > 1


def _of_table(file: Path, text: str, said: Counter[str]) -> Iterator[tuple[int, Row]]:
    """The rows by line."""
    lines = io.StringIO(text, newline="")  # str.splitlines would cut at U+2028 too
    head = next((line for line in lines if line.strip()), "")
    lines.seek(0)
    before = csv.field_size_limit(limits.MOST_TEXT_CHARS)
    table = None
    try:
        mark = _separator(head, file)
        table = csv.reader(lines, delimiter=mark, skipinitialspace=True, strict=True)
        names = [name.strip() for name in next((row for row in table if any(row)), [])]
        if not {name.lower() for name in names} & KNOWN:
            wanted = " or ".join(mark.join(some) for some in (("id", "question", "answers"), ("id", "title", "text")))
            wanted = f"a first line of names, such as {wanted}"
            raise ValueError(f"{file.name}: its first line is {head.strip()[:100]!r}; wanted {wanted}")
        if twice := _twice(names):
            raise ValueError(f"{file.name}: more than one column is named {twice!r}; rename all but one")
        said[f"read as a table with {SEPARATORS[mark]} between the columns {', '.join(filter(None, names))}"] = -1
        for cells in table:
            if not any(map(str.strip, cells)):
                continue
            if len(cells) > len(names) and any(cells[len(names) :]):
                todo = f'a text that holds {mark!r} stands in quotes: "..."'
                raise ValueError(f"{file.name} line {table.line_num}: {len(cells)} cells, {len(names)} columns; {todo}")
            row = {name: cell if cell.strip() else None for name, cell in zip(names, cells, strict=False) if name}
            yield table.line_num, row
    except csv.Error as error:
        place = f"{file.name} line {table.line_num if table else 1}"
        todo = "a cell that begins with a quote ends with one, and a quote within it is written twice"
        raise ValueError(f"{place}: no row of a table ({error}); {todo}") from error
    finally:
        csv.field_size_limit(before)
