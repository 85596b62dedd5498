"""Parquet files as rows, read in pieces and written whole."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PIECE_ROWS = 1024
DAMAGED = (OSError, ValueError, OverflowError)  # what pyarrow raises beside its own, of a damaged file


def rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, object) of every row. What is null is left out, as in JSON lines it would not stand there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for piece in pq.ParquetFile(file).iter_batches(batch_size=PIECE_ROWS):
            for row in piece.to_pylist():
                number += 1
                yield number, _without_nulls(row)
    except (pa.ArrowException, *DAMAGED) as error:
        raise ValueError(f"{file.name} after row {number}: not a whole Parquet file ({error})") from error


def count(file: Path) -> int:
    """How many rows the file says it has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file).metadata.num_rows
    except (pa.ArrowException, *DAMAGED) as error:
        raise ValueError(f"{file.name}: not a whole Parquet file ({error})") from error


def write(file: Path, made: Sequence[Mapping[str, Any]]) -> None:
    """All of the file or nothing. ValueError where a column would hold values of different kinds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = dict.fromkeys(name for row in made for name in row)  # pyarrow alone would take the first row's
    try:
        table = pa.table({name: [row.get(name) for row in made] for name in names})
    except pa.ArrowException as error:
        raise ValueError(f"{file.name} cannot be Parquet: values of different kinds in a column ({error})") from error
    beside = file.with_name(f".{file.name}.tmp")
    pq.write_table(table, beside)
    os.replace(beside, file)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value
