"""Files of rows as other programs keep them: tables, JSON of other shapes, other encodings, documents, Arrow."""

import codecs
import csv
import gzip
import io
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from qr_jax.data import limits
from qr_jax.data.parsing import ANSWERS, Row, show
from qr_jax.errors import UserError
from qr_jax.records import Passage
from qr_jax.sets import carried, faults, html_text, inputs, tables, text_files
from qr_jax.sets.formats import OTHER_SCHEMAS
from qr_jax.sets.inputs import Input
from qr_jax.settings import json_text

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
ASKS = ("question", *(name for name in OTHER_SCHEMAS["question"] if name != "input"))
KNOWN = {*OTHER_SCHEMAS, *ANSWERS, "contents", *(name for names in OTHER_SCHEMAS.values() for name in names)}
QUOTES = "a cell that begins with a quote ends with one, and a quote within it is written twice"
NAMES = "(question, answers, id; or text, title, id; and names that other systems give them)"


def read(
    given: Input, encoding: str | None, said: Counter[str], also: Collection[str] = ()
) -> Iterator[tuple[int, Row | ValueError]]:
    """Yield each row's number, from 1, and its object, or the ValueError of a row that cannot be read.

    A row is recognised by columns in KNOWN or `also`.
    Raises ValueError if the whole file cannot be read. The rows of a document are its passages.
    """
    file, ends = given.file, inputs.ending(given.file)
    if file.suffix == ".parquet" or ends in tables.ARROW_ENDS:
        return tables.rows(file)
    text = _text(file, encoding, said)
    if not text.strip() and not given.is_document:
        raise UserError(f"{file.name} is empty")
    is_text = given.is_document or ends in html_text.ENDS
    if text.lstrip()[:1] in ("{", "[") and not is_text and ends not in inputs.TABLE_ENDS:
        parts = _of_json(file, text, by_line=ends == ".jsonl", said=said, known=_known(also))
        rows = (row for part in parts for row in ([part] if isinstance(part, ValueError) else carried.questions(part)))
        return enumerate(rows, 1)
    if is_text or ends in text_files.ENDS and not _is_head(text.lstrip().partition("\n")[0][:10_000], file):
        made = _of_text(given, text, said)
        return enumerate(({"id": one.id, "title": one.title, "text": one.text} for one in made), 1)
    return _of_table(file, text, said, _known(also))


def _known(also: Collection[str]) -> frozenset[str]:
    return frozenset({*KNOWN, *map(str.lower, also)})


def _of_text(given: Input, text: str, said: Counter[str]) -> list[Passage]:
    """Split a document into passages, titled by the page's own title or the file's name."""
    is_html = inputs.ending(given.file) in html_text.ENDS
    title, text = html_text.read(text) if is_html else ("", text)
    made = text_files.passages(text, name=given.name, title=title or _stem(given.file).replace("_", " "))
    kind, named = ("HTML", "the page's title") if is_html else ("plain text", "the file's name")
    most = f"of at most {text_files.PASSAGE_WORDS} words"
    said[f"files of {kind}, cut at paragraphs into passages {most}, {named} their title"] += 1
    said["files without a word, left out"] += not made
    return made


def _stem(file: Path) -> str:
    return Path(file.name.removesuffix(".gz")).stem


def _text(file: Path, encoding: str | None, said: Counter[str]) -> str:
    most = limits.most_bytes(file)
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as opened:
        held = opened.read(most + 1)
    faults.check_begins(file, held)
    taken = len(held) + limits.ITEM_BYTES * sum(map(held.count, (b",", b"[", b"{", b"\n", b";", b"\t", b"|")))
    limits.check_unpacked(file, taken, most, "in all")
    is_utf_16 = held.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    declared = html_text.charset(held) if inputs.ending(file) in html_text.ENDS else None
    tried = ("utf-16",) if is_utf_16 else ("utf-8-sig", *([declared] if declared else []), "cp1252")
    for name in (encoding,) if encoding else tried:
        try:
            text = held.decode(name)
        except LookupError as error:
            raise UserError(f"there is no encoding {name!r}; wanted a name such as latin-1, gbk, shift_jis") from error
        except UnicodeDecodeError as error:
            wrong = f"byte {held[error.start]:#04x} at place {error.start + 1}"
            continue
        if "\0" in text:
            raise UserError(f"{file.name} is no text: it holds NUL characters")
        if name == "cp1252" and not declared and not any("Windows-1252" in note for note in said):
            other = "--encoding NAME reads them as another"
            said[f"{file.name} is no UTF-8: such files are read as Windows-1252; {other}"] = -1
        return text
    todo = "name its encoding: --encoding gbk, say" if not encoding else "name another"
    raise UserError(f"{file.name} is no text in {encoding or 'UTF-8 or Windows-1252'} ({wrong}); {todo}")


