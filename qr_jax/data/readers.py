"""Read JSONL files (also .gz) as queries and passages; split and limit queries by hash.

sets/ reads Parquet, question sets and other systems' rows. An unreadable row is an error with the file's name and the
row's number; only empty lines, and questions whose row says that they have no answer, are left out."""

import gzip
import hashlib
import logging
import os
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from qr_jax import plugins
from qr_jax.config import SET_PREFIX
from qr_jax.data import limits
from qr_jax.data.parsing import Row, Unanswerable, passage_of, query_of, show
from qr_jax.errors import UserError
from qr_jax.records import Passage, Query
from qr_jax.settings import json_text

T = TypeVar("T")
log = logging.getLogger(__name__)
STORED = "passages.bin", "passages.npy"  # an index's files of passages: the texts, and the offset where each ends
ARROW = (".arrow", ".feather")
NO_LINES = (".csv", ".tsv")  # `qr-jax data convert` makes lines of such files
ROW_HAS = {"question", "prompt", "text", "contents"}  # one of them
NAME_DATA = "set QR_JAX_DATA to the data folder"
NAME_FILES = f"name files of your own (data.train=, data.eval=, data.corpus=), or {NAME_DATA}"
LOOKED_FOR = "it is looked for in"
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

    A glob or a folder stands for its shards, in order (sets/inputs.py).

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
    for part in map(str.strip, str(path).split(",")):
        file = file_named(part)
        if part and os.path.isfile(file):
            files.append(file)
        else:
            files += plugins.around("sets.inputs").shards(part, file, path)
    return files


def file_named(part: str) -> Path:
    """Return the path of one part of a setting, with `~` and `{data}` filled in."""
    return Path(os.path.expanduser(part.strip().replace("{data}", str(data_folder()))))


def read_queries(path: str | Path) -> list[Query]:
    """Read questions from one or more files, in order: rows {id, question, answers, entities?, ...} or others' formats.

    `answers` (or `golden_answers`, `answer`) is a text or a list of texts; every other column goes into `meta`. A gold
    answer that normalises to nothing ("the", "$") could never score and is refused. If the question has other golds, it
    goes to `meta["refused_answers"]`, with a line in the log; otherwise it is an error, as is a repeated id.
    `tfds:NAME[:SPLIT][@FOLDER]` names a set (sets/official.py).
    """
    if str(path).startswith(SET_PREFIX):
        rows = plugins.around("sets.qa_builders").read(str(path))
        return [rows[at] for at in range(len(rows))]
    if (stored := index_folder(path)) is not None:
        raise UserError(f"{stored} is an index of passages, and questions are wanted; name their file")
    queries = read(path, query_of, lambda query: query.id)
    tell_refused(path, queries)
    return queries


def tell_refused(path: str | Path, queries: Sequence[Query]) -> None:
    """Log the gold answers that were refused because they normalise to nothing."""
    refused = [(query.id, *query.meta["refused_answers"]) for query in queries if "refused_answers" in query.meta]
    if refused:
        log.warning("%s: answers that normalise to nothing were refused (id, answers): %s", path, refused)


def read_passages(path: str | Path) -> Sequence[Passage]:
    """Read the passages of corpus files: {id, title?, text}, or Search-R1's {id, contents: '"Title"\\ntext'}.

    A folder made by `qr-jax index` is a corpus too: its passages stay on disk, and must match its manifest.
    `tfds:NAME[:SPLIT][@FOLDER]` names a set's passages (sets/official.py), those of all splits unless one is named.
    """
    if str(path).startswith(SET_PREFIX):
        return plugins.around("sets.qa_builders").read_contexts(str(path))
    folder = index_folder(path)
    if folder is None:
        return read(path, passage_of, lambda passage: passage.id)
    return plugins.around("search.bm25_index").passages(folder)


