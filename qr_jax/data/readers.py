"""Read JSONL files (also .gz) and Parquet as queries and passages; split and limit queries by hash.

An unreadable row is an error with the file's name and the row's number; nothing is skipped but empty lines."""

import glob
import gzip
import hashlib
import itertools
import json
import logging
import os
import shlex
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from qr_jax import plugins
from qr_jax.config import SET_PREFIX
from qr_jax.data import arrow, limits, parquet
from qr_jax.data.answer_columns import Unanswerable
from qr_jax.data.formats import show
from qr_jax.data.parsing import Row, passage_of, query_of
from qr_jax.errors import UserError
from qr_jax.records import Passage, Query
from qr_jax.run import bounded_json
from qr_jax.run.run_files import free
from qr_jax.settings.settings import nearest

T = TypeVar("T")
log = logging.getLogger(__name__)
STORED = "passages.bin", "passages.npy"  # the files of an index's passages: their texts, and where each ends
WANTED_LINES = 'wanted JSON lines: an object a line, of a question {"id": "1", "question": "...", "answers": ["..."]}, '
WANTED_LINES += 'of a passage {"id": "1", "title": "...", "text": "..."}'
CONVERT = "`qr-jax data convert FILE NEW.jsonl` writes it so"
TABLE_ENDS = (".csv", ".tsv")
GZIP = b"\x1f\x8b"  # what such a file begins with
NO_TEXT = {
    b"PK\x03\x04": "a spreadsheet or document (.xlsx, .docx) or another packed file; save the table as CSV, take the "
    "text out (pandoc), or unpack it",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet or document of Office's; save the table as CSV",
    b"%PDF": "a PDF; take its text out (pdftotext), and `qr-jax data convert` makes passages of a .txt file",
    b"\xff\xd8\xff": "a picture",
    b"\x89PNG": "a picture",
}
ROW_HAS = ("question", "prompt", "text", "contents")  # one of them
ROWS_IN = ("row", "qas", "paragraphs")  # the hub's viewer has a row in each item, SQuAD many
NAME_DATA = "set QR_JAX_DATA to the data folder"
NAME_FILES = f"name files of your own (data.train=, data.eval=, data.corpus=), or {NAME_DATA}"
LOOKED_FOR = "it is looked for in"
SYNTHESISED = ("questions.jsonl", "traces.jsonl")  # the names under which synthesis leaves its files
SYNTH = "`qr-jax synth CORPUS {} --teacher URL --model NAME` makes it of passages (--mix paper --documents paper: in "
SYNTH += "the paper's shares; --env: as env.name, for traces)"
TWICE = "both rows are the same: leave one out (`qr-jax data convert FILE NEW` takes such rows once)"
UNIQUE = "ids must be unique: rename one, or write where each is from before it, as in 'nq/train_0'"
UNIQUE += "; rows without ids are named by their text in `qr-jax data convert`"


def data_folder() -> Path:
    """Return the folder that `{data}` in a path stands for: QR_JAX_DATA, or shared/data beside the repository.

    An installed package has no repository; the default is then data/ in the working directory.
    """
    repository = Path(__file__).resolve().parents[2]
    beside = repository.parent / "shared" / "data" if (repository / "pyproject.toml").is_file() else Path("data")
    return Path(os.path.expanduser(os.environ.get("QR_JAX_DATA") or beside))


