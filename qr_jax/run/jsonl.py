"""The rows of a run's .jsonl files, an object a line, read as they are asked for and at a bounded cost."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qr_jax.errors import UserError
from qr_jax.run import run_files

MOST_NAMES = 2000  # of a row: metrics have some 120

Row = dict[str, Any]


def every(path: Path, *needed: str) -> Iterator[Row]:
    """Yield the rows, none where there is no file. ValueError for a line that is no object with the `needed` keys."""
    for number, row in enumerate(readable(path, *needed), 1):
        if row is None:
            wanted = f"an object with {', '.join(needed)}, and at most {MOST_NAMES:,} names"
            raise UserError(f"{path}, line {number}: not what a run writes; wanted {wanted}")
        yield row


def readable(path: Path, *needed: str, nested: bool = False) -> Iterator[Row | None]:
    """Yield, line by line, an object with the `needed` keys; None for all else; nothing where there is no file, or a
    pipe.

    NaN and infinities are None, which a browser's parser does not know. Where rows are not `nested`, what is neither a
    value nor a list of them is left out.
    """
    for line in run_files.lines(path) if path.is_file() else ():
        row = parsed(line)
        is_row = isinstance(row, dict) and len(row) <= MOST_NAMES and all(name in row for name in needed)
        # each name once in memory
        yield {sys.intern(name): row[name] for name in row if nested or _is_flat(row[name])} if is_row else None


def parsed(text: bytes) -> Any:
    """Return the JSON value, NaN and infinities as None; None for no JSON."""
    try:
        return json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
    except (ValueError, RecursionError):
        return None


def _finite(text: str) -> float | None:
    value = float(text)  # 1e400 is infinite, and no constant
    return value if math.isfinite(value) else None


def _is_flat(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value]
    return not any(isinstance(part, (list, dict)) for part in parts)