class Spelled(float):
    """A JSON number that keeps its spelling: as an answer, 1.10 differs from 1.1."""

    text: str

    def __new__(cls, text: str) -> "Spelled":
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __str__(self) -> str:
        return self.text


def _of_json(
    file: Path, text: str, *, by_line: bool, said: Counter[str], known: frozenset[str]
) -> Iterator[Row | ValueError]:
    """Yield the rows of one JSON value, or of several in sequence, whatever the line breaks.

    With `by_line` a value that is no JSON is one unreadable row; otherwise nothing after it can be read.
    """
    decoder, at = json_text.Decoder(parse_float=Spelled, object_pairs_hook=_object), 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError as error:
            if not by_line:
                line = text.count("\n", 0, getattr(error, "pos", at)) + 1
                raise UserError(f"{file.name} line {line}: no JSON ({error})") from error
            yield UserError(f"no JSON ({error})")
            at = text.find("\n", at) + 1 or len(text)
            continue
        try:
            rows = _in_value(file, value, said, known)
        except ValueError as error:
            if not by_line:
                raise
            rows = (error,)
        yield from rows


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(members)
    if len(made) < len(members):
        raise UserError(f"an object has more than one {_twice(name for name, _ in members)!r}")
    return made


def _twice(names: Iterable[str]) -> str | None:
    """Return the first name that occurs more than once and is not empty."""
    return next((name[:100] for name, count in Counter(names).items() if name and count > 1), None)


def _in_value(file: Path, value: Any, said: Counter[str], known: frozenset[str]) -> Iterable[Row | ValueError]:
    """Return a JSON value's rows: a list, a list in one of its members, members by id, columns, or the value itself."""
    if isinstance(value, list):
        return _objects(file, value)
    if isinstance(value, dict) and _is_viewed(value.get("rows")):
        whole = value.get("num_rows_total")
        if isinstance(whole, int) and whole > len(value["rows"]):
            said[f"{len(value['rows'])} of the {whole} rows that the hub's viewer has"] = -1
        return map(_viewed, value["rows"])
    if not isinstance(value, dict):
        raise UserError(f"{file.name}: rows are wanted, and this is {show(value)}")
    names = {str(name).strip().lower() for name in value}
    columns = [held for name, held in value.items() if name.strip().lower() in known]
    if columns and len(columns) == len(value) and all(isinstance(held, dict) for held in columns):  # pandas' to_json
        found: dict[str, dict[str, Any]] = {}
        for name, cells in value.items():
            for place, cell in cells.items():
                found.setdefault(place, {})[name] = cell
        return list(found.values())
    said_by = [held[0] for held in (value.get("prompt"), value.get("messages")) if isinstance(held, list) and held]
    is_chat = any(isinstance(one, dict) and "role" in one for one in said_by)
    if {*ASKS} & names and not is_chat and all(isinstance(held, list) for held in value.values()):
        lengths = {name: len(held) for name, held in value.items()}
        if len({*lengths.values()}) > 1:
            raise UserError(f"{file.name} has columns of unlike length: {lengths}")
        return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
    if names & known - {"title", *OTHER_SCHEMAS["title"], "q", "a"} or {"q", "a"} <= names:
        return [value]
    lists = [held for held in value.values() if isinstance(held, list) and held and isinstance(held[0], dict)]
    if len(lists) == 1:
        return _objects(file, lists[0])
    if value and all(isinstance(held, dict) for held in value.values()):
        return [{"id": name} | held for name, held in value.items()]
    if len(lists) > 1:
        todo = "put each list into a file of its own"
        raise UserError(f"{file.name} holds {len(lists)} lists of rows, in {', '.join(list(value)[:8])}; {todo}")
    wanted = f"wanted a list of objects, or one object an id {NAMES}"
    raise UserError(f"{file.name} is one JSON object with {', '.join(list(value)[:8])}, which are no rows; {wanted}")