def resolve(path: str | Path) -> list[Path]:
    """Return the files that a setting names (comma-separated; `{data}` is the data folder), or its index folder.

    For `tfds:...` the list is empty. ValueError if a file, or the folder after `@`, is missing.
    """
    if str(path).startswith(SET_PREFIX):
        named = plugins.around("sets.official").parts(str(path))[2]
        if named and not os.path.isdir(named):
            raise UserError(f"no folder {named} (from {str(path)!r}); after @ stands the folder of the official files")
        return []
    folder = index_folder(path)
    if folder is not None:
        return [folder]
    files = []
    for part in str(path).split(","):
        file = Path(os.path.expanduser(part.strip().replace("{data}", str(data_folder()))))
        if part.strip() and os.path.isdir(file):
            found = "a folder" if index_folder(part) is None else "an index"
            wanted = "wanted files, or (of passages) the folder of one index alone"
            if found == "a folder":
                wanted += f"; `qr-jax data convert {shlex.quote(str(file))} NEW.jsonl` makes one of what is in it"
            raise UserError(f"{file} (from {str(path)!r}) is {found}; {wanted}")
        if part.strip() and os.path.exists(file) and not os.path.isfile(file):
            raise UserError(f"{file} (from {str(path)!r}) is a pipe or a device; wanted a file, which is read twice")
        if part.strip() and os.path.islink(file) and not os.path.exists(file):
            raise UserError(f"{file} (from {str(path)!r}) is a link to {os.readlink(file)}, and nothing is there")
        if not part.strip() or not os.path.isfile(file):
            named = str(file) if part.strip() else "(empty name)"
            raise UserError(f"no file {named} (from {str(path)!r}){_cure(part.strip(), file)}")
        files.append(file)
    return files


def _cure(part: str, file: Path) -> str:
    """Return the hint that ends the error of a missing file."""
    official = plugins.around("sets.official")
    if part in official.HUB:
        return f"; `qr-jax data get {part}` fetches that set, and prints the settings that name its files"
    if part in official.NAMES:
        return f"; {official.published(part)}"
    beside = [other.name for other in file.parent.iterdir()] if part and os.path.isdir(file.parent) else []
    made = f"; {SYNTH.format(shlex.quote(str(file.parent)))}" if file.name in SYNTHESISED else ""
    if "{data}" in part:
        return nearest(file.name, beside, shown=0) or f"{made}; {NAME_FILES}"
    if glob.has_magic(part):
        return f"; `qr-jax data convert {shlex.quote(part)} NEW.jsonl` makes one file of those that match"
    where = "" if file.is_absolute() else f"; {LOOKED_FOR} {Path.cwd()}"
    return where + (nearest(file.name, beside, shown=0) or made or "; {data}/... finds files in QR_JAX_DATA")


def read_queries(path: str | Path) -> list[Query]:
    """Read the questions of one or more files, in order: rows {id, question, answers, entities?, ...}, or a peer's.

    `answers` (or `golden_answers`, `answer`) is a text or a list of texts; every other column goes into `meta`. A gold
    answer that normalises to nothing ("the", "$") could never score and is refused. If the question has other golds, it
    goes to `meta["refused_answers"]`, with a line in the log; otherwise it is an error, as is a repeated id.
    `tfds:NAME[:SPLIT][@FOLDER]` names a set (official.py).
    """
    if str(path).startswith(SET_PREFIX):
        rows = plugins.around("sets.qa_builders").read(str(path))
        return [rows[at] for at in range(len(rows))]
    if (stored := index_folder(path)) is not None:
        raise UserError(f"{stored} is an index of passages, and questions are wanted; name their file")
    queries = read(path, query_of, lambda query: query.id)
    refused = [(query.id, *query.meta["refused_answers"]) for query in queries if "refused_answers" in query.meta]
    if refused:
        log.warning("%s: answers that normalise to nothing were refused (id, answers): %s", path, refused)
    return queries


def read_passages(path: str | Path) -> Sequence[Passage]:
    """Read the passages of corpus files: {id, title?, text}, or Search-R1's {id, contents: '"Title"\\ntext'}.

    A folder made by `qr-jax index` is a corpus too: its passages stay on disk, and must match its manifest.
    `tfds:NAME[:SPLIT][@FOLDER]` names the passages of a set (official.py), of all splits unless one is named.
    """
    if str(path).startswith(SET_PREFIX):
        return plugins.around("sets.qa_builders").read_contexts(str(path))
    folder = index_folder(path)
    if folder is None:
        return read(path, passage_of, lambda passage: passage.id)
    return plugins.around("search.bm25_index").passages(folder)


