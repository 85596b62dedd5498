"""Read Parquet and Arrow files as rows, in pieces, and write Parquet. Reads the folders of `Dataset.save_to_disk` too.

A text that stands in many rows is stored once, so neither a file's size nor its footer bounds what its rows take in
memory. Texts are read as pyarrow dictionaries, which hold such a text once, and are measured before they are made.
pyarrow copies the dictionary of a row group for each piece of it, so large groups are read plainly, a few rows at a
time."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qr_jax.data import limits
from qr_jax.errors import UserError
from qr_jax.settings import json_text

MAGIC = b"PAR1"  # what a Parquet file begins with
PIECE_ROWS = 1024  # or one, where so many take more than a row may
PLAIN_PIECE_ROWS = 16
BUFFER_BYTES = 65_536  # of a column, while nothing of it is read
PLAIN_GROUP_BYTES = 64_000_000  # groups of more than this are large: pyarrow's own writer makes them of a million rows
PLAIN_TIMES_PACKED = 50  # a file that unpacks to more than so many times its bytes is never read plainly
ARROW_ENDS = (".arrow", ".feather")
STATE, SPLITS = "state.json", "dataset_dict.json"  # of a saved data set, and of several as its splits
INDICES = ("_indices_data_files", "_indices_files")  # of a selection or a shuffle; newer versions write its rows anew
MOST_STATE_BYTES = 10_000_000
DAMAGED = (OSError, ValueError, OverflowError)  # what pyarrow raises beside its own, of a damaged file


def rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number from 1, object) of every row of a .parquet file, or of an Arrow file of any other name.

    Nulls are left out: JSON lines would not have them either. ValueError if the file is damaged, exceeds limits.py, or
    has a value that Python cannot represent.
    """
    import pyarrow as pa

    kind, pieces = ("Parquet", _parquet) if file.suffix == ".parquet" else ("Arrow", _arrow)
    number = 0
    try:
        for number, row in _rows_of(file, pieces(file), limits.most_bytes(file)):
            yield number, row
    except UserError:
        raise
    except (pa.ArrowException, *DAMAGED) as error:
        raise UserError(f"{file.name} after row {number}: not a whole {kind} file ({error})") from error


def _parquet(file: Path) -> Iterator[Any]:
    """Yield the file's rows as record batches: UserError if it is no Parquet, or unpacks to more than is taken."""
    import pyarrow.parquet as pq

    with file.open("rb") as opened:
        if (first := opened.read(len(MAGIC))) != MAGIC:
            other = "; wanted JSON lines under a name that ends in .jsonl, or Parquet (pandas: to_parquet)"
            raise UserError(f"{file.name} is no Parquet file, by its first bytes {first!r}{other}")
    with pq.ParquetFile(file, buffer_size=BUFFER_BYTES) as opened:
        unpacked_G = _unpacked_bytes(opened)
        limits.check_unpacked(file, sum(unpacked_G), limits.most_bytes(file), "as its footer says")
        columns = [opened.schema.column(at) for at in range(len(opened.schema))]
        texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    is_large = max(unpacked_G, default=0) > PLAIN_GROUP_BYTES
    is_plain = is_large and sum(unpacked_G) <= PLAIN_TIMES_PACKED * file.stat().st_size
    with pq.ParquetFile(file, read_dictionary=[] if is_plain else texts) as opened:
        yield from opened.iter_batches(batch_size=PLAIN_PIECE_ROWS if is_plain else PIECE_ROWS)


def _unpacked_bytes(opened: Any) -> list[int]:
    """Return the unpacked bytes of each row group by the footer, where a dictionary counts once, each value as an item.

    This bounds what pyarrow must unpack for a first row: whole pages, and all values in one row's lists.
    """
    metadata, unpacked_G = opened.metadata, []
    columns = list(range(metadata.num_columns))
    for number in range(metadata.num_row_groups if columns else 0):
        # A column's damaged facts raise an error here; in `column` below they would end the process (pyarrow 26).
        # So would a batch of no rows where there are no columns.
        list(opened.reader.iter_batches(0, row_groups=[number], column_indices=columns))
        group = metadata.row_group(number)
        chunks = [(group.column(at), metadata.schema.column(at).length or 0) for at in columns]
        values = sum(chunk.num_values * (limits.ITEM_BYTES + length) for chunk, length in chunks)
        unpacked_G.append(values + sum(chunk.total_uncompressed_size for chunk, _ in chunks))
    return unpacked_G


def _arrow(file: Path) -> Iterator[Any]:
    """Yield the batches of an Arrow file or stream, each checked: a damaged one's offsets would lead out of it."""
    import pyarrow as pa

    with pa.memory_map(str(file)) as opened:
        is_file = opened.read(6) == b"ARROW1"  # with a table of its batches at the end; a stream has none
        opened.seek(0)
        reader: Any = pa.ipc.open_file(opened) if is_file else pa.ipc.open_stream(opened)
        for batch in (reader.get_batch(at) for at in range(reader.num_record_batches)) if is_file else reader:
            batch.validate(full=True)
            yield from (batch.slice(start, PIECE_ROWS) for start in range(0, batch.num_rows, PIECE_ROWS))