def _objects(file: Path, rows: list[Any]) -> Iterator[Row | ValueError]:
    for row in rows:
        wanted = f"{file.name}: a list of objects is wanted, and it holds {show(row)}"
        yield row if isinstance(row, dict) else UserError(wanted)


def _is_viewed(rows: Any) -> bool:
    """Return True for rows as the hub's viewer gives them: {"row_idx": 0, "row": {...}, "truncated_cells": [...]}."""
    is_list = isinstance(rows, list) and bool(rows)
    return is_list and all(isinstance(one, dict) and isinstance(one.get("row"), dict) for one in rows)


def _viewed(given: Row) -> Row | ValueError:
    if cut := given.get("truncated_cells"):
        return UserError(f"the viewer cut its cells {show(cut)}; get the set's own files")
    return given["row"]


def _separator(head: str, file: Path) -> str:
    """Return the separator that splits the first line into the most columns."""
    marks = sorted(SEPARATORS, key=lambda mark: (mark != "\t") == (file.suffix == ".tsv"))  # which wins a draw
    return max(marks, key=lambda mark: len(next(csv.reader([head], delimiter=mark), [])))


def _is_head(line: str, file: Path) -> bool:
    """Return True if the line has at least two known column names: prose may begin with one."""
    try:
        cells = next(csv.reader([line], delimiter=_separator(line, file)), [])
    except csv.Error:
        return False
    return len({cell.strip().lower() for cell in cells} & KNOWN) > 1


def _of_table(
    file: Path, text: str, said: Counter[str], known: frozenset[str]
) -> Iterator[tuple[int, Row | ValueError]]:
    """Yield the rows by line. A line with more cells than columns is an unreadable row; the missing ones are empty."""
    lines = io.StringIO(text, newline="")  # str.splitlines would cut at U+2028 too
    head = next((line for line in lines if line.strip()), "")
    lines.seek(0)
    before = csv.field_size_limit(limits.MOST_TEXT_CHARS)
    table = None
    try:
        mark = _separator(head, file)
        table = csv.reader(lines, delimiter=mark, skipinitialspace=True, strict=True)
        names = [name.strip() for name in next((row for row in table if any(row)), [])]
        if not {name.lower() for name in names} & known:
            wanted = " or ".join(mark.join(some) for some in (("id", "question", "answers"), ("id", "title", "text")))
            wanted = f"a first line of names, such as {wanted}"
            hint = "; other names: --map (data.map of a run)"
            raise UserError(f"{file.name}: its first line is {head.strip()[:100]!r}; wanted {wanted}{hint}")
        if twice := _twice(names):
            raise UserError(f"{file.name}: more than one column is named {twice!r}; rename all but one")
        said[f"read as a table with {SEPARATORS[mark]} between the columns {', '.join(filter(None, names))}"] = -1
        while True:
            before_row = table.line_num
            try:
                cells = next(table, None)
            except csv.Error as error:
                if table.line_num > before_row + 1:  # a quote that is never closed takes whole rows with it
                    raise
                yield table.line_num, UserError(f"no row of a table ({error}); {QUOTES}")
                continue
            if cells is None:
                break
            if not any(map(str.strip, cells)):
                continue
            if len(cells) > len(names) and any(cells[len(names) :]):
                todo = f'a text that holds {mark!r} stands in quotes: "..."'
                yield table.line_num, UserError(f"{len(cells)} cells, {len(names)} columns; {todo}")
                continue
            row = {name: cell if cell.strip() else None for name, cell in zip(names, cells, strict=False) if name}
            yield table.line_num, row
    except csv.Error as error:
        place = f"{file.name} line {table.line_num if table else 1}"
        raise UserError(f"{place}: no row of a table ({error}); {QUOTES}") from error
    finally:
        csv.field_size_limit(before)