def index_folder(path: str | Path) -> Path | None:
    """Return the folder of stored passages that a setting names; None if it names anything else."""
    folder = file_named(str(path))
    return folder if any(os.path.isfile(folder / name) for name in STORED) else None


def is_files(path: str | Path) -> bool:
    """Return True for what names files of rows, False for a set (tfds:) or an index."""
    return not str(path).startswith(SET_PREFIX) and index_folder(path) is None


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


def attempts(file: Path, also: Collection[str] = ()) -> Iterator[tuple[int, Row | ValueError]]:
    """Yield (row number from 1, object or its ValueError) of every line that is not empty.

    The first row must have one of the columns ROW_HAS or `also`. Raises ValueError if the file is damaged or
    exceeds limits.py.
    """
    if file.suffix == ".parquet" or file.suffix in ARROW:
        yield from plugins.around("sets.tables").rows(file)
        return
    if file.suffix in NO_LINES:
        raise UserError(plugins.around("sets.faults").no_lines(file))
    number = taken_bytes = 0
    most = limits.most_bytes(file)
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(limits.MOST_ROW_BYTES + 1), b""), 1):
                limits.check_row(file, len(line), f"row {number}")
                taken_bytes += len(line) + limits.ITEM_BYTES * (1 + sum(map(line.count, (b",", b"[", b"{"))))
                limits.check_unpacked(file, taken_bytes, most, f"row {number}")
                if line.strip():
                    yield number, _object(file, line, number, also)
    except gzip.BadGzipFile as error:
        if number:
            raise UserError(f"{file.name} after row {number}: the gzip file is damaged ({error})") from error
        raise UserError(f"{file.name} is no gzip file; pack it (gzip FILE), or take .gz from its name") from error
    except (EOFError, zlib.error) as error:
        raise UserError(f"{file.name} after row {number}: the gzip file is cut short or damaged ({error})") from error


def _object(file: Path, line: bytes, number: int, also: Collection[str]) -> Row | ValueError:
    """Return a line's object, or its error; UserError if the first line shows that the file has no rows at all."""
    try:
        if len(line) > limits.MOST_ROW_ITEMS:
            json_text.check_items(line, limits.MOST_ROW_ITEMS, "the row")
        if b"\0" in line:  # json.loads would read UTF-16
            raise UserError("NUL bytes")
        row = json_text.parse(line)
    except ValueError as error:
        faults = plugins.around("sets.faults", optional=True)
        return faults.of_line(file, line, number, error) if faults else UserError(f"not a line of JSON ({error})")
    is_row = isinstance(row, dict) and ROW_HAS.union(also) & row.keys()
    if number == 1 and not is_row and (faults := plugins.around("sets.faults", optional=True)):
        faults.check_rows(file, row)
    return row if isinstance(row, dict) else UserError(f"a JSON object is wanted, and this is {show(row)}")


def split(queries: Sequence[Query], share: float, part: Literal["train", "eval"]) -> list[Query]:
    """Return the queries that the hash of their id assigns to a part: independent of the machine and of other queries.

    A query trains when the first 8 hexadecimal digits of SHA-256 of its id, as a fraction of 2^32, are below `share`.
    """
    return [query for query in queries if (int(digest(query)[:8], 16) / 2**32 < share) == (part == "train")]


def half(queries: Sequence[Query], which: Literal["both", "a", "b"]) -> list[Query]:
    """Return the queries whose id's SHA-256 ends in an even digit (a) or an odd one (b), in their own order."""
    return [query for query in queries if which == "both" or (int(digest(query)[-1], 16) % 2 == 0) == (which == "a")]


def first(queries: Sequence[Query], n: int | None) -> list[Query]:
    """Return the `n` queries whose ids have the smallest SHA-256, in that order; None: all, in their own order."""
    return list(queries) if n is None else sorted(queries, key=digest)[:n]


def digest(query: Query) -> str:
    """Return the SHA-256 of a query's id, by which questions are dealt."""
    return hashlib.sha256(query.id.encode()).hexdigest()
