"""The files that words of `qr-jax data convert` name: by name, by globs, in folders of documents or of shards."""

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from qr_jax.data import limits, readers
from qr_jax.errors import UserError
from qr_jax.sets import faults, tables, text_files

SHARDS = (".parquet", ".jsonl", *tables.ARROW_ENDS)  # endings of files of rows, and of nothing else
TABLE_ENDS = (".csv", ".tsv")
ROWS = (*SHARDS, ".json", *TABLE_ENDS)
ABOUT = ("README", "LICENSE")  # texts about the files beside them
SPLITS = {"train", "training", "dev", "devel", "val", "valid", "validation", "eval", "test"}
SHOWN = 8  # endings of files that are left out


class Input(NamedTuple):
    """A file, the name that errors and ids give it, and True where it is a document whatever its text looks like."""

    file: Path
    name: str
    is_document: bool = False


def find(words: Sequence[str | Path]) -> tuple[list[Input], list[str]]:
    """Find the files that the words name, in their order, and say what of a folder is left out.

    A word may be several files with commas between them. ValueError: nothing is there, a folder holds documents and
    rows, or the files are of more than one split and were not named one by one with commas.
    """
    said: list[str] = []
    found = [one for word in words for one in _of_word(str(word), said)]
    if len({one.name for one in found}) < len({one.file for one in found}):  # of two words, as a shell's */index.md
        named = _named([one.file for one in found])
        found = [one._replace(is_document=of_word.is_document) for one, of_word in zip(named, found, strict=True)]
    if len(found) > limits.MOST_TEXT_FILES:
        raise UserError(f"{len(found):,} files are named; at most {limits.MOST_TEXT_FILES:,} are taken")
    if len(words) > 1 or "," not in str(words[0]):
        _check_splits(found)
    return found, said


def shards(part: str, file: Path, setting: str | Path) -> list[Path]:
    """Return the files of rows that a glob or a folder in a setting stands for; ValueError if a run reads none there.

    A run reads JSON lines, Parquet and Arrow; `qr-jax data convert` writes other files so.
    """
    is_several = "://" not in part and (os.path.isdir(file) or glob.has_magic(str(file)))
    if not part or not is_several or readers.index_folder(file) is not None:
        raise UserError(faults.no_file(part, file, setting))
    try:
        found = [one.file for one in find([file])[0]]
    except UserError as error:
        raise UserError(f"{error} (from {str(setting)!r})") from error
    if odd := next((one for one in found if ending(one) not in SHARDS), None):
        raise UserError(f"{faults.no_file(part, file, setting)} ({odd.name} is none that a run reads)")
    return found


def ending(path: Path) -> str:
    """Return the end of a file's name without .gz, in small letters."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _of_word(word: str, said: list[str]) -> list[Input]:
    path = readers.file_named(word)
    if readers.index_folder(path) is not None:
        raise UserError(f"{word!r} is an index; convert the files it was made of")
    if path.is_dir():
        shards = tables.saved(path)
        return _of_folder(path, said) if shards is None else [Input(file, file.name) for file in shards]
    if glob.has_magic(str(path)) and not path.exists():
        files = sorted(Path(one) for one in glob.glob(str(path), recursive=True) if os.path.isfile(one))
        if not files:
            raise UserError(f"no file matches {word!r}, looked for from {Path.cwd()}")
        return _named(files)
    return _named(readers.resolve(word))


def _named(files: Sequence[Path]) -> list[Input]:
    """Name each file by its own name; by its path under their common folder where two have one name."""
    above = os.path.commonpath([file.absolute().parent for file in files])
    are_unlike = len({file.name for file in files}) == len(files)
    return [Input(file, file.name if are_unlike else os.path.relpath(file, above)) for file in files]


def _of_folder(folder: Path, said: list[str]) -> list[Input]:
    """Return the folder's documents, or else its shards, or else its tables; what is of none of these is said."""
    names = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    hidden = {name for name in names if any(part.startswith(".") for part in name.parts)}
    seen = [name for name in names if name not in hidden]
    documents = [name for name in seen if ending(name) in text_files.ENDS]
    rows = [name for name in seen if ending(name) in SHARDS] or [name for name in seen if ending(name) in ROWS]
    told = [name for name in documents if name.name.partition(".")[0].upper() not in ABOUT]
    if told and rows and ending(rows[0]) in SHARDS:
        both = f"{len(told)} documents ({told[0]}, ...) and {len(rows)} files of rows ({rows[0]}, ...)"
        globs = " or ".join(repr(f"{folder}/**/*{name.suffix}") for name in (told[0], rows[0]))
        raise UserError(f"{folder} holds {both}; name one kind, as in {globs}")
    chosen = documents if told or not rows else rows
    left = Counter(ending(name) or "no ending" for name in seen if name not in {*chosen})
    left |= Counter({"hidden files": len(hidden)}) if hidden else Counter()
    listed = ", ".join(f"{end} {count}" for end, count in left.most_common(SHOWN))
    listed += f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
    if not chosen:
        wanted = f"documents ({', '.join(text_files.ENDS)}) or files of rows ({', '.join(ROWS)})"
        raise UserError(f"{folder} holds no file that is read{f': {listed}' * bool(listed)}; wanted {wanted}")
    if left:
        todo = "the text of a .pdf or .docx is taken out by pdftotext or pandoc"
        said.append(f"files left out: {left.total()}, by their ending: {listed} ({todo})")
    return [Input(folder / name, str(name), chosen is documents) for name in chosen]


def _check_splits(found: Sequence[Input]) -> None:
    """Raise ValueError where files of rows are of more than one split, which a set for training must not hold."""
    files = [one.file for one in found if not one.is_document]
    if len(files) < 2:
        return
    above = os.path.commonpath([file.absolute().parent for file in files])
    words = (re.findall("[a-z]+", os.path.relpath(file, above).lower()) for file in files)
    splits = Counter(next((word for word in of_file if word in SPLITS), "") for of_file in words)
    del splits[""]
    if len(splits) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in splits.items())
        todo = "convert each split for itself ('FOLDER/train*'), or name all files with commas between them (a,b)"
        raise UserError(f"these files are of more than one split ({counts}); {todo}")
