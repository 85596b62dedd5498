"""Say why a file or a line cannot be read as questions or passages, and what makes it so."""

import glob
import itertools
import os
import shlex
from pathlib import Path
from typing import Any

from qr_jax.data import readers
from qr_jax.errors import UserError
from qr_jax.run.run_files import free
from qr_jax.sets import official
from qr_jax.settings import json_text
from qr_jax.settings.settings import nearest

WANTED_LINES = 'wanted JSON lines: an object a line, of a question {"id": "1", "question": "...", "answers": ["..."]}, '
WANTED_LINES += 'of a passage {"id": "1", "title": "...", "text": "..."}'
CONVERT = "`qr-jax data convert FILE NEW.jsonl` writes it so"
GZIP = b"\x1f\x8b"  # what such a file begins with
NO_TEXT = {
    b"PK\x03\x04": "a spreadsheet or document (.xlsx, .docx) or another packed file; save the table as CSV, take the "
    "text out (pandoc), or unpack it",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet or document of Office's; save the table as CSV",
    b"%PDF": "a PDF; take its text out (pdftotext), and cut it into passages",
    b"\xff\xd8\xff": "a picture",
    b"\x89PNG": "a picture",
}
ROWS_IN = ("row", "qas", "paragraphs")  # the hub's viewer has a row in each item, SQuAD many
SYNTHESISED = ("questions.jsonl", "traces.jsonl")  # the names under which synthesis leaves its files
SYNTH = "`qr-jax synth CORPUS {} --teacher URL --model NAME` makes it of passages (--mix paper --documents paper: in "
SYNTH += "the paper's shares; --env: as env.name, for traces)"


def no_file(part: str, file: Path, setting: str | Path) -> str:
    """Say what the word `part` of a setting names, which is no file, and what would do."""
    where = f"(from {str(setting)!r})"
    if part and os.path.isdir(file):
        if readers.index_folder(part) is not None:
            return f"{file} {where} is an index; wanted files, or (of passages) the folder of one index alone"
        todo = f"`qr-jax data convert {shlex.quote(str(file))} NEW.jsonl` makes one of what is in it"
        return f"{file} {where} is a folder; wanted files, or (of passages) the folder of one index alone; {todo}"
    if part and os.path.exists(file):
        return f"{file} {where} is a pipe or a device; wanted a file, which is read twice"
    if part and os.path.islink(file):
        return f"{file} {where} is a link to {os.readlink(file)}, and nothing is there"
    if "://" in part:
        return f"no file {part} {where}; files of questions, passages and traces are read from a disk: copy it to one"
    return f"no file {file if part else '(empty name)'} {where}{_cure(part, file)}"


def _cure(part: str, file: Path) -> str:
    """Return the hint that ends the error of a missing file."""
    if part in official.HUB:
        return f"; `qr-jax data get {part}` fetches that set, and prints the settings that name its files"
    if part in official.NAMES:
        return f"; {official.published(part)}"
    beside = [other.name for other in file.parent.iterdir()] if part and os.path.isdir(file.parent) else []
    made = f"; {SYNTH.format(shlex.quote(str(file.parent)))}" if file.name in SYNTHESISED else ""
    if "{data}" in part:
        return nearest(file.name, beside, shown=0) or f"{made}; {readers.NAME_FILES}"
    if glob.has_magic(part):
        return f"; `qr-jax data convert {shlex.quote(part)} NEW.jsonl` makes one file of those that match"
    where = "" if file.is_absolute() else f"; {readers.LOOKED_FOR} {Path.cwd()}"
    return where + (nearest(file.name, beside, shown=0) or made or "; {data}/... finds files in QR_JAX_DATA")


def no_lines(file: Path) -> str:
    """Say what a file that is no file of lines is, and the command that makes lines of it."""
    return f"{file.name} is a table; {written_anew(file)}"


def of_line(file: Path, line: bytes, number: int, error: Exception) -> UserError:
    """Return the error of a line that is no JSON; raise it if it tells that the whole file is of another kind."""
    if number == 1:
        check_begins(file, line)
        if line.lstrip().startswith(b"["):
            raise UserError(f"{file.name} is one JSON array; {written_anew(file)}")
    if isinstance(error, json_text.TooMany):
        return UserError(f"{error}; a row is one question or one passage: cut it into several")
    if line.startswith(GZIP):
        return UserError("packed by gzip; a file whose name ends in .gz is unpacked as it is read: name it so")
    if b"\0" in line:
        is_utf_16 = 3 * max(line[::2].count(0), line[1::2].count(0)) > len(line)  # of a text mostly of ASCII
        todo = CONVERT if is_utf_16 else "wanted a text of JSON lines"
        return UserError(f"not UTF-8 but {'UTF-16' if is_utf_16 else 'bytes of no text'}, by its NUL bytes; {todo}")
    if isinstance(error, UnicodeDecodeError):
        byte = f"byte {line[error.start]:#04x} at place {error.start + 1} of the line"
        return UserError(f"not UTF-8 ({byte}); {CONVERT}, from Windows-1252 or --encoding NAME")
    todo = f"{CONVERT}, from a table or other JSON"
    if line.startswith(b"{") and (number > 1 or line.rstrip(b" ,\r\n").endswith(b"}")):  # and not one of many lines
        todo = 'names and texts stand in "", and nothing stands behind the object; or get the file again'
    return UserError(f"not a line of JSON ({error}); wanted an object a line; {todo}")


def check_begins(file: Path, begins: bytes) -> None:
    """Raise ValueError if the file begins like a known binary format."""
    if kind := next((kind for mark, kind in NO_TEXT.items() if begins.startswith(mark)), None):
        raise UserError(f"{file.name} is no text but {kind}")


def check_rows(file: Path, value: Any) -> None:
    """Raise ValueError if the first line of a file is JSON that has rows in it, and is none."""
    if isinstance(value, list):
        raise UserError(f"{file.name} is one JSON array; {written_anew(file)}")
    members = value if isinstance(value, dict) else {}
    lists = {name: held[0] for name, held in members.items() if isinstance(held, list) and held}
    for name, row in lists.items():
        if isinstance(row, dict) and {*readers.ROW_HAS, *ROWS_IN} & {part.lower() for part in row}:
            rows = f"{file.name} is one JSON object, whose rows stand in {name!r}"
            raise UserError(f"{rows}; {written_anew(file)}")


def written_anew(file: Path) -> str:
    """Return the hint of an unsupported format: the one wanted, and the command that converts to a new file."""
    new = free(Path(f"{file.name.split('.')[0]}_lines{number or ''}.jsonl") for number in itertools.count())
    return f"{WANTED_LINES}; `qr-jax data convert {shlex.quote(str(file))} {shlex.quote(str(new))}` writes it so"
