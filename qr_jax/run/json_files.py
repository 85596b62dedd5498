"""Read and write JSON files: one object per file, or rows of a .jsonl, of bounded size."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qr_jax.errors import UserError
from qr_jax.run import run_files
from qr_jax.settings.json_text import members, parse, parse_or_none
from qr_jax.settings.settings import show

LARGEST_BYTES = 64_000_000  # of a file that holds one object
MOST_NAMES = 2000  # of a row: metrics have some 120

Row = dict[str, Any]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a model's folder. UserError if the file is absent, too large, no JSON or no object."""
    if not path.is_file():
        if not path.parent.is_dir():
            raise UserError(f"there is no folder {path.parent}")
        raise UserError(f"{path.parent.name or path.parent} has no {path.name}; is it a Hugging Face model folder?")
    if path.stat().st_size > LARGEST_BYTES:
        raise UserError(f"{path.name} has {path.stat().st_size} bytes; wanted at most {LARGEST_BYTES}")
    try:
        read = parse(path.read_text(encoding="utf-8"), object_pairs_hook=members)
    except ValueError as error:
        raise UserError(f"{path} is not proper JSON: {error}") from None
    if not isinstance(read, dict):
        raise UserError(f"{path.name} holds a JSON {type(read).__name__}; wanted an object")
    return read


def number(value: Any, name: str, *, above: float, most: float) -> float:
    """Return the value of a setting as a float. ValueError unless it is a number with `above` < value <= `most`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not above < value <= most:
        raise UserError(f"config.json has {name} = {show(value)}; wanted a number above {above:g}, at most {most:g}")
    return float(value)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a value as indented JSON in UTF-8, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    aside = path.with_name(f"{path.name}.new")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def rows(path: Path, *needed: str, nested: bool = False) -> Iterator[Row]:
    """Yield the rows, none where there is no file. ValueError for a line that is no object with the `needed` keys."""
    for number, row in enumerate(readable_rows(path, *needed, nested=nested), 1):
        if row is None:
            wanted = f"an object with {', '.join(needed)}, and at most {MOST_NAMES:,} names"
            raise UserError(f"{path}, line {number}: not what a run writes; wanted {wanted}")
        yield row


def readable_rows(path: Path, *needed: str, nested: bool = False) -> Iterator[Row | None]:
    """Yield, line by line, an object with the `needed` keys; None for all else; nothing where there is no file, or a
    pipe.

    NaN and infinities are None, which a browser's parser does not know. Unless `nested`, members that are objects or
    lists of objects or lists are left out.
    """
    for line in run_files.lines(path) if path.is_file() else ():
        row = parse_or_none(line)
        is_row = isinstance(row, dict) and len(row) <= MOST_NAMES and all(name in row for name in needed)
        # each name once in memory
        yield {sys.intern(name): row[name] for name in row if nested or _is_flat(row[name])} if is_row else None


def _is_flat(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value]
    return not any(isinstance(part, (list, dict)) for part in parts)