def _rows_of(file: Path, pieces: Iterable[Any], most: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number from 1, object) of the rows of record batches, each measured before Python objects are made.

    Nulls are left out. TooLarge if a row exceeds limits.py, or all rows together take more than `most` bytes.
    """
    number = taken_bytes = 0
    for piece in pieces:
        step = PIECE_ROWS if _python_bytes(piece) <= limits.MOST_ROW_BYTES else 1
        for part in (piece.slice(start, step) for start in range(0, piece.num_rows, step)):
            part_bytes, place = _python_bytes(part), f"row {number + 1}"
            limits.check_row(file, part_bytes, place)
            taken_bytes += part_bytes
            limits.check_unpacked(file, taken_bytes, most, place)
            for row in _python_rows(part, file.name, number):
                number += 1
                yield number, _without_nulls(row)


def _python_rows(part: Any, file: str, before: int) -> list[dict[str, Any]]:
    """Return the rows of a piece that follows `before` rows. UserError names the column."""
    import pyarrow as pa

    try:
        return _decoded(part).to_pylist()
    except (pa.ArrowException, *DAMAGED) as error:
        place = f"{file} rows {before + 1} to {before + part.num_rows}"
        for column in part.schema.names:
            try:
                _decoded(part.select([column])).to_pylist()
            except (pa.ArrowException, *DAMAGED):
                place += f", column {column!r} ({part.schema.field(column).type})"
                break
        wanted = "texts in UTF-8, numbers, lists, objects, or times of whole microseconds in the years 1 to 9999"
        raise UserError(f"{place}: a value that is not read ({error}); wanted {wanted}") from error


def _decoded(part: Any) -> Any:
    """Return the same rows with plain columns, which pyarrow turns into Python values much faster."""
    import pyarrow as pa

    columns = [array.dictionary_decode() if pa.types.is_dictionary(array.type) else array for array in part.columns]
    for at, array in enumerate(columns):  # pandas' times have nanoseconds, which Python's have not
        if pa.types.is_timestamp(array.type) and array.type.unit == "ns":
            columns[at] = array.cast(pa.timestamp("us", array.type.tz), safe=False)
    return pa.RecordBatch.from_arrays(columns, part.schema.names)


def _python_bytes(piece: Any) -> int:
    """Estimate the bytes that a piece's rows take in Python, where each text counts each time it occurs.

    `len` of a piece fails if a damaged footer gives it a negative number of rows; `num_rows` does not.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    size, waiting = limits.ITEM_BYTES * piece.num_rows, list(piece.columns)
    while waiting:
        array = waiting.pop()
        size += limits.ITEM_BYTES * len(array)
        if pa.types.is_dictionary(array.type) and not pa.types.is_primitive(array.type.value_type):
            lengths = pc.binary_length(array.dictionary).take(array.indices)  # type: ignore[attr-defined]
            size += pc.sum(lengths).as_py() or 0  # type: ignore[attr-defined]
        elif pa.types.is_map(array.type):
            start, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
            waiting += [array.keys.slice(start, end - start), array.items.slice(start, end - start)]
        elif pa.types.is_nested(array.type):
            inner = array.flatten()
            waiting += inner if isinstance(inner, list) else [inner]
        else:
            size += array.nbytes
    return size


def count(file: Path) -> int:
    """Return the number of rows by the file's footer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file).metadata.num_rows
    except (pa.ArrowException, *DAMAGED) as error:
        raise UserError(f"{file.name}: not a whole Parquet file ({error})") from error


def write(file: Path, made: Sequence[Mapping[str, Any]]) -> None:
    """Write the file, all or nothing. ValueError if a column would hold values of different kinds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = dict.fromkeys(name for row in made for name in row)  # pyarrow alone would take the first row's
    try:
        table = pa.table({name: [row.get(name) for row in made] for name in names})
        beside = file.with_name(f".{file.name}.tmp")
        try:
            pq.write_table(table, beside)
            os.replace(beside, file)
        finally:
            beside.unlink(missing_ok=True)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        found = "values of different kinds in a column, or one that none can hold"
        raise UserError(f"{file.name} cannot be Parquet: {found} ({error}); JSON lines take all") from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def saved(folder: Path) -> list[Path] | None:
    """Return the Arrow files of a folder that `save_to_disk` wrote, in their order; None for any other folder.

    ValueError: it holds several splits, a file is missing, or the rows stand in another order than the files say.
    """
    if (folder / SPLITS).is_file():
        splits = _listed(folder / SPLITS, "splits")
        todo = f"name one of them, as in {folder / str(splits[0]) if splits else folder}"
        raise UserError(f"{folder} holds the splits {', '.join(map(str, splits)) or '(none)'} of a data set; {todo}")
    if not (folder / STATE).is_file():
        return None
    if any(_listed(folder / STATE, name) for name in INDICES):
        todo = "in Python, with the version of datasets that wrote it: load_from_disk(FOLDER).flatten_indices()"
        todo += ".save_to_disk(NEW); newer versions take the files' rows as they stand"
        raise UserError(f"{folder} is a selection of the rows of its files, which is not read; {todo}")
    names = [one.get("filename") if isinstance(one, dict) else one for one in _listed(folder / STATE, "_data_files")]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise UserError(f"{folder / STATE} names the file {name!r}, which is not in its folder; copy it again")
    return [folder / str(name) for name in names]


def _listed(file: Path, name: str) -> list[Any]:
    """Return the list under that name; none where it is null or absent."""
    try:
        found = json_text.parse(file.read_bytes()[:MOST_STATE_BYTES])
        held = found.get(name) or []
        if isinstance(held, list):
            return held
    except (ValueError, AttributeError):
        pass
    raise UserError(f"{file} is damaged, or is none of those that save_to_disk writes; copy the folder again")