def index_folder(path: str | Path) -> Path | None:
    """Return the folder of stored passages that a setting names; None if it names anything else."""
    folder = Path(os.path.expanduser(str(path).strip().replace("{data}", str(data_folder()))))
    return folder if any(os.path.isfile(folder / name) for name in STORED) else None


def read(path: str | Path, make: Callable[[Row], T], key: Callable[[T], str]) -> list[T]:
    """Read all rows of the files that a setting names, made by `make`; ValueError names file and row of a fault.

    A repeated id is a fault. Questions whose row says that they have no answer are left out, and counted in the log.
    """
    items, seen, unanswerable = [], {}, 0

    def answerable(row: Row) -> T | None:
        try:
            return make(row)
        except Unanswerable:
            return None

    for where, item in stream(resolve(path), answerable):
        if item is None:
            unanswerable += 1
            continue
        if key(item) in seen:
            first, other = seen[key(item)]
            raise UserError(f"{where}: id {key(item)!r} stands in {first} too; {TWICE if item == other else UNIQUE}")
        seen[key(item)] = where, item
        items.append(item)
    if unanswerable:
        log.warning("%s: %d questions left out, whose rows say that they have no answer", path, unanswerable)
    if not items:
        raise UserError(f"{path} has no rows{' of questions that have an answer' * bool(unanswerable)}")
    return items


def stream(files: Sequence[Path], make: Callable[[Row], T]) -> Iterator[tuple[str, T]]:
    """Yield ("FILE row N", `make(row)`) of every row, one at a time; a ValueError begins with that place."""
    names = [file.name for file in files]
    for file in files:
        shown = file.name if names.count(file.name) == 1 else file
        for number, row in rows(file):
            where = f"{shown} row {number}"
            try:
                item = make(row)
            except ValueError as error:
                raise UserError(f"{where}: {error}") from error
            yield where, item


def rows(file: Path) -> Iterator[tuple[int, Row]]:
    """Yield (row number from 1, object) of every line that is not empty; ValueError names the first unreadable row."""
    for number, row in attempts(file):
        if isinstance(row, ValueError):
            raise UserError(f"{file.name} row {number}: {row}") from row
        yield number, row


def attempts(file: Path) -> Iterator[tuple[int, Row | ValueError]]:
    """Yield (row number from 1, object or its ValueError) of every line that is not empty.

    Raises ValueError if the file is damaged or exceeds limits.py.
    """
    if file.suffix == ".parquet":
        yield from parquet.rows(file)
        return
    if file.suffix in TABLE_ENDS:
        raise UserError(f"{file.name} is a table; {_written_anew(file)}")
    if file.suffix in arrow.ENDS:
        raise UserError(f"{file.name} is an Arrow file; {_written_anew(file)}")
    number = taken_bytes = 0
    most = limits.most_bytes(file)
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(limits.MOST_ROW_BYTES + 1), b""), 1):
                if number == 1:
                    check_text_begins(file, line)
                if number == 1 and line.lstrip().startswith(b"["):
                    raise UserError(f"{file.name} is one JSON array; {_written_anew(file)}")
                limits.check_row(file, len(line), f"row {number}")
                taken_bytes += len(line) + limits.ITEM_BYTES * (1 + sum(map(line.count, (b",", b"[", b"{"))))
                limits.check_unpacked(file, taken_bytes, most, f"row {number}")
                if line.strip():
                    row = _object(line, number)
                    if number == 1 and (name := _name_of_rows(row)):
                        found = f"{file.name} is one JSON object, whose rows stand in {name!r}"
                        raise UserError(f"{found}; {_written_anew(file)}")
                    yield number, row
    except gzip.BadGzipFile as error:
        if number:
            raise UserError(f"{file.name} after row {number}: the gzip file is damaged ({error})") from error
        raise UserError(f"{file.name} is no gzip file; pack it (gzip FILE), or take .gz from its name") from error
    except (EOFError, zlib.error) as error:
        raise UserError(f"{file.name} after row {number}: the gzip file is cut short or damaged ({error})") from error


def check_text_begins(file: Path, begins: bytes) -> None:
    """Raise ValueError if the file begins like a known binary format."""
    if kind := next((kind for mark, kind in NO_TEXT.items() if begins.startswith(mark)), None):
        raise UserError(f"{file.name} is no text but {kind}")


def _name_of_rows(row: Row | ValueError) -> str | None:
    """Return the member of a non-row object under which a list of rows, or of objects with rows, stands."""
    if isinstance(row, ValueError) or any(name in row for name in ROW_HAS):
        return None
    lists = (name for name, held in row.items() if isinstance(held, list) and held and isinstance(held[0], dict))
    return next((name for name in lists if {*ROW_HAS, *ROWS_IN} & {part.lower() for part in row[name][0]}), None)


def _written_anew(file: Path) -> str:
    """Return the hint of an unsupported format: the one wanted, and the command that converts to a new file."""
    new = free(Path(f"{file.name.split('.')[0]}_lines{number or ''}.jsonl") for number in itertools.count())
    return f"{WANTED_LINES}; `qr-jax data convert {shlex.quote(str(file))} {shlex.quote(str(new))}` writes it so"


def _object(line: bytes, number: int) -> Row | ValueError:
    try:
        if len(line) > limits.MOST_ROW_ITEMS:
            bounded_json.check_items(line, limits.MOST_ROW_ITEMS, "the row")
        if line.startswith(GZIP):
            return UserError("packed by gzip; a file whose name ends in .gz is unpacked as it is read: name it so")
        if b"\0" in line:
            is_utf_16 = 3 * max(line[::2].count(0), line[1::2].count(0)) > len(line)  # of a text mostly of ASCII
            todo = CONVERT if is_utf_16 else "wanted a text of JSON lines"
            return UserError(f"not UTF-8 but {'UTF-16' if is_utf_16 else 'bytes of no text'}, by its NUL bytes; {todo}")
        row = json.loads(line)
    except UnicodeDecodeError as error:
        byte = f"byte {line[error.start]:#04x} at place {error.start + 1} of the line"
        return UserError(f"not UTF-8 ({byte}); {CONVERT}, from Windows-1252 or --encoding NAME")
    except bounded_json.TooMany as error:
        return UserError(f"{error}; a row is one question or one passage: cut it into several")
    except (ValueError, RecursionError) as error:
        todo = f"{CONVERT}, from a table, other JSON or plain text"
        if line.startswith(b"{") and (number > 1 or line.rstrip(b" ,\r\n").endswith(b"}")):  # and not one of many lines
            todo = 'names and texts stand in "", and nothing stands behind the object; or get the file again'
        return UserError(f"not a line of JSON ({error}); wanted an object a line; {todo}")
    return row if isinstance(row, dict) else UserError(f"a JSON object is wanted, and this is {show(row)}")


def split(queries: Sequence[Query], share: float, part: Literal["train", "eval"]) -> list[Query]:
    """Return the queries that the hash of their id assigns to a part: independent of the machine and of other queries.

    A query trains when the first 8 hexadecimal digits of SHA-256 of its id, as a fraction of 2^32, are below `share`.
    """
    if not 0 <= share <= 1:
        raise UserError(f"the training share must lie between 0 and 1, and is {share}")
    if part not in ("train", "eval"):
        raise UserError(f"a split's part is 'train' or 'eval', not {part!r}")
    return [query for query in queries if (int(digest(query)[:8], 16) / 2**32 < share) == (part == "train")]


def half(queries: Sequence[Query], which: Literal["both", "a", "b"]) -> list[Query]:
    """Return the queries whose id's SHA-256 ends in an even digit (a) or an odd one (b), in their own order."""
    return [query for query in queries if which == "both" or (int(digest(query)[-1], 16) % 2 == 0) == (which == "a")]


def first(queries: Sequence[Query], n: int | None) -> list[Query]:
    """Return the `n` queries whose ids have the smallest SHA-256, in that order; None: all, in their own order."""
    return list(queries) if n is None else sorted(queries, key=digest)[:n]


def digest(query: Query) -> str:
    return hashlib.sha256(query.id.encode()).hexdigest()
